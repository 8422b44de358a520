//! The account of a cloud run that is sent to the hub once the run is over.

use serde::Serialize;

use super::ports::Usage;
use crate::message::CloudRun;

/// A settlement, ready to be posted. Repeating it is safe: the key tells the hub that it is the same one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settlement {
    /// Where to `POST` it, below the hub's URL; begins with `/`.
    pub path: String,
    /// What to post, as JSON.
    pub body: SettlementBody,
}

/// The wire form of a settlement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettlementBody {
    /// Who served the model; the hub accepts one value.
    pub provider: &'static str,
    /// The model that is accounted; the hub accepts one value.
    pub model: &'static str,
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

/// The settlement of a run, or `None` when it is not wanted or the run has no id.
///
/// A run that never started (refused by the gate, skipped) is settled too, with zero time and usage.
pub fn settlement(run: &CloudRun, wall_ms: u64, usage: Option<Usage>) -> Option<Settlement> {
    let run_id = run.run_id.as_deref().filter(|id| run.settle_usage && !id.is_empty())?;
    let usage = usage.unwrap_or_default();
    Some(Settlement {
        path: format!("/internal/cloud-agents/runs/{}/settle", percent_encoded(run_id)),
        body: SettlementBody {
            provider: "deepseek",
            model: "deepseek-v4-flash",
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
