//! Filters for the extra arguments of a route.
//!
//! A default route's list is inherited by agents of other runtimes, so that every adapter meets flags of its
//! neighbours; and some flags of its own CLI would take the output or the session away from it.

/// Arguments that a filter drops.
struct Dropped {
    /// Dropped together with the value that follows, unless it is in the `=` form.
    with_value: &'static [&'static str],
    /// Dropped alone.
    alone: &'static [&'static str],
}

/// Flags of other CLIs that Claude Code does not know.
const CLAUDE_FOREIGN: Dropped = Dropped {
    with_value: &[
        "--color",
        "--config",
        "--disable",
        "--enable",
        "--image",
        "--local-provider",
        "--output-last-message",
        "--output-schema",
        "--profile",
        "--sandbox",
        "-i",
        "-o",
        "-p",
        "-s",
    ],
    alone: &[
        "--all",
        "--dangerously-bypass-approvals-and-sandbox",
        "--ephemeral",
        "--full-auto",
        "--ignore-rules",
        "--ignore-user-config",
        "--json",
        "--last",
        "--oss",
        "--print",
        "--skip-git-repo-check",
    ],
};

/// Flags of Claude Code that belong to the adapter.
const CLAUDE_OWNED: Dropped = Dropped {
    with_value: &["--output-format", "--input-format", "--resume", "-r", "--session-id"],
    alone: &[
        "--continue",
        "--fork-session",
        "--no-session-persistence",
        "--bg",
        "--background",
        "--replay-user-messages",
    ],
};

const GEMINI_FOREIGN: Dropped = Dropped {
    with_value: &["--append-system-prompt", "--permission-mode", "--setting-sources", "--sandbox", "-c"],
    alone: &[
        "--dangerously-bypass-approvals-and-sandbox",
        "--full-auto",
        "--skip-git-repo-check",
        "--json",
        "--verbose",
    ],
};

const GEMINI_OWNED: Dropped = Dropped {
    with_value: &[
        "-p",
        "--prompt",
        "-i",
        "--prompt-interactive",
        "-o",
        "--output-format",
        "-r",
        "--resume",
        "--session-id",
        "--session-file",
        "-w",
        "--worktree",
        "--delete-session",
    ],
    alone: &["--acp", "--experimental-acp", "-l", "--list-extensions", "--list-sessions"],
};

const CODEX_FOREIGN: Dropped = Dropped { with_value: &["--append-system-prompt", "--permission-mode"], alone: &[] };

const CODEX_OWNED: Dropped = Dropped {
    with_value: &["--output-last-message", "-o", "--color", "-C", "--cd", "--worktree"],
    alone: &["--json", "--last", "--all", "--ephemeral"],
};

/// Flags of Codex without a value; what follows any other flag is its value and not a prompt.
const CODEX_SWITCHES: [&str; 7] = [
    "--dangerously-bypass-approvals-and-sandbox",
    "--full-auto",
    "--ignore-rules",
    "--ignore-user-config",
    "--oss",
    "--search",
    "--skip-git-repo-check",
];

const KIMI_LEGACY_VALUES: [&str; 13] = [
    "--add-dir",
    "--agent",
    "--agent-file",
    "--config",
    "--config-file",
    "--max-ralph-iterations",
    "--max-retries-per-step",
    "--max-steps-per-turn",
    "--mcp-config",
    "--mcp-config-file",
    "--model",
    "--skills-dir",
    "-m",
];

const KIMI_LEGACY_SWITCHES: [&str; 10] = [
    "--afk",
    "--auto-approve",
    "--debug",
    "--no-thinking",
    "--plan",
    "--thinking",
    "--verbose",
    "--yes",
    "--yolo",
    "-y",
];

/// The part of an argument before `=`, where it is a flag.
fn name(arg: &str) -> &str {
    if arg.starts_with('-') { arg.split_once('=').map_or(arg, |(name, _)| name) } else { arg }
}

/// Whether the argument after a flag is its value: it exists and is no flag (a negative number is none).
fn is_value(next: Option<&String>) -> bool {
    next.is_some_and(|next| match next.strip_prefix('-') {
        None => true,
        Some(rest) => rest.starts_with(|c: char| c.is_ascii_digit()),
    })
}

fn without(args: &[String], dropped: &Dropped) -> Vec<String> {
    let mut kept = Vec::with_capacity(args.len());
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        if dropped.with_value.contains(&name(arg)) {
            if !arg.contains('=') && is_value(args.get(at)) {
                at += 1;
            }
        } else if !dropped.alone.contains(&name(arg)) {
            kept.push(arg.clone());
        }
    }
    kept
}

/// For `claude-code`, without the flags of other CLIs.
pub fn claude_reference(args: &[String]) -> Vec<String> {
    let mut kept = Vec::with_capacity(args.len());
    let mut at = 0;
    // `-c` is Codex's, but only as an argument of its own.
    while let Some(arg) = args.get(at) {
        at += 1;
        if arg != "-c" {
            kept.push(arg.clone());
        } else if is_value(args.get(at)) {
            at += 1;
        }
    }
    without(&kept, &CLAUDE_FOREIGN)
}

/// For `claude-code`.
pub fn claude(args: &[String]) -> Vec<String> {
    without(&claude_reference(args), &CLAUDE_OWNED)
}

/// For `gemini`, without the flags of other CLIs.
pub fn gemini_reference(args: &[String]) -> Vec<String> {
    without(args, &GEMINI_FOREIGN)
}

/// For `gemini`.
pub fn gemini(args: &[String]) -> Vec<String> {
    without(&gemini_reference(args), &GEMINI_OWNED)
}

/// For `codex`: foreign flags dropped, the sandbox turned into the setting that `exec resume` knows, too.
pub fn codex_reference(args: &[String]) -> Vec<String> {
    let args = without(args, &CODEX_FOREIGN);
    let mut kept = Vec::with_capacity(args.len());
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        match name(arg) {
            "-s" | "--sandbox" => {
                let value = take_value(arg, &args, &mut at);
                if let Some(mode @ ("read-only" | "workspace-write" | "danger-full-access")) = value {
                    kept.extend(["-c".to_owned(), format!("sandbox_mode=\"{mode}\"")]);
                }
            }
            "--full-auto" => kept.push("--dangerously-bypass-approvals-and-sandbox".into()),
            _ => kept.push(arg.clone()),
        }
    }
    kept
}

/// For `codex`: also the flags that `exec` has lost, as settings; nothing that could be taken for a prompt.
pub fn codex(args: &[String]) -> Vec<String> {
    let args = without(&codex_reference(args), &CODEX_OWNED);
    let mut kept = Vec::with_capacity(args.len());
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        match name(arg) {
            "--" => {}
            "-a" | "--ask-for-approval" => {
                if let Some(policy) = take_value(arg, &args, &mut at) {
                    kept.extend(["-c".to_owned(), format!("approval_policy={}", toml_string(policy))]);
                }
            }
            "--search" => kept.extend(["-c".to_owned(), "web_search=\"live\"".to_owned()]),
            flag if flag.starts_with('-') => {
                kept.push(arg.clone());
                if !arg.contains('=') && !CODEX_SWITCHES.contains(&flag) && is_value(args.get(at)) {
                    kept.extend(args.get(at).cloned());
                    at += 1;
                }
            }
            // A word by itself would become the prompt.
            _ => {}
        }
    }
    kept
}

/// A TOML string.
pub fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The value of a flag: after its `=`, or the next argument, which is then passed over.
fn take_value<'a>(arg: &'a str, args: &'a [String], at: &mut usize) -> Option<&'a str> {
    if let Some((_, value)) = arg.split_once('=') {
        return Some(value);
    }
    let next = args.get(*at);
    is_value(next).then(|| {
        *at += 1;
        next.map(String::as_str)
    })?
}

/// For the Python line of `kimi-cli`.
pub fn kimi_legacy(args: &[String]) -> Vec<String> {
    only(args, &KIMI_LEGACY_VALUES, &KIMI_LEGACY_SWITCHES)
}

/// For `kimi-cli` 2; a resumed session has its agent already.
pub fn kimi_modern(args: &[String], resumed: bool) -> Vec<String> {
    let values: &[&str] = &["--model", "-m", "--add-dir", "--skills-dir", "--agent", "--agent-file"];
    only(args, if resumed { values.get(..4).unwrap_or(values) } else { values }, &[])
}

/// Keeps only what is listed; an unknown flag takes its value along.
fn only(args: &[String], with_value: &[&str], alone: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut at = 0;
    while let Some(arg) = args.get(at) {
        at += 1;
        let flag = name(arg);
        if alone.contains(&flag) {
            kept.push(arg.clone());
            continue;
        }
        let wanted = with_value.contains(&flag);
        if flag.starts_with('-') && !arg.contains('=') {
            let value = args.get(at).filter(|next| is_value(Some(next)));
            at += usize::from(value.is_some());
            if let (true, Some(value)) = (wanted, value) {
                kept.extend([arg.clone(), value.clone()]);
            }
        } else if wanted {
            kept.push(arg.clone());
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Vec<String> {
        line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect()
    }

    #[test]
    fn the_session_and_the_output_stay_with_the_adapter() {
        assert_eq!(claude(&args("--resume abc --session-id x --output-format text --model m -r y")), args("--model m"));
        assert_eq!(claude(&args("--continue --bg -c=x --fork-session")), args("-c=x"));
        assert_eq!(gemini(&args("-p hello --list-sessions -r 3 --acp -m flash")), args("-m flash"));
        assert_eq!(codex(&args("--json -o file -C /x --color always --ephemeral --model m")), args("--model m"));
    }

    #[test]
    fn codex_gets_no_second_prompt() {
        assert_eq!(codex(&args("--model m stray -- more")), args("--model m"));
        assert_eq!(codex(&args("--oss stray")), args("--oss"));
        assert_eq!(codex(&args("-c a=1 stray -i file")), args("-c a=1 -i file"));
    }

    #[test]
    fn flags_that_codex_exec_has_lost_become_settings() {
        assert_eq!(codex(&args("-a never --search")), args("-c approval_policy=\"never\" -c web_search=\"live\""));
        assert_eq!(codex(&args("--ask-for-approval=on-request")), args("-c approval_policy=\"on-request\""));
    }

    #[test]
    fn kimi_gets_what_its_line_knows() {
        assert_eq!(kimi_modern(&args("--thinking --model k --agent a stray"), false), args("--model k --agent a"));
        assert_eq!(kimi_modern(&args("--model=k --agent a"), true), args("--model=k"));
    }
}
