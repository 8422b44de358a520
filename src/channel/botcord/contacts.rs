//! Tells the owner that somebody wants to be a contact (the hub's protocol, §11.1): the request belongs to no room, so
//! no turn could answer it, and a person decides about it elsewhere.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::far::Far;

/// For so long the owner is not told again of the same sender.
const ONCE_IN: Duration = Duration::from_hours(24);
/// Senders that are remembered.
const SENDERS: usize = 256;
/// Notices in a minute; a hub takes 10.
const MOST: usize = 6;
const MINUTE: Duration = Duration::from_secs(61);

/// The notices about contacts of one agent.
pub struct Contacts {
    far: Arc<dyn Far>,
    told: Mutex<VecDeque<(String, Instant)>>,
}

impl Contacts {
    /// Nobody was told of yet.
    pub fn new(far: Arc<dyn Far>) -> Self {
        Self { far, told: Mutex::default() }
    }

    /// Somebody wants to be a contact. Waits for the hub; a notice that fails is in the log alone.
    pub fn wanted(&self, sender: &str) {
        let agent = self.far.agent();
        let is_id = (1..=64).contains(&sender.len()) && sender.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !is_id || !self.may_tell(sender) {
            log::info!("botcord.contact_request_untold agent={agent} from={:?}", crate::text::clip(sender, 64));
            return;
        }
        let text = format!("{sender} wants to be a contact of this agent. Accept or refuse it among its contacts.");
        match self.far.notify_owner(&text) {
            Ok(()) => log::info!("botcord.contact_request agent={agent} from={sender}"),
            Err(e) => {
                log::warn!("botcord.contact_request_untold agent={agent} from={sender} error={:?}", e.to_string());
            }
        }
    }

    fn may_tell(&self, sender: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(_, at)| at.elapsed() < ONCE_IN);
        let lately = told.iter().filter(|(_, at)| at.elapsed() < MINUTE).count();
        if lately >= MOST || told.iter().any(|(known, _)| known == sender) {
            return false;
        }
        if told.len() >= SENDERS {
            told.pop_front();
        }
        told.push_back((sender.to_owned(), Instant::now()));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeHub;
    use super::*;

    #[test]
    fn the_owner_is_told_once_of_each_and_not_flooded() {
        let hub = Arc::new(FakeHub::default());
        let contacts = Contacts::new(Arc::clone(&hub) as Arc<dyn Far>);
        for sender in ["ag_2", "ag_2", "hu_3", "not an id\n", ""] {
            contacts.wanted(sender);
        }
        let calls = hub.calls();
        assert_eq!(calls.len(), 2);
        assert!(calls[0].starts_with("notify ag_2 wants to be a contact"));
        for n in 0..20 {
            contacts.wanted(&format!("ag_{n}x"));
        }
        assert_eq!(hub.calls().len(), MOST);
    }
}
