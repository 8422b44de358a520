//! Evidence of a failed run: what is logged, what the transcript keeps, what a person sees.

use super::ports::FailureSummary;
use crate::crypto;
use crate::failure;
use crate::redact;

/// A captured failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The error, redacted, its last 2 048 units.
    pub message: String,
    /// The same for people: error bodies are replaced by what they say, and the exit code is added if the text
    /// does not name it.
    pub safe: String,
    /// `err_` and twelve hex digits, unique per occurrence.
    pub error_ref: String,
}

/// Captures an error text with what the adapter found out about the process.
pub fn capture(error: &str, partial: Option<&FailureSummary>, turn_id: &str, runtime: &str) -> Capture {
    let message = match redact::text_tail(error, 2_048) {
        text if text.trim().is_empty() => "runtime error".to_owned(),
        text => text,
    };
    let code = partial.and_then(|p| p.exit_code);
    let shown = failure::readable(&message);
    let safe = match code {
        Some(code) if !shown.contains(&format!("code {code}")) => format!("{shown} (exit code {code})"),
        _ => shown,
    };
    let nonce = crypto::hex(&crypto::random::<16>());
    let seed = serde_json::json!([turn_id, runtime, message, code, nonce]).to_string();
    let error_ref = format!("err_{}", &crypto::sha256_hex(seed.as_bytes())[..12]);
    Capture { message, safe, error_ref }
}
