//! Preparation of a prompt for the CLI that gets it.
//!
//! A prompt is text of strangers. CLIs read more into it than words: an option, a command of their own, a
//! file to include. What is done here keeps it words.

use crate::runtime::settings::PromptVia;

/// More bytes than this do not go into one argument: the kernel's limit on Linux is 131 071.
pub const MAX_ARGUMENT: usize = 100_000;

/// The prompt as the runtime is to be given it. `owner` says that the agent's owner wrote it.
pub fn prepare(runtime: &str, text: &str, owner: bool) -> String {
    let mut text = text.replace('\0', "\u{fffd}");
    // `@path` is replaced by the content of that file, on the command line and on stdin. Gemini looks for it
    // everywhere, Claude Code at the beginning of a word.
    if !owner {
        match runtime {
            "gemini" => text = text.replace('@', "\\@"),
            "claude-code" => text = escape_mentions(&text),
            _ => {}
        }
    }
    let option = text.starts_with('-') && matches!(runtime, "claude-code" | "gemini");
    let command = text.starts_with('/') && !owner && matches!(runtime, "claude-code" | "gemini" | "kimi-cli");
    if option || command {
        text.insert(0, ' ');
    }
    text
}

/// `\@` in place of every `@` that begins a word: there, and only there, it would name a file to be read.
pub fn escape_mentions(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let mut begins = true;
    for c in text.chars() {
        if c == '@' && begins {
            escaped.push('\\');
        }
        escaped.push(c);
        // For the CLI a byte order mark is white space, too.
        begins = c.is_whitespace() || c == '\u{feff}';
    }
    escaped
}

/// How a prompt of this size goes to a CLI that takes it either way.
pub fn via(prompt: &str, wanted: PromptVia) -> PromptVia {
    if prompt.len() > MAX_ARGUMENT { PromptVia::Stdin } else { wanted }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claude_code_reads_no_file_that_a_stranger_names() {
        let table = [
            ("@a.txt", "\\@a.txt"),
            ("see @a.txt\n@\"b c.txt\"", "see \\@a.txt\n\\@\"b c.txt\""),
            ("\u{3000}@a \u{feff}@b", "\u{3000}\\@a \u{feff}\\@b"),
            ("mail a@b.c (@d)", "mail a@b.c (@d)"),
        ];
        for (text, given) in table {
            assert_eq!(prepare("claude-code", text, false), given);
            assert_eq!(prepare("claude-code", text, true), text);
            assert_eq!(prepare("codex", text, false), text);
        }
    }
}
