//! Which models and settings a runtime offers, for the dashboards that let a person choose.
//!
//! Each runtime has a parser for what its CLI or its configuration files say, and a built-in list for
//! when they say nothing. Results are kept in a cache file for ten minutes, so that listing runtimes does
//! not wait for a CLI each time; the daemon renews it in the background when it is used.

mod cache;
pub mod claude;
pub mod codex;
pub mod deepseek;
pub mod gemini;
pub mod kimi;
pub mod toml;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cache::lookup;

/// Most models that are announced for one runtime.
pub const MODELS_LIMIT: usize = 128;
/// Most parameters that are announced for one runtime.
pub const PARAMETERS_LIMIT: usize = 64;
/// Largest configuration file that is read, in bytes.
const FILE_LIMIT: u64 = 16 * 1_048_576;

/// Where a model or a parameter is known from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A list in this program.
    Builtin,
    /// A configuration file of the CLI.
    Config,
    /// The CLI itself.
    Cli,
    /// The daemon's environment.
    Env,
}

/// Type of a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ParameterType {
    /// One of a list.
    Enum,
    /// On or off.
    Boolean,
    /// A whole number.
    Integer,
    /// Any text.
    String,
}

/// Value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, try_from = "Value")]
pub enum Setting {
    /// On or off.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any text.
    Text(String),
}

impl TryFrom<Value> for Setting {
    type Error = &'static str;

    fn try_from(value: Value) -> Result<Self, Self::Error> {
        match value {
            Value::Bool(on) => Ok(Self::Boolean(on)),
            Value::Number(n) => n.as_i64().map(Self::Integer).ok_or("a setting is a whole number"),
            Value::String(text) => Ok(Self::Text(text)),
            _ => Err("a setting is true, false, a whole number or a text"),
        }
    }
}

/// Something that can be set for a runtime or for one model of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Parameter {
    /// Id.
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Type.
    #[serde(rename = "type")]
    pub kind: ParameterType,
    /// How the CLI is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// What an enum can be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
    /// Value unless set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_value: Option<Setting>,
    /// Smallest integer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Where it is known from.
    pub source: Origin,
    /// More about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Parameter {
    /// A parameter without limits and default.
    pub fn new(id: &str, display_name: &str, kind: ParameterType, source: Origin) -> Self {
        Self {
            id: id.to_owned(),
            display_name: Some(display_name.to_owned()),
            kind,
            flag: None,
            values: Vec::new(),
            default_value: None,
            minimum: None,
            source,
            metadata: BTreeMap::new(),
        }
    }

    /// With the flag that sets it.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flag = Some(flag.to_owned());
        self
    }

    /// With the values of an enum.
    #[must_use]
    pub fn values<'a>(mut self, values: impl IntoIterator<Item = &'a str>) -> Self {
        self.values = values.into_iter().map(str::to_owned).collect();
        self
    }

    /// With a default.
    #[must_use]
    pub fn default_value(mut self, value: Option<Setting>) -> Self {
        self.default_value = value;
        self
    }

    /// With a smallest value.
    #[must_use]
    pub fn minimum(mut self, minimum: i64) -> Self {
        self.minimum = Some(minimum);
        self
    }
}

/// A model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Model {
    /// Id, as the CLI wants it.
    pub id: String,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Who serves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Where it is known from.
    pub source: Origin,
    /// The CLI uses it unless told otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_default: Option<bool>,
    /// What it can do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// Size of its context in tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context_length: Option<i64>,
    /// More about it.
    #[serde(default, skip_serializing_if = "ModelFacts::is_empty")]
    pub metadata: ModelFacts,
    /// What can be set for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<Parameter>,
}

impl Model {
    /// A model of which only the id is known.
    pub fn new(id: &str, source: Origin) -> Self {
        Self {
            id: id.to_owned(),
            display_name: None,
            provider: None,
            source,
            is_default: None,
            capabilities: Vec::new(),
            context_length: None,
            metadata: ModelFacts::default(),
            parameters: Vec::new(),
        }
    }
}

/// What only some CLIs tell about a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelFacts {
    /// Offered by the API (codex).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supported_in_api: Option<bool>,
    /// Level of reasoning unless set (codex).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_reasoning_level: Option<String>,
    /// Levels of reasoning (codex).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supported_reasoning_levels: Vec<String>,
    /// Name at the provider (kimi).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Variable that names it (claude-code).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<String>,
}

impl ModelFacts {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Everything that can be chosen for a runtime.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalogue {
    /// Models.
    #[serde(default)]
    pub models: Vec<Model>,
    /// Parameters.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
}

impl Catalogue {
    fn capped(mut self) -> Self {
        self.models.truncate(MODELS_LIMIT);
        self.parameters.truncate(PARAMETERS_LIMIT);
        self
    }
}

/// The installed CLI whose catalogue is wanted.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Runtime id.
    pub runtime: String,
    /// The binary.
    pub binary: PathBuf,
    /// What it says its version is.
    pub version: Option<String>,
    /// The user's home.
    pub home: PathBuf,
    /// The environment that CLIs are started with.
    pub env: BTreeMap<String, String>,
}

impl Installed {
    fn var(&self, name: &str) -> Option<&str> {
        self.env.get(name).map(String::as_str).filter(|v| !v.is_empty())
    }

    /// The files that its catalogue depends on.
    fn files(&self) -> Vec<PathBuf> {
        match self.runtime.as_str() {
            "claude-code" => vec![self.home.join(".claude/settings.json")],
            "codex" => vec![self.codex_home().join("models_cache.json"), self.codex_home().join("config.toml")],
            "deepseek-tui" => {
                vec![self.home.join(".codewhale/config.toml"), self.home.join(".deepseek/config.toml")]
            }
            "kimi-cli" => vec![self.kimi_home().join("config.toml"), self.home.join(".kimi/config.toml")],
            _ => Vec::new(),
        }
    }

    /// The variables that its catalogue depends on.
    fn variables(&self) -> &'static [&'static str] {
        match self.runtime.as_str() {
            "claude-code" => &claude::MODEL_VARIABLES,
            "codex" => &["OPENAI_BASE_URL", "CODEX_HOME"],
            "kimi-cli" => &["KIMI_CODE_HOME"],
            "gemini" => &["GEMINI_CLI_HOME"],
            _ => &[],
        }
    }

    fn codex_home(&self) -> PathBuf {
        self.var("CODEX_HOME").map_or_else(|| self.home.join(".codex"), PathBuf::from)
    }

    fn kimi_home(&self) -> PathBuf {
        self.var("KIMI_CODE_HOME").map_or_else(|| self.home.join(".kimi-code"), PathBuf::from)
    }

    /// Output of the binary with these arguments: 5 s, 16 MiB, nothing on stdin. `None` on any failure.
    fn output(&self, args: &[&str]) -> Option<String> {
        super::capture::stdout(&self.binary, args, &self.env, &self.home)
    }
}

/// Asks the CLI and its files. `None`: the runtime has no catalogue.
pub fn discover(installed: &Installed) -> Option<Catalogue> {
    let catalogue = match installed.runtime.as_str() {
        "claude-code" => claude::discover(installed),
        "codex" => codex::discover(installed),
        "deepseek-tui" => deepseek::discover(installed),
        "kimi-cli" => kimi::discover(installed),
        "gemini" => gemini::discover(),
        _ => return None,
    };
    Some(catalogue.capped())
}

/// A configuration file as text; `None` when it is missing, not text, or larger than 16 MiB.
fn read_file(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok().filter(|m| m.is_file() && m.len() <= FILE_LIMIT)?;
    let mut text = String::with_capacity(metadata.len() as usize);
    let file = std::fs::File::open(path).ok()?;
    std::io::Read::read_to_string(&mut std::io::Read::take(file, FILE_LIMIT), &mut text).ok()?;
    Some(text)
}
