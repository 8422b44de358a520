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
    // Gemini replaces `@path` by the content of that file, on the command line and on stdin.
    if runtime == "gemini" && !owner {
        text = text.replace('@', "\\@");
    }
    let option = text.starts_with('-') && matches!(runtime, "claude-code" | "gemini");
    let command = text.starts_with('/') && !owner && matches!(runtime, "claude-code" | "gemini" | "kimi-cli");
    if option || command {
        text.insert(0, ' ');
    }
    text
}

/// How a prompt of this size goes to a CLI that takes it either way.
pub fn via(prompt: &str, wanted: PromptVia) -> PromptVia {
    if prompt.len() > MAX_ARGUMENT { PromptVia::Stdin } else { wanted }
}
