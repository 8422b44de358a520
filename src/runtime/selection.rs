//! The model that a person chose, as it stands in a route's arguments.

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_one_wins_and_a_flag_is_no_value() {
        let args = ["--model=a", "--model", "--reasoning-effort", "high", "--model=b", "--other", "--model="];
        let selection = Selection::from_args(&args.map(str::to_owned));
        assert_eq!(selection.model.as_deref(), Some("b"));
        assert_eq!(selection.reasoning_effort.as_deref(), Some("high"));
    }
}
