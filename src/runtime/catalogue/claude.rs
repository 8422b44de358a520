//! Models of `claude-code`: the CLI's aliases, the user's settings, and variables that rename models.

use serde::Deserialize;
use serde_json::Value;

use super::{Catalogue, Installed, Model, Origin, Parameter, ParameterType, Setting, read_file};
use crate::json;

/// Variables that name a model.
pub const MODEL_VARIABLES: [&str; 4] = [
    "ANTHROPIC_DEFAULT_OPUS_MODEL",
    "ANTHROPIC_DEFAULT_SONNET_MODEL",
    "ANTHROPIC_DEFAULT_HAIKU_MODEL",
    "ANTHROPIC_CUSTOM_MODEL_OPTION",
];

const ALIASES: [(&str, &str); 8] = [
    ("default", "Default"),
    ("best", "Best"),
    ("sonnet", "Sonnet"),
    ("opus", "Opus"),
    ("haiku", "Haiku"),
    ("sonnet[1m]", "Sonnet 1M"),
    ("opus[1m]", "Opus 1M"),
    ("opusplan", "Opus Plan"),
];

/// What is read of the user's `settings.json`. A member of another type makes it absent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The model that is used unless told otherwise.
    pub model: Option<String>,
    /// Models the user wants to choose from.
    pub available_models: Vec<String>,
    /// Default effort.
    pub effort: Option<String>,
    /// Default permission mode.
    pub permission_mode: Option<String>,
}

impl Settings {
    /// Reads the document; anything unreadable gives the empty settings.
    pub fn parse(text: &str) -> Self {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct File {
            model: Lenient,
            available_models: Vec<Lenient>,
            effort: Lenient,
            permission_mode: Lenient,
            #[serde(rename = "permission-mode")]
            permission_mode_dashed: Lenient,
        }
        let file: File = json::from_str(text).unwrap_or_default();
        Self {
            model: file.model.text(),
            available_models: file.available_models.into_iter().filter_map(Lenient::text).collect(),
            effort: file.effort.text(),
            permission_mode: file.permission_mode.text().or_else(|| file.permission_mode_dashed.text()),
        }
    }
}

/// A string, or anything else, which is ignored.
#[derive(Default, Deserialize)]
struct Lenient(Value);

impl Lenient {
    fn text(self) -> Option<String> {
        self.0.as_str().map(str::trim).filter(|t| !t.is_empty()).map(str::to_owned)
    }
}

/// The catalogue of an installed `claude`.
pub fn discover(installed: &Installed) -> Catalogue {
    let settings =
        read_file(&installed.home.join(".claude/settings.json")).map(|t| Settings::parse(&t)).unwrap_or_default();
    catalogue(&settings, |name| installed.var(name).map(str::to_owned))
}

/// The catalogue for these settings and variables.
pub fn catalogue(settings: &Settings, var: impl Fn(&str) -> Option<String>) -> Catalogue {
    let mut models = Vec::new();
    for (id, name) in ALIASES {
        merge(&mut models, Model { display_name: Some(name.to_owned()), ..model(id, Origin::Builtin) });
    }
    if let Some(id) = &settings.model {
        merge(&mut models, Model { is_default: Some(true), ..model(id, Origin::Config) });
    }
    for id in &settings.available_models {
        merge(&mut models, model(id, Origin::Config));
    }
    for name in MODEL_VARIABLES {
        let Some(id) = var(name) else { continue };
        let mut named = model(id.trim(), Origin::Env);
        named.metadata.env = Some(name.to_owned());
        merge(&mut models, named);
    }
    let from = |value: &Option<String>| if value.is_some() { Origin::Config } else { Origin::Cli };
    let default = |value: &Option<String>| value.clone().map(Setting::Text);
    let effort = Parameter::new("effort", "Effort", ParameterType::Enum, from(&settings.effort))
        .flag("--effort")
        .values(["low", "medium", "high", "xhigh", "max"])
        .default_value(default(&settings.effort));
    let mode = &settings.permission_mode;
    let mode = Parameter::new("permission_mode", "Permission mode", ParameterType::Enum, from(mode))
        .flag("--permission-mode")
        .values(["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"])
        .default_value(default(mode));
    Catalogue { models, parameters: vec![effort, mode] }
}

fn model(id: &str, source: Origin) -> Model {
    Model { provider: Some("anthropic".to_owned()), ..Model::new(id, source) }
}

/// Adds a model; one with the same id takes over the fields that the later one has.
fn merge(models: &mut Vec<Model>, later: Model) {
    let Some(known) = models.iter_mut().find(|m| m.id == later.id) else {
        models.push(later);
        return;
    };
    known.source = later.source;
    known.is_default = later.is_default.or(known.is_default);
    if later.display_name.is_some() {
        known.display_name = later.display_name;
    }
    if later.metadata.env.is_some() {
        known.metadata.env = later.metadata.env;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_id_is_merged() {
        let settings =
            Settings::parse(r#"{"model":"opus","availableModels":["x",3],"effort":7,"permission-mode":"plan"}"#);
        let catalogue = catalogue(&settings, |name| name.contains("CUSTOM").then(|| "x".to_owned()));
        let opus = catalogue.models.iter().find(|m| m.id == "opus").unwrap();
        assert_eq!(
            (opus.source, opus.is_default, opus.display_name.as_deref()),
            (Origin::Config, Some(true), Some("Opus"))
        );
        let custom: Vec<_> = catalogue.models.iter().filter(|m| m.id == "x").collect();
        assert_eq!(custom.len(), 1);
        assert_eq!(custom[0].metadata.env.as_deref(), Some("ANTHROPIC_CUSTOM_MODEL_OPTION"));
        assert_eq!(catalogue.parameters[0].source, Origin::Cli);
        assert_eq!(catalogue.parameters[1].default_value, Some(Setting::Text("plan".into())));
    }

    #[test]
    fn unreadable_settings_leave_the_aliases() {
        assert_eq!(catalogue(&Settings::parse("{"), |_| None).models.len(), ALIASES.len());
    }
}
