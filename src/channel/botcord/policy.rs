//! When an agent listens, as its hub says (the hub's protocol, §16.4). What is remembered of it, also while the hub
//! cannot be asked, is the engine's business.

use std::sync::Arc;

use serde_json::json;

use super::far::Far;
use crate::engine::gate::Policy;
use crate::engine::policy::PolicySource;

/// The policies of one agent.
pub struct Policies {
    far: Arc<dyn Far>,
    per_conversation: bool,
}

impl Policies {
    /// `per_conversation`: the hub is asked for each room; else only in general.
    pub fn new(far: Arc<dyn Far>, per_conversation: bool) -> Self {
        Self { far, per_conversation }
    }
}

impl PolicySource for Policies {
    fn fetch(&self, _: &str, conversation: Option<&str>) -> Result<Option<Policy>, String> {
        let policy = self.far.attention_policy(conversation).map_err(|e| e.to_string())?;
        Ok(Some(Policy::from_wire(&json!({
            "mode": policy.mode,
            "keywords": policy.keywords,
            "allowedSenderIds": policy.allowed_sender_ids,
            "muted_until": policy.muted_until,
        }))))
    }

    fn per_conversation(&self) -> bool {
        self.per_conversation
    }
}
