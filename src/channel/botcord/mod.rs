//! The BotCord channel: one agent at one hub.
//!
//! - [`normalise`], [`drain`]: what becomes of inbox messages. - [`inbox`]: asking, leases, acknowledging.
//! - [`socket`], [`connection`]: when and how the hub is connected to. - [`hub`]: what they need of it.

pub mod connection;
pub mod drain;
pub mod hub;
pub mod inbox;
pub mod normalise;
pub mod socket;
