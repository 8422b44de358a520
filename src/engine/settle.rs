//! The account of a cloud run that is sent to the hub once the run is over.

use serde_json::{Value, json};

use super::ports::Usage;
use crate::message::CloudRun;

/// A settlement, ready to be posted. Repeating it is safe: the key tells the hub that it is the same one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Id of the run.
    pub run_id: String,
    /// Where to `POST` it, below the hub's URL; begins with `/`.
    pub path: String,
    /// What to post.
    pub body: SettlementBody,
}

/// What a settlement says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettlementBody {
    /// Who served the model.
    pub provider: String,
    /// The model that is accounted.
    pub model: String,
    /// Input tokens read from the provider's cache.
    pub input_cache_hit_tokens: u64,
    /// Other input tokens.
    pub input_cache_miss_tokens: u64,
    /// Output tokens.
    pub output_tokens: u64,
    /// Wall time in whole seconds, at least 1.
    pub sandbox_seconds: u64,
    /// `<run id>:settle`.
    pub idempotency_key: String,
}

impl SettlementBody {
    /// As JSON.
    pub fn document(&self) -> Value {
        json!({
            "provider": self.provider,
            "model": self.model,
            "input_cache_hit_tokens": self.input_cache_hit_tokens,
            "input_cache_miss_tokens": self.input_cache_miss_tokens,
            "output_tokens": self.output_tokens,
            "sandbox_seconds": self.sandbox_seconds,
            "idempotency_key": self.idempotency_key,
        })
    }
}

/// What a run ran on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served<'a> {
    /// Runtime id.
    pub runtime: &'a str,
    /// Arguments of its route, which name the model where one is chosen.
    pub args: &'a [String],
}

impl Served<'_> {
    fn provider(&self) -> &str {
        match self.runtime {
            "deepseek-tui" => "deepseek",
            "claude-code" => "anthropic",
            "codex" => "openai",
            "gemini" => "google",
            "kimi-cli" => "moonshot",
            other => other,
        }
    }

    /// The last one that the arguments name, else what the runtime uses by itself.
    fn model(&self) -> &str {
        let mut named = None;
        let mut args = self.args.iter().map(String::as_str).peekable();
        while let Some(arg) = args.next() {
            let value = match arg {
                "--model" => args.next_if(|next| !next.starts_with('-')),
                _ => arg.strip_prefix("--model="),
            };
            named = value.map(str::trim).filter(|value| !value.is_empty()).or(named);
        }
        named.unwrap_or(if self.runtime == USUAL.runtime { "deepseek-v4-flash" } else { "default" })
    }
}

/// What sandboxes run on, and what a run that nothing ran on is accounted for.
const USUAL: Served<'static> = Served { runtime: "deepseek-tui", args: &[] };

/// Longest id of a run, in bytes; a hub's have a tenth of it.
const ID_LIMIT: usize = 256;

/// The settlement of a run, or `None` when it is not wanted or the run has no id.
///
/// A run that never started (refused by the gate, skipped) is settled too, with zero time and usage.
pub fn settlement(
    run: &CloudRun,
    wall_ms: u64,
    usage: Option<Usage>,
    served: Option<Served<'_>>,
) -> Option<Settlement> {
    if !run.settle_usage {
        return None;
    }
    let Some(run_id) = run.run_id.as_deref().filter(|id| !id.is_empty() && id.len() <= ID_LIMIT) else {
        log::warn!("settle.no_run_id");
        return None;
    };
    let usage = usage.unwrap_or_default();
    let served = served.unwrap_or(USUAL);
    Some(Settlement {
        run_id: run_id.to_owned(),
        path: format!("/internal/cloud-agents/runs/{}/settle", percent_encoded(run_id)),
        body: SettlementBody {
            provider: served.provider().to_owned(),
            model: served.model().to_owned(),
            input_cache_hit_tokens: usage.hit,
            input_cache_miss_tokens: usage.miss,
            output_tokens: usage.output,
            sandbox_seconds: (wall_ms.saturating_add(500) / 1_000).max(1),
            idempotency_key: format!("{run_id}:settle"),
        },
    })
}

/// One path segment: everything but ASCII letters, digits and `-_.!~*'()` as `%XX`.
fn percent_encoded(segment: &str) -> String {
    let mut out = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_accounted_for_what_it_ran_on() {
        let run = CloudRun { run_id: Some("r".into()), settle_usage: true, ..CloudRun::default() };
        let served = |runtime: &str, args: &[&str]| {
            let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
            let body = settlement(&run, 0, None, Some(Served { runtime, args: &args })).unwrap().body;
            (body.provider, body.model)
        };
        let is = |provider: &str, model: &str| (provider.to_owned(), model.to_owned());
        assert_eq!(served("deepseek-tui", &[]), is("deepseek", "deepseek-v4-flash"));
        assert_eq!(served("deepseek-tui", &["--model", "a", "--x", "--model=b"]), is("deepseek", "b"));
        assert_eq!(served("claude-code", &["--model", "opus"]), is("anthropic", "opus"));
        assert_eq!(served("codex", &["--model", "--x"]), is("openai", "default"));
        let never = settlement(&run, 0, None, None).unwrap().body;
        assert_eq!((never.provider, never.model), is("deepseek", "deepseek-v4-flash"));
    }
}
