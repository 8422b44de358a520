//! Nothing is lost and nothing is said twice between a hub and the daemon, whoever of them is killed, and when.
//!
//! The hub's books are compared with those of the agent's CLI: see [`kills`]. The daemon, its home and the CLI are those
//! of the crash tests without a hub.
#![allow(missing_docs)]

#[path = "../crash/books.rs"]
#[allow(dead_code)]
mod books;
#[path = "../crash/daemon.rs"]
#[allow(dead_code)]
mod daemon;
#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/mod.rs"]
mod support;

mod chats;
mod kills;
mod moments;
