//! Sums over turns: by day and agent and runtime, and by conversation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::TurnUsage;
use crate::time;

/// Days that are kept apart; what is older is in one sum for each agent and runtime.
pub const DAYS: usize = 400;
/// Conversations that are kept apart, by their last turn; the others are in one sum for each agent.
pub const CONVERSATIONS: usize = 2_000;

/// What some turns have cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub turns: u64,
    /// How many of them failed or were cancelled.
    #[serde(default)]
    pub failed: u64,
    /// Their time, in milliseconds.
    #[serde(default)]
    pub ms: u64,
    /// How many of them told their tokens.
    #[serde(default)]
    pub counted: u64,
    /// Input tokens read from the provider's cache.
    #[serde(default)]
    pub hit: u64,
    /// Other input tokens.
    #[serde(default)]
    pub miss: u64,
    /// Output tokens.
    #[serde(default)]
    pub output: u64,
    /// In US dollars, over the turns whose runtime told it; `None` when none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
}

impl Sum {
    /// Adds other turns.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.turns, other.turns),
            (&mut self.failed, other.failed),
            (&mut self.ms, other.ms),
            (&mut self.counted, other.counted),
            (&mut self.hit, other.hit),
            (&mut self.miss, other.miss),
            (&mut self.output, other.output),
        ];
        for (sum, more) in pairs {
            *sum = sum.saturating_add(more);
        }
        if let Some(cost) = other.cost_usd {
            *self.cost_usd.get_or_insert(0.0) += cost;
        }
    }
}

/// What one agent has spent with one runtime on one day, or in one conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spending {
    /// The day (`2026-01-31`, UTC), or the conversation; empty for all that are not kept apart.
    pub name: String,
    /// Agent.
    pub agent: String,
    /// Runtime id; empty in a conversation, which may have had several.
    #[serde(default)]
    pub runtime: String,
    /// The last turn (Unix milliseconds).
    pub last: i64,
    /// What it cost.
    pub sum: Sum,
}

/// All sums.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Version of the format.
    pub version: u8,
    /// Number of the last line that is in them.
    pub upto: u64,
    /// By day, agent and runtime.
    pub days: Vec<Spending>,
    /// By agent and conversation.
    pub conversations: Vec<Spending>,
}

impl Totals {
    /// Adds a turn, unless it is in already.
    pub fn add(&mut self, turn: &TurnUsage) {
        if turn.number <= self.upto {
            return;
        }
        self.version = 1;
        self.upto = turn.number;
        let day = time::rfc3339(turn.at).split('T').next().unwrap_or_default().to_owned();
        let new_day = add_to(&mut self.days, [&day, &turn.agent, &turn.runtime], turn.at, &turn.sum);
        let conversation = [&turn.conversation, &turn.agent, ""];
        if add_to(&mut self.conversations, conversation, turn.at, &turn.sum) || new_day {
            self.forget();
        }
    }

    /// Merges what is not kept apart any more.
    fn forget(&mut self) {
        let mut days: Vec<&str> = self.days.iter().map(|d| d.name.as_str()).collect();
        crate::sort::sort(&mut days);
        days.dedup();
        if let Some(first) = days.len().checked_sub(DAYS).and_then(|at| days.get(at)).map(|d| (*d).to_owned()) {
            merge(&mut self.days, |day| !day.name.is_empty() && day.name < first);
        }
        let named = || self.conversations.iter().filter(|c| !c.name.is_empty());
        let oldest = named().map(|c| c.last).min().filter(|_| named().count() > CONVERSATIONS);
        if let Some(oldest) = oldest {
            merge(&mut self.conversations, |c| !c.name.is_empty() && c.last == oldest);
        }
    }

    /// Everything.
    pub fn all(&self) -> Sum {
        let mut all = Sum::default();
        for day in &self.days {
            all.add(&day.sum);
        }
        all
    }

    /// What was spent, summed up by a name that `of` gives, in the order of the names.
    pub fn by(of_these: &[Spending], of: &dyn Fn(&Spending) -> String) -> BTreeMap<String, (i64, Sum)> {
        let mut sums: BTreeMap<String, (i64, Sum)> = BTreeMap::new();
        for spending in of_these {
            let (last, sum) = sums.entry(of(spending)).or_default();
            *last = spending.last.max(*last);
            sum.add(&spending.sum);
        }
        sums
    }
}

/// Returns whether the list has become longer.
fn add_to(list: &mut Vec<Spending>, [name, agent, runtime]: [&str; 3], at: i64, sum: &Sum) -> bool {
    let is_it = |s: &&mut Spending| s.name == name && s.agent == agent && s.runtime == runtime;
    // The latest ones are at the end.
    if let Some(spending) = list.iter_mut().rev().find(is_it) {
        spending.last = spending.last.max(at);
        spending.sum.add(sum);
        return false;
    }
    let [name, agent, runtime] = [name, agent, runtime].map(str::to_owned);
    list.push(Spending { name, agent, runtime, last: at, sum: *sum });
    true
}

/// Moves what `goes` into the sums that have no name.
fn merge(list: &mut Vec<Spending>, goes: impl Fn(&Spending) -> bool) {
    let (gone, kept): (Vec<Spending>, Vec<Spending>) = std::mem::take(list).into_iter().partition(goes);
    *list = kept;
    for spending in gone {
        add_to(list, ["", &spending.agent, &spending.runtime], spending.last, &spending.sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(number: u64, at: i64, conversation: &str) -> TurnUsage {
        TurnUsage {
            number,
            at,
            agent: "a".into(),
            conversation: conversation.into(),
            runtime: "codex".into(),
            sum: Sum { turns: 1, ms: 2, cost_usd: Some(0.5), ..Sum::default() },
            ..TurnUsage::default()
        }
    }

    #[test]
    fn sums_stay_when_days_and_conversations_are_merged() {
        const DAY: i64 = 86_400_000;
        let mut totals = Totals::default();
        let count = CONVERSATIONS as u64 + 10;
        for n in 1..=count {
            totals.add(&turn(n, n as i64 * DAY, &format!("c{n}")));
        }
        assert_eq!((totals.conversations.len(), totals.days.len()), (CONVERSATIONS + 1, DAYS + 1));
        assert_eq!((totals.all().turns, totals.all().cost_usd), (count, Some(count as f64 / 2.0)));
        let conversations = Totals::by(&totals.conversations, &|c| c.name.clone());
        assert_eq!(conversations.values().map(|(_, sum)| sum.turns).sum::<u64>(), count);
        assert!(conversations[""].1.turns >= 10 && conversations.contains_key(&format!("c{count}")));
    }

    #[test]
    fn a_turn_counts_once() {
        let mut totals = Totals::default();
        totals.add(&turn(1, 0, "c"));
        totals.add(&turn(1, 0, "c"));
        assert_eq!(totals.all().turns, 1);
    }

    #[test]
    fn a_cost_that_nobody_told_is_not_zero() {
        let mut sum = Sum::default();
        sum.add(&Sum { turns: 1, ..Sum::default() });
        assert_eq!(sum.cost_usd, None);
    }
}
