//! What a channel that fetches its messages asks of the engine.

use crate::engine::{Acceptance, Engine, WeakEngine};
use crate::message::Inbound;

/// Takes messages over. See [`Engine`].
pub trait Acceptor: Send + Sync {
    /// Returns when the messages are durable, long before they are answered; one answer for each, in their order.
    fn accept(&self, messages: Vec<Inbound>) -> Vec<Acceptance>;

    /// Whether a message of this channel is known, and if so whether it is finished.
    fn knows(&self, channel: &str, id: &str) -> Option<bool>;

    /// Ids of this channel's messages that are not finished: their leases are to be renewed.
    fn unfinished(&self, channel: &str) -> Vec<String>;
}

/// An engine that is gone refuses everything.
impl Acceptor for WeakEngine {
    fn accept(&self, messages: Vec<Inbound>) -> Vec<Acceptance> {
        match self.upgrade() {
            Some(engine) => engine.accept(messages),
            None => messages.iter().map(|_| Acceptance::Refused("the daemon is shutting down".into())).collect(),
        }
    }

    fn knows(&self, channel: &str, id: &str) -> Option<bool> {
        self.upgrade()?.knows(channel, id)
    }

    fn unfinished(&self, channel: &str) -> Vec<String> {
        self.upgrade().map(|engine| Engine::unfinished(&engine, channel)).unwrap_or_default()
    }
}
