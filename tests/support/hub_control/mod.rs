//! The control side of a BotCord hub in the test's own process: logins, the daemons' sockets, and what belongs to them.
//!
//! ```text
//! let hub = ControlHub::start();
//! let daemon = hub.log_in(&home);
//! … start the daemon on this home …
//! hub.wait_online(&daemon);
//! let ack = hub.send(&daemon, "ping", json!({})).ack();
//! ```
//!
//! It refuses what the real hub refuses. What a daemon must never send is noted as a violation, and the end of a hub
//! asserts that there is none; a test that provokes some takes them with [`ControlHub::violations`].
//!
//! What is where: [`server`] is the port and the table of paths; [`login`] codes, tickets and tokens; [`cloud`] settling
//! and cloud instances; [`agents`] what an agent asks for; [`socket`] the daemons' sockets; [`checks`] what a snapshot must
//! look like; [`sign`] the hub's key; [`world`] all that is known; [`handles`] and [`frames`] what a test does with it.
#![allow(dead_code, missing_docs, unused_imports)]

pub mod agents;
pub mod checks;
pub mod cloud;
pub mod frames;
pub mod handles;
pub mod login;
pub mod server;
pub mod sign;
pub mod socket;
pub mod world;

pub use frames::{Frame, Pending};
pub use handles::ControlHub;
pub use world::{Fault, Refusal};
