//! Models of `kimi-cli`: the sections of its configuration file, else a built-in list.

use super::{Catalogue, Installed, Model, Origin, Parameter, ParameterType, Setting, read_file, toml};

const BUILTIN: [&str; 4] = ["kimi-code/kimi-for-coding", "kimi-k2-5", "kimi-k2-5-preview", "kimi-k2-0711"];

/// Reads the models of `config.toml`. `None` when it has none.
pub fn models(config: &str) -> Option<Vec<Model>> {
    let sections = toml::parse(config);
    let top = sections.first()?;
    let default = top.text("default_model");
    let models: Vec<_> = sections.iter().filter_map(|section| model(section, top, default)).collect();
    (!models.is_empty()).then_some(models)
}

fn model(section: &toml::Section, top: &toml::Section, default: Option<&str>) -> Option<Model> {
    let [first, rest @ ..] = section.name.as_slice() else { return None };
    if first != "models" || rest.is_empty() {
        return None;
    }
    // An unquoted name with dots was split into parts: they belong together.
    let id = rest.join(".");
    let capabilities = match section.get("capabilities") {
        Some(toml::Value::List(list)) => list.clone(),
        _ => Vec::new(),
    };
    let parameters = if capabilities.iter().any(|c| c == "thinking") { vec![thinking(Some(top))] } else { Vec::new() };
    let mut model = Model {
        is_default: Some(default == Some(id.as_str())),
        provider: section.text("provider").map(str::to_owned),
        display_name: section.text("display_name").map(str::to_owned),
        context_length: match section.get("max_context_size") {
            Some(toml::Value::Integer(n)) => Some(*n),
            _ => None,
        },
        capabilities,
        parameters,
        ..Model::new(&id, Origin::Config)
    };
    model.metadata.model = section.text("model").map(str::to_owned);
    Some(model)
}

fn thinking(top: Option<&toml::Section>) -> Parameter {
    Parameter::new("thinking", "Thinking", ParameterType::Boolean, Origin::Config)
        .flag("--thinking/--no-thinking")
        .default_value(top.and_then(|top| boolean(top, "default_thinking")))
}

fn boolean(section: &toml::Section, key: &str) -> Option<Setting> {
    match section.get(key) {
        Some(toml::Value::Boolean(b)) => Some(Setting::Boolean(*b)),
        _ => None,
    }
}

fn integer(section: &toml::Section, key: &str) -> Option<Setting> {
    match section.get(key) {
        Some(toml::Value::Integer(n)) => Some(Setting::Integer(*n)),
        _ => None,
    }
}

/// The parameters of the older program, with defaults from its `config.toml`.
pub fn parameters(config: &str) -> Vec<Parameter> {
    let sections = toml::parse(config);
    let empty = toml::Section::default();
    let top = sections.first().unwrap_or(&empty);
    let switch = |id: &str, name: &str, keys: [&str; 2]| {
        let value = keys.iter().find_map(|key| boolean(top, key));
        Parameter::new(id, name, ParameterType::Boolean, Origin::Config).default_value(value)
    };
    let number = |id: &str, name: &str, minimum: i64| {
        Parameter::new(id, name, ParameterType::Integer, Origin::Config)
            .default_value(integer(top, id))
            .minimum(minimum)
    };
    vec![
        model_parameter(top),
        thinking(Some(top)),
        switch(
            "show_thinking_stream",
            "Show thinking stream",
            ["show_thinking_stream", "default_show_thinking_stream"],
        ),
        switch("yolo", "Auto approve", ["default_yolo", "yolo"]).flag("--yolo, --yes, -y"),
        switch("plan_mode", "Plan mode", ["default_plan_mode", "plan_mode"]).flag("--plan"),
        number("max_steps_per_turn", "Max steps per turn", 1).flag("--max-steps-per-turn"),
        number("max_retries_per_step", "Max retries per step", 1).flag("--max-retries-per-step"),
        number("max_ralph_iterations", "Max Ralph iterations", -1).flag("--max-ralph-iterations"),
        number("reserved_context_size", "Reserved context size", 0),
    ]
}

fn model_parameter(top: &toml::Section) -> Parameter {
    let default = top.text("default_model").map(|t| Setting::Text(t.to_owned()));
    Parameter::new("model", "Default model", ParameterType::String, Origin::Config)
        .flag("-m, --model")
        .default_value(default)
}

/// The catalogue of an installed `kimi`. The newer program takes nothing but a model.
pub fn discover(installed: &Installed) -> Catalogue {
    if let Some(config) = read_file(&installed.kimi_home().join("config.toml")) {
        let top = toml::parse(&config).into_iter().next().unwrap_or_default();
        let mut models = models(&config).unwrap_or_else(builtin);
        for model in &mut models {
            model.parameters.clear();
        }
        return Catalogue { models, parameters: vec![model_parameter(&top)] };
    }
    match read_file(&installed.home.join(".kimi/config.toml")) {
        Some(config) => Catalogue { models: models(&config).unwrap_or_else(builtin), parameters: parameters(&config) },
        None => Catalogue { models: builtin(), parameters: vec![thinking(None)] },
    }
}

fn builtin() -> Vec<Model> {
    BUILTIN.iter().map(|id| Model::new(id, Origin::Builtin)).collect()
}
