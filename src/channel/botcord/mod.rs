//! The BotCord channel: one agent at one hub.
//!
//! - [`normalise`], [`drain`]: what becomes of inbox messages. - [`socket`]: when the hub is connected to.

pub mod drain;
pub mod normalise;
pub mod socket;
