//! What receiving needs of a hub, so that it can be tried without one.

use std::time::Duration;

use serde_json::Value;

/// Why the hub did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It will never do anything for this agent again; the text is for people.
    Revoked(String),
    /// Not this time; the text is for the log and holds no secrets.
    Failed(String),
}

/// One answer of the inbox.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Its messages as they came, oldest first.
    pub messages: Vec<Value>,
    /// There are more.
    pub has_more: bool,
}

/// A hub, for one agent. Calls wait for the network, within their own time limits.
pub trait Hub: Send + Sync {
    /// Takes up to [`PAGE`] messages under lease; waits so long for the first one.
    fn poll(&self, wait: Duration) -> Result<Page, Fault>;

    /// Says that messages are finished; returns how many the hub still had.
    fn acknowledge(&self, ids: &[String]) -> Result<u64, Fault>;

    /// Says that messages are still worked on; returns for how many the hub believes it.
    fn renew(&self, ids: &[String]) -> Result<u64, Fault>;

    /// A token for the socket; another one than `refused`, where that is given.
    fn token(&self, refused: Option<&str>) -> Result<String, Fault>;

    /// Address of the socket.
    fn socket_url(&self) -> String;
}

/// Messages of one answer at most.
pub const PAGE: usize = 50;
