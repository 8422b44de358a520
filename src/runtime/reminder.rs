//! Context for CLIs without a system prompt: a marked part in front of what the person said.

use crate::crypto::short_hash;
use crate::engine::ports::RunRequest;
use crate::runtime::context_file;

/// The text with a reminder in front; a blank one adds nothing.
pub fn prefix(context: Option<&str>, text: &str) -> String {
    match context {
        Some(context) if !context.trim().is_empty() => {
            format!("<system-reminder>\n{context}\n</system-reminder>\n\n{text}")
        }
        _ => text.to_owned(),
    }
}

/// A short mark of a context, by which a later turn recognises that it has changed. No context has a mark,
/// too.
pub fn mark(context: Option<&str>) -> String {
    let context = context.map(str::trim).unwrap_or_default();
    short_hash(context.as_bytes(), 16)
}

/// Context and rules of a run, for a session that keeps what it is told once.
pub struct Told {
    /// All of it.
    pub whole: Option<String>,
    /// What is about this moment only.
    pub passing: String,
    /// The [`mark`] of what lasts.
    pub mark: String,
}

impl Told {
    /// Of this run.
    pub fn of(request: &RunRequest) -> Self {
        let (lasting, passing) = request.split_context();
        let lasting = context_file::prepend(Some(&lasting), &request.system_rules);
        Self {
            whole: context_file::prepend(request.context(), &request.system_rules),
            passing,
            mark: mark(lasting.as_deref()),
        }
    }

    /// The user turn for a session that knows what lasts already, or does not know it as it is now.
    pub fn again(&self, knows: bool, text: &str) -> String {
        prefix(if knows { Some(&self.passing) } else { self.whole.as_deref() }, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_tell_contexts_apart() {
        assert_eq!(mark(None), mark(Some(" \n")));
        assert_ne!(mark(None), mark(Some("a")));
        assert_eq!(mark(Some("a")).len(), 16);
    }
}
