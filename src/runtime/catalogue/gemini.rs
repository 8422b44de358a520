//! Models of `gemini`: a built-in list, for the CLI offers no way to ask without starting a session.

use super::{Catalogue, Model, Origin};

const BUILTIN: [&str; 12] = [
    "auto",
    "pro",
    "flash",
    "flash-lite",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-2.5-flash-lite",
    "gemini-3-pro-preview",
    "gemini-3-flash-preview",
    "gemini-3.1-pro-preview",
    "gemini-3.1-pro-preview-customtools",
    "gemini-3.1-flash-lite-preview",
];

/// The catalogue of any `gemini`.
pub fn discover() -> Catalogue {
    let model = |id: &&str| {
        let is_default = (*id == "auto").then_some(true);
        Model { provider: Some("google".to_owned()), is_default, ..Model::new(id, Origin::Builtin) }
    };
    Catalogue { models: BUILTIN.iter().map(model).collect(), parameters: Vec::new() }
}
