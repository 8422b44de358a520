//! Whether a text addresses the agent.
//!
//! Channels that know about mentions set the flag themselves; this scan finds the ones that people type by hand,
//! as `@name`, `@ag_id` or `Name(ag_id)`.

use crate::message::Inbound;
use crate::text;

/// Whether `text` holds `(id)`, `@id` or `@name`, in any case. Nothing is required after the name, so that
/// `@noraline` addresses `Nora` too: a false alarm is cheaper than a missed call.
pub fn scan(text: &str, agent_id: Option<&str>, display_name: Option<&str>) -> bool {
    if text.is_empty() {
        return false;
    }
    let text = text.to_lowercase();
    let target = |t: Option<&str>| t.map(|t| text::trim(t).to_lowercase()).filter(|t| !t.is_empty());
    let id = target(agent_id);
    let name = target(display_name);
    let has = |needle: String| text.contains(&needle);
    id.as_ref().is_some_and(|id| has(format!("({id})")) || has(format!("@{id}")))
        || name.is_some_and(|name| has(format!("@{name}")))
}

/// Whether the message counts as addressed to its agent: flagged, or the agent's id is in its text or in the
/// text of one of its entries.
pub fn effective(message: &Inbound) -> bool {
    let id = Some(message.account_id.as_str());
    message.mentioned || scan(&message.text, id, None) || message.entries.iter().any(|e| scan(&e.text, id, None))
}

/// Sets the flags of the message and of its entries where their text addresses the agent, and tells whether any
/// did. Flags that are already set stay and do not count.
pub fn apply(message: &mut Inbound, agent_id: Option<&str>, display_name: Option<&str>) -> bool {
    let mut hit = scan(&message.text, agent_id, display_name);
    for entry in &mut message.entries {
        if scan(&entry.text, agent_id, display_name) {
            entry.mentioned = true;
            hit = true;
        }
    }
    message.mentioned |= hit;
    hit
}
