//! What stands in for an agent or a gateway that cannot be connected, so that it is not simply missing in the status.

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{ChannelNews, Exit, Lifecycle};

/// A channel that never is.
pub(super) struct Unusable {
    /// Its id.
    pub(super) id: String,
    /// The agent that it would be for.
    pub(super) account: String,
    /// What it would lead to.
    pub(super) provider: String,
    /// Why it is not, for people.
    pub(super) why: String,
}

impl Lifecycle for Unusable {
    fn id(&self) -> &str {
        &self.id
    }

    fn account(&self) -> &str {
        &self.account
    }

    fn provider(&self) -> &str {
        &self.provider
    }

    fn run(&self, _stop: &CancelToken, _tell: &dyn Fn(ChannelNews)) -> Exit {
        Exit::Permanent(self.why.clone())
    }
}
