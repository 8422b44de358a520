//! The model that a person chose: as it stands in a route's arguments, and how it gets there.

use serde::Serialize;

/// What runtimes that take no arguments of a route read from them all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// `--model`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// `--reasoning-effort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<String>,
}

impl Selection {
    /// Reads `--flag value` and `--flag=value`; the last one wins, blank ones count as absent.
    pub fn from_args(args: &[String]) -> Self {
        let mut selection = Self::default();
        let mut args = args.iter().peekable();
        while let Some(arg) = args.next() {
            let (flag, inline) = match arg.split_once('=') {
                Some((flag, value)) => (flag, Some(value)),
                None => (arg.as_str(), None),
            };
            let field = match flag {
                "--model" => &mut selection.model,
                "--reasoning-effort" => &mut selection.reasoning_effort,
                _ => continue,
            };
            let value = match inline {
                Some(value) => Some(value.to_owned()),
                None => args.next_if(|next| !next.starts_with('-')).cloned(),
            };
            if let Some(value) = value.map(|v| v.trim().to_owned()).filter(|v| !v.is_empty()) {
                *field = Some(value);
            }
        }
        selection
    }
}

/// What a person chose for an agent. Blank texts count as absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// The model.
    pub model: Option<&'a str>,
    /// How much effort it makes.
    pub effort: Option<&'a str>,
    /// Whether it thinks before it answers.
    pub thinking: Option<bool>,
}

/// The arguments of a route that hand a choice to a runtime; none for what the runtime does not let be chosen. They
/// are the BotCord daemon's, so that both write the same routes.
pub fn arguments(runtime: &str, choice: Choice<'_>) -> Vec<String> {
    let given = |text: Option<&str>| text.map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned);
    // What begins with a dash would be another flag where it stands alone: the choice may come from a dashboard
    // elsewhere.
    let flag = |name: &str, value: Option<String>| {
        value.filter(|v| !v.starts_with('-')).map(|v| vec![name.to_owned(), v]).unwrap_or_default()
    };
    let (model, effort) = (flag("--model", given(choice.model)), given(choice.effort));
    let more = match runtime {
        "claude-code" => flag("--effort", effort),
        "codex" => {
            let quoted = effort.map(|e| e.replace('\\', "\\\\").replace('"', "\\\""));
            flag("-c", quoted.map(|e| format!("model_reasoning_effort=\"{e}\"")))
        }
        "deepseek-tui" => flag("--reasoning-effort", effort),
        "kimi-cli" => match choice.thinking {
            Some(true) => vec!["--thinking".to_owned()],
            Some(false) => vec!["--no-thinking".to_owned()],
            None => Vec::new(),
        },
        _ => return Vec::new(),
    };
    [model, more].concat()
}

/// Whether a runtime takes `--model` from a route although [`arguments`] has none for it: the reference leaves these
/// alone, but a model that the owner has written down must not be lost.
pub fn takes_model(runtime: &str) -> bool {
    matches!(runtime, "gemini" | "hermes-agent") || runtime.starts_with("acp:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_runtime_has_its_own_words() {
        let all = Choice { model: Some(" m "), effort: Some("a\"b\\"), thinking: Some(false) };
        for (runtime, wanted) in [
            ("claude-code", &["--model", "m", "--effort", "a\"b\\"][..]),
            ("codex", &["--model", "m", "-c", "model_reasoning_effort=\"a\\\"b\\\\\""]),
            ("deepseek-tui", &["--model", "m", "--reasoning-effort", "a\"b\\"]),
            ("kimi-cli", &["--model", "m", "--no-thinking"]),
            ("gemini", &[]),
            ("echo", &[]),
        ] {
            assert_eq!(arguments(runtime, all), wanted, "{runtime}");
            let blank = Choice { model: Some(" "), effort: Some(""), thinking: None };
            assert!(arguments(runtime, blank).is_empty(), "{runtime}");
        }
        let flags = Choice { model: Some("--yolo"), effort: Some(" -c"), thinking: None };
        for runtime in ["claude-code", "deepseek-tui", "kimi-cli"] {
            assert!(arguments(runtime, flags).is_empty(), "{runtime}");
        }
        assert_eq!(arguments("codex", flags), ["-c", "model_reasoning_effort=\"-c\""], "inside of a value it is none");
        let thinking = Choice { thinking: Some(true), ..Choice::default() };
        assert_eq!(arguments("kimi-cli", thinking), ["--thinking"]);
    }

    #[test]
    fn the_last_one_wins_and_a_flag_is_no_value() {
        let args = ["--model=a", "--model", "--reasoning-effort", "high", "--model=b", "--other", "--model="];
        let selection = Selection::from_args(&args.map(str::to_owned));
        assert_eq!(selection.model.as_deref(), Some("b"));
        assert_eq!(selection.reasoning_effort.as_deref(), Some("high"));
    }
}
