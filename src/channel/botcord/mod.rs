//! The BotCord channel: one agent at one hub.
//!
//! - [`normalise`], [`drain`]: what becomes of inbox messages. - [`inbox`]: asking, leases, acknowledging.
//! - [`socket`], [`connection`]: when and how the hub is connected to. - [`hub`]: what they need of it.
//! - [`credentials`]: who an agent is. - [`api`]: every request to a hub, with [`exchange`], [`wire`], [`error`] and
//!   [`envelope`].
//! - [`request`], [`token`], [`refusal`], [`pace`]: retries, tokens, the end of them, and limits.
//! - [`channel`]: all of it together, as the engine sees it.

pub mod api;
pub mod channel;
pub mod connection;
pub mod credentials;
pub mod drain;
pub mod envelope;
pub mod error;
pub mod exchange;
pub mod hub;
pub mod inbox;
pub mod normalise;
pub mod pace;
pub mod refusal;
pub mod request;
pub mod socket;
pub mod token;
pub mod wire;
