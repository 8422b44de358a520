//! The hub of the tests is itself tested: it answers as the protocol says, and it notices what a daemon must not do.
#![allow(missing_docs)]

#[path = "../support/hub/mod.rs"]
mod hub;
#[path = "../support/vector_file.rs"]
#[allow(dead_code)]
mod vector_file;

mod client;
mod crypto;
mod faults;
mod inbox;
mod live;
mod registry;
mod send;
mod socket;
mod story;
