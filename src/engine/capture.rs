//! Evidence of a failed run: what is logged, what the transcript keeps, what a person sees.

use super::ports::FailureSummary;
use crate::crypto;
use crate::redact;

/// A captured failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The error, redacted, its last 2 048 units.
    pub message: String,
    /// The same with the exit code, if the text does not name it.
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
    let safe = match code {
        Some(code) if !message.contains(&format!("code {code}")) => format!("{message} (exit code {code})"),
        _ => message.clone(),
    };
    let nonce = crypto::hex(&crypto::random::<16>());
    let seed = serde_json::json!([turn_id, runtime, message, code, nonce]).to_string();
    let error_ref = format!("err_{}", &crypto::sha256_hex(seed.as_bytes())[..12]);
    Capture { message, safe, error_ref }
}
