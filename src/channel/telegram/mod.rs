//! The Telegram channel: one bot at Telegram's public Bot API, which speaks for one agent.
//!
//! - [`api`]: every request. The bot's token is a part of each URL, so no URL leaves it. - [`update`]: what becomes of
//!   updates. - [`access`]: whose messages count. - [`media`]: files that come with them.
//! - [`poll`]: asking for updates, and moving on when the journal has them. - [`state`]: what a restart goes on from.
//! - [`send`]: replies, in pieces. - [`channel`]: all of it together, as the engine sees it.

pub mod access;
pub mod api;
pub mod channel;
pub mod media;
pub mod poll;
pub mod send;
pub mod state;
pub mod update;
