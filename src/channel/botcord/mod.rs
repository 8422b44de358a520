//! The BotCord channel: one agent at one hub.
//!
//! - [`normalise`], [`drain`]: what becomes of inbox messages. - [`inbox`]: asking, leases, acknowledging.
//! - [`socket`], [`connection`]: when and how the hub is connected to. - [`hub`]: what they need of it.
//! - [`credentials`]: who an agent is. - [`api`]: every request to a hub, with [`exchange`], [`wire`], [`salvage`],
//!   [`error`] and [`envelope`]. [`registry`]: how an agent becomes one.
//! - [`request`], [`token`], [`refusal`], [`pace`], [`page`]: retries, tokens, the end of them, and limits.
//! - [`voice`]: what the agent lets its hub know. Of that [`send`], with [`payload`], [`outcome`] and [`files`], is what it
//!   says; [`live`], with [`stream_block`], [`tool_event`], [`block_size`] and [`typing_budget`], what it is seen doing,
//!   until the [`ends`]. [`rooms`], [`policy`], [`contacts`], [`prefetch`],
//!   [`signatures`]: look-ups. [`far`]: what they need of a hub.
//! - [`channel`]: all of it together, as the engine sees it.

pub mod api;
pub mod block_size;
pub mod channel;
pub mod connection;
pub mod contacts;
pub mod credentials;
pub mod drain;
pub mod ends;
pub mod envelope;
pub mod error;
pub mod exchange;
#[cfg(test)]
mod fake;
pub mod far;
pub mod files;
pub mod hub;
pub mod inbox;
pub mod live;
pub mod normalise;
pub mod outcome;
pub mod pace;
pub mod page;
pub mod payload;
pub mod policy;
pub mod prefetch;
pub mod refusal;
pub mod registry;
pub mod request;
pub mod rooms;
pub mod salvage;
pub mod send;
pub mod signatures;
pub mod socket;
pub mod stream_block;
pub mod token;
pub mod tool_event;
pub mod tools;
pub mod typing_budget;
pub mod voice;
pub mod wire;
