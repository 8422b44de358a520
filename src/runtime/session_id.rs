//! Which session ids a CLI may be given. An id goes into an argument, so that what begins with `-` or holds
//! control characters must never reach the command line.

use crate::crypto::is_hex;

/// Whether the runtime accepts this id. Checked before anything is started.
pub fn accepted(runtime: &str, id: &str) -> bool {
    match runtime {
        "codex" => is_uuid(id),
        "gemini" => {
            (1..=128).contains(&id.len())
                && !id.starts_with('-')
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        }
        "deepseek-tui" => printable(id.trim(), 256),
        // Titles are allowed, not only ids.
        "claude-code" | "kimi-cli" => printable(id, 512) && !id.starts_with('-'),
        _ => !id.is_empty(),
    }
}

/// 8-4-4-4-12 hexadecimal digits.
fn is_uuid(id: &str) -> bool {
    let mut groups = id.split('-');
    let all = [8, 4, 4, 4, 12].into_iter().all(|digits| groups.next().is_some_and(|group| is_hex(group, digits)));
    all && groups.next().is_none()
}

/// 1 to `limit` UTF-16 units, no control characters.
fn printable(id: &str, limit: usize) -> bool {
    (1..=limit).contains(&crate::text::len_utf16(id)) && !id.chars().any(|c| c < ' ' || c == '\x7f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_never_a_session() {
        for runtime in ["claude-code", "codex", "gemini", "kimi-cli"] {
            assert!(!accepted(runtime, "--yolo"), "{runtime}");
            assert!(!accepted(runtime, ""), "{runtime}");
        }
    }
}
