//! Channels: the places that messages come from and replies go to. Each knows its own wire and the
//! engine's traits, and no other channel.

pub mod local;
