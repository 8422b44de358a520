//! bellhop carries messages between rooms and the agent CLIs of a machine.
//!
//! - [`message`], [`text`], [`heap`] and the like know nobody: words, measures, secrets, files, memory.
//! - [`sort`] is the one road of sorting.
//! - [`json`] is the one road from documents to types and back.
//! - [`store`] makes files that survive a crash; [`config`] is the configuration and every path.
//! - [`engine`] turns messages into turns and replies; it declares the traits the others implement.
//! - [`usage`] writes down what turns have cost.
//! - [`serve`] is the control API: a Unix socket for the commands of a person, and its client.
//! - [`cli`] is the command line: a client of the control API.
//! - [`runtime`] and the other adapters implement them, and never know each other.

pub mod channel;
pub mod cli;
pub mod config;
pub mod crypto;
pub mod daemon;
pub mod engine;
pub mod failure;
pub mod heap;
pub mod json;
pub mod link;
pub mod message;
pub mod net;
pub mod prompt;
pub mod redact;
pub mod runtime;
pub mod sanitize;
pub mod scan;
pub mod serve;
pub mod sort;
pub mod store;
pub mod text;
pub mod thread;
pub mod time;
pub mod usage;
