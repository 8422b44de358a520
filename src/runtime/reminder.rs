//! Context for CLIs without a system prompt: a marked part in front of what the person said.

use crate::crypto::short_hash;

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
