//! Models of `deepseek-tui`: the lines of `model list`, else one built-in model.

use super::{Catalogue, Installed, Model, Origin, Parameter, ParameterType, Setting, read_file, toml};

const BUILTIN: &str = "deepseek-v4-flash";
const PROVIDERS: [&str; 9] =
    ["deepseek", "nvidia-nim", "openai", "openrouter", "novita", "fireworks", "sglang", "vllm", "ollama"];

/// Reads lines of `<id>` or `<id> (<provider>)`. `None` when there is none.
pub fn models(text: &str) -> Option<Vec<Model>> {
    let models: Vec<_> = text.lines().filter_map(model).collect();
    (!models.is_empty()).then_some(models)
}

fn model(line: &str) -> Option<Model> {
    let line = line.trim();
    let (id, provider) = match line.strip_suffix(')').and_then(|l| l.rsplit_once('(')) {
        Some((id, provider)) => (id.trim_end(), provider.trim()),
        None => (line, ""),
    };
    // Headings and messages have spaces, ids have none.
    if id.is_empty() || id.contains(char::is_whitespace) {
        return None;
    }
    let provider = if provider.is_empty() { "deepseek" } else { provider };
    Some(Model {
        display_name: Some(id.to_owned()),
        provider: Some(provider.to_owned()),
        ..Model::new(id, Origin::Cli)
    })
}

/// The parameters of the runtime, with defaults from the top level of its configuration file.
pub fn parameters(config: &str) -> Vec<Parameter> {
    let sections = toml::parse(config);
    let setting = |key: &str| sections.first().and_then(|top| top.text(key)).map(|t| Setting::Text(t.to_owned()));
    let parameter = |id: &str, name: &str, key: &str, kind: ParameterType| {
        Parameter::new(id, name, kind, Origin::Config).default_value(setting(key))
    };
    vec![
        parameter("model", "Model", "default_text_model", ParameterType::String).flag("--model"),
        parameter("provider", "Provider", "provider", ParameterType::Enum).values(PROVIDERS),
        parameter("reasoning_effort", "Reasoning effort", "reasoning_effort", ParameterType::String)
            .flag("--reasoning-effort"),
        parameter("approval_policy", "Approval policy", "approval_policy", ParameterType::String),
        parameter("sandbox_mode", "Sandbox mode", "sandbox_mode", ParameterType::String),
    ]
}

/// The catalogue of an installed server.
pub fn discover(installed: &Installed) -> Catalogue {
    let config = installed.files().iter().find_map(|file| read_file(file)).unwrap_or_default();
    let models = installed.output(&["model", "list"]).and_then(|text| models(&text)).unwrap_or_else(|| {
        let provider = Some("deepseek".to_owned());
        vec![Model { provider, display_name: Some(BUILTIN.to_owned()), ..Model::new(BUILTIN, Origin::Builtin) }]
    });
    Catalogue { models, parameters: parameters(&config) }
}
