//! What a turn is told when it does not simply continue: a session that starts anew, a memory that has changed, an
//! earlier attempt that was interrupted.

use super::room;
use crate::engine::ports::{FreshStart, RecentMessage};
use crate::text;

/// Longest error text that is repeated to the agent, in UTF-16 units.
const ERROR_LIMIT: usize = 1_000;

/// The text of a turn whose session starts anew. `recent` is what was last said in the room, oldest first, `None`
/// when that cannot be found out.
pub fn prompt(runtime: &str, reason: FreshStart<'_>, recent: Option<&[RecentMessage]>, user_turn: &str) -> String {
    let why = match reason {
        FreshStart::Failed(_) => "could not be resumed or compacted".to_owned(),
        FreshStart::TooLarge { tokens, turns } => {
            format!("was rotated to keep its context small (prev turn input ≈ {tokens} tokens across {turns} turn(s))")
        }
        FreshStart::TooOld { turns } => format!("was rotated to keep its context small ({turns} turn(s))"),
        FreshStart::Moved => "belongs to another working directory".to_owned(),
    };
    let mut lines = vec![
        "[BotCord Runtime Recovery Notice]".to_owned(),
        format!("The previous {runtime} session of this room {why}."),
    ];
    if let FreshStart::Failed(error) = reason {
        lines.push(format!("Previous runtime error: {}", text::clip(error, ERROR_LIMIT)));
    }
    lines.push(format!("You are now in a fresh {runtime} session that has none of the earlier conversation."));
    lines.push(
        "Rebuild what you were doing from the recent messages below, the file system and your memory tools.".into(),
    );
    lines.push("Then go on; do not ask anybody to repeat what these sources already tell you.".into());
    let context = recent.map_or_else(|| "[Recent Room Messages]\n(unavailable)".to_owned(), room::recent_messages);
    format!("{}\n\n{context}\n\n[Current User Turn]\n{user_turn}", lines.join("\n"))
}

/// The text of a turn in a resumed session whose agent's memory has changed since the session last used it.
pub fn memory_notice(previous: Option<&str>, current: &str, user_turn: &str) -> String {
    let previous = previous.unwrap_or("none");
    format!(
        "[BotCord Memory Update Notice]\n\
         Your working memory has changed since this session last used it (previous: {previous}, current: {current}). \
         Before you act, fetch it with the memory tool or command that you have (`botcord-daemon memory get`, \
         `bellhop memory get`). What it says now replaces older goals, rules, preferences and task state in this \
         conversation.\n\n[Current Message]\n{user_turn}"
    )
}

/// The text of a turn that was begun before and was interrupted after the agent had started to act.
pub fn interrupted_notice(attempt: u32, user_turn: &str) -> String {
    format!(
        "[BotCord Interrupted Turn Notice]\n\
         This is attempt {attempt} at the message below. An earlier attempt was interrupted before it could finish and \
         may already have had effects: files changed, commands run, messages sent. Find out what was done before you \
         repeat anything that should happen only once, then complete the rest.\n\n[Current Message]\n{user_turn}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_session_is_explained() {
        let error = "x".repeat(1_500);
        let text = prompt("codex", FreshStart::Failed(&error), None, "do it");
        assert!(
            text.starts_with("[BotCord Runtime Recovery Notice]\nThe previous codex session of this room could not")
        );
        assert!(text.contains(&format!("Previous runtime error: {}…\n", "x".repeat(1_000))));
        assert!(text.ends_with("\n\n[Recent Room Messages]\n(unavailable)\n\n[Current User Turn]\ndo it"));
    }

    #[test]
    fn a_rotated_session_says_how_large_it_was() {
        let reason = FreshStart::TooLarge { tokens: 170_000, turns: 9 };
        let text = prompt("gemini", reason, Some(&[]), "go");
        assert!(text.contains("(prev turn input ≈ 170000 tokens across 9 turn(s))"));
        assert!(!text.contains("Previous runtime error"));
        assert!(text.contains("[Recent Room Messages]\n(none)"));
        let reason = FreshStart::TooOld { turns: 25 };
        assert!(prompt("gemini", reason, None, "go").contains("(25 turn(s))"));
    }

    #[test]
    fn notices_stand_above_the_message() {
        let text = memory_notice(None, "wm-sha256:1", "hello");
        assert!(text.contains("previous: none, current: wm-sha256:1"));
        assert!(text.contains("botcord-daemon memory get"));
        assert!(text.ends_with("\n\n[Current Message]\nhello"));
        assert!(interrupted_notice(2, "hello").ends_with("\n\n[Current Message]\nhello"));
    }
}
