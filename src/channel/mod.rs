//! Channels: the places that messages come from and replies go to. Each knows its own wire and the
//! engine's traits, and no other channel. [`manager`] says when those that poll or listen are (re)started;
//! [`attached`] is what all of them need for files.

pub mod attached;
pub mod botcord;
pub mod local;
pub mod manager;
pub mod telegram;
