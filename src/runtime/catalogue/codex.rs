//! Models of `codex`: what `codex debug models` prints, else its cache file, else a built-in list.

use serde::Deserialize;
use serde_json::Value;

use super::{Catalogue, Installed, Model, ModelFacts, Origin, Parameter, ParameterType, Setting, read_file, toml};
use crate::json;

const BUILTIN: [&str; 4] = ["gpt-5.2", "gpt-5.1", "gpt-5", "o4-mini"];

#[derive(Deserialize)]
struct Listing {
    /// Read one by one, so that one odd entry does not hide the others.
    models: Vec<Value>,
}

#[derive(Deserialize)]
struct Entry {
    slug: String,
    #[serde(default)]
    visibility: Option<String>,
    #[serde(default)]
    display_name: Option<String>,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    supported_in_api: Option<bool>,
    #[serde(default)]
    default_reasoning_level: Option<String>,
    #[serde(default)]
    supported_reasoning_levels: Option<Vec<Value>>,
}

/// Reads the list of models. `None` when it is no list or lists nothing.
pub fn models(text: &str) -> Option<Vec<Model>> {
    let listing: Listing = json::from_str(text).ok()?;
    let models: Vec<_> =
        listing.models.into_iter().filter_map(|m| json::from_value::<Entry>(&m).ok()).filter_map(model).collect();
    (!models.is_empty()).then_some(models)
}

fn model(entry: Entry) -> Option<Model> {
    if entry.slug.is_empty() || entry.visibility.as_deref() == Some("hide") {
        return None;
    }
    let levels = entry.supported_reasoning_levels.unwrap_or_default();
    let level = |level: &Value| level.as_str().or_else(|| level.get("effort")?.as_str()).map(str::to_owned);
    let levels: Vec<String> = levels.iter().filter_map(level).collect();
    let mut parameters = Vec::new();
    if !levels.is_empty() {
        let effort = Parameter::new("reasoning_effort", "Reasoning effort", ParameterType::Enum, Origin::Cli)
            .flag("-c model_reasoning_effort=<value>")
            .values(levels.iter().map(String::as_str))
            .default_value(entry.default_reasoning_level.clone().map(Setting::Text));
        parameters.push(effort);
    }
    let metadata = ModelFacts {
        supported_in_api: entry.supported_in_api,
        default_reasoning_level: entry.default_reasoning_level,
        supported_reasoning_levels: levels,
        ..ModelFacts::default()
    };
    let display_name = entry.display_name.or(entry.description).filter(|n| !n.is_empty());
    let provider = Some("openai".to_owned());
    Some(Model { display_name, provider, metadata, parameters, ..Model::new(&entry.slug, Origin::Cli) })
}

/// The parameters of the runtime, with defaults from the top level of `config.toml`. The flags are the
/// `-c` forms: the short ones do not all exist for `codex exec`.
pub fn parameters(models: &[Model], config: &str) -> Vec<Parameter> {
    let sections = toml::parse(config);
    let setting = |key: &str| sections.first().and_then(|top| top.get(key)).map(setting);
    let from = |key: &str| if setting(key).is_some() { Origin::Config } else { Origin::Cli };
    let mut levels: Vec<&str> = Vec::new();
    for level in models.iter().flat_map(|m| &m.metadata.supported_reasoning_levels) {
        if !levels.contains(&level.as_str()) {
            levels.push(level);
        }
    }
    let effort_type = if levels.is_empty() { ParameterType::String } else { ParameterType::Enum };
    let mut effort =
        Parameter::new("reasoning_effort", "Reasoning effort", effort_type, from("model_reasoning_effort"))
            .flag("-c model_reasoning_effort=<value>")
            .values(levels)
            .default_value(setting("model_reasoning_effort"));
    effort.metadata = crate::sort::map([("scope".to_owned(), "per-model-values-may-differ".to_owned())]);
    let mut web = Parameter::new("web_search", "Web search", ParameterType::Enum, from("web_search"))
        .flag("-c web_search=<value>")
        .values(["disabled", "cached", "indexed", "live"]);
    web.default_value = setting("web_search").filter(|v| matches!(v, Setting::Text(_)));
    vec![
        Parameter::new("model", "Model", ParameterType::String, from("model"))
            .flag("-m, --model")
            .default_value(setting("model")),
        effort,
        Parameter::new("approval_policy", "Approval policy", ParameterType::Enum, from("approval_policy"))
            .flag("-c approval_policy=<value>")
            .values(["untrusted", "on-failure", "on-request", "granular", "never"])
            .default_value(setting("approval_policy")),
        Parameter::new("sandbox_mode", "Sandbox mode", ParameterType::Enum, from("sandbox_mode"))
            .flag("-c sandbox_mode=<value>")
            .values(["read-only", "workspace-write", "danger-full-access"])
            .default_value(setting("sandbox_mode")),
        web,
    ]
}

fn setting(value: &toml::Value) -> Setting {
    match value {
        toml::Value::Text(text) => Setting::Text(text.clone()),
        toml::Value::Integer(n) => Setting::Integer(*n),
        toml::Value::Boolean(b) => Setting::Boolean(*b),
        toml::Value::List(list) => Setting::Text(list.join(",")),
    }
}

/// The catalogue of an installed `codex`.
pub fn discover(installed: &Installed) -> Catalogue {
    let home = installed.codex_home();
    let printed = installed.output(&["debug", "models"]).and_then(|text| models(&text));
    let cached = || read_file(&home.join("models_cache.json")).and_then(|text| models(&text));
    let models = printed.or_else(cached).unwrap_or_else(builtin);
    let config = read_file(&home.join("config.toml")).unwrap_or_default();
    Catalogue { parameters: parameters(&models, &config), models }
}

fn builtin() -> Vec<Model> {
    let openai = |id: &&str| Model { provider: Some("openai".to_owned()), ..Model::new(id, Origin::Builtin) };
    BUILTIN.iter().map(openai).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_may_be_plain_words() {
        let found = models(r#"{"models":[{"slug":"a","supported_reasoning_levels":["low",{"effort":"high"},3]}]}"#);
        assert_eq!(found.unwrap()[0].metadata.supported_reasoning_levels, ["low", "high"]);
    }

    #[test]
    fn one_odd_entry_does_not_hide_the_others() {
        let found =
            models(r#"{"models":[{"slug":3},{"slug":"a","supported_reasoning_levels":[{"effort":"x"}]}]}"#).unwrap();
        assert_eq!(found.len(), 1);
        let parameters = parameters(&found, "model = \"a\"\n[profiles.x]\nsandbox_mode = \"read-only\"\n");
        assert_eq!(parameters[0].default_value, Some(Setting::Text("a".into())));
        assert_eq!(parameters[1].values, ["x"]);
        assert_eq!(parameters[3].default_value, None);
    }
}
