//! A quick look at an agent's credentials and its hub, for `doctor`: less strict than loading them, so that a hub can be
//! asked although a file is not as it should be.

use serde_json::Value;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// The file is there, is JSON, and holds a token or the key that buys one.
    pub credentials_ok: bool,
    /// In a few words.
    pub credentials_message: String,
    /// The hub that it names, as it is written.
    pub hub_url: Option<String>,
    /// The hub answers.
    pub hub_ok: bool,
    /// In a few words.
    pub hub_message: String,
}

/// Looks at the text of a file (`None`: there is none), and has the hub asked that it names: `ask` gets its address and
/// returns the status that it answers with.
pub fn check(path: &str, file: Option<&str>, ask: &mut dyn FnMut(&str) -> Result<u16, String>) -> Checked {
    let document = file.map(|text| crate::json::parse(text.as_bytes()).ok().filter(Value::is_object));
    let (credentials_ok, credentials_message) = match &document {
        None => (false, format!("missing ({path})")),
        Some(None) => (false, format!("not JSON ({path})")),
        Some(Some(document)) => {
            let has = |key: &str| document[key].as_str().is_some_and(|text| !text.is_empty());
            // A token that is not there yet is bought with the key.
            if ["token", "privateKey", "private_key"].iter().any(|key| has(key)) {
                (true, format!("loaded ({path})"))
            } else {
                (false, format!("no token ({path})"))
            }
        }
    };
    let document = document.flatten().unwrap_or_default();
    let hub_url = ["hubUrl", "hub_url", "hub"].iter().find_map(|key| document[*key].as_str());
    let hub_url = hub_url.filter(|url| !url.is_empty()).map(ToOwned::to_owned);
    let (hub_ok, hub_message) = match hub_url.as_deref().map(ask) {
        None => (false, "skipped (no hub URL)".into()),
        Some(Ok(status)) if is_there(status) => (true, format!("reachable (HTTP {status})")),
        Some(Ok(status)) => (false, format!("HTTP {status}")),
        Some(Err(why)) => (false, why),
    };
    Checked { credentials_ok, credentials_message, hub_url, hub_ok, hub_message }
}

/// That a hub knows no such page is an answer, too.
pub fn is_there(status: u16) -> bool {
    matches!(status, 200..=399 | 404)
}
