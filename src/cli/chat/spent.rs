//! What a chat has cost.

use crate::engine::ports::{TurnReport, Usage};

/// What the turns of this chat have cost so far.
#[derive(Debug, Default)]
pub(super) struct Spent {
    turns: u64,
    tokens: Usage,
    /// Some turn has told its tokens.
    counted: bool,
    /// In US dollars, as far as runtimes tell.
    cost_usd: Option<f64>,
}

impl Spent {
    pub(super) fn add(&mut self, report: &TurnReport) {
        self.turns += 1;
        if let Some(usage) = report.usage {
            self.tokens.hit = self.tokens.hit.saturating_add(usage.hit);
            self.tokens.miss = self.tokens.miss.saturating_add(usage.miss);
            self.tokens.output = self.tokens.output.saturating_add(usage.output);
            self.counted = true;
        }
        if let Some(cost) = report.cost_usd {
            *self.cost_usd.get_or_insert(0.0) += cost;
        }
    }

    pub(super) fn text(&self) -> String {
        let Usage { hit, miss, output } = self.tokens;
        let turns = if self.turns == 1 { "1 turn".to_owned() } else { format!("{} turns", self.turns) };
        let input = hit.saturating_add(miss);
        let tokens = if self.counted {
            format!("{input} tokens in ({hit} from the cache), {output} out")
        } else {
            "the runtime tells no tokens".to_owned()
        };
        let cost = self.cost_usd.map(|cost| format!(", ${cost:.4}")).unwrap_or_default();
        format!("{turns}, {tokens}{cost}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_runtime_tells_is_not_shown_as_nothing() {
        let spent = Spent { turns: 1, ..Spent::default() };
        assert_eq!(spent.text(), "1 turn, the runtime tells no tokens");
        let tokens = Usage { hit: 1, miss: 2, output: 3 };
        let spent = Spent { turns: 2, tokens, counted: true, cost_usd: Some(0.5) };
        assert_eq!(spent.text(), "2 turns, 3 tokens in (1 from the cache), 3 out, $0.5000");
    }
}
