//! A BotCord hub in the test's own process: strict, on loopback, HTTP and WebSocket on one port.
//!
//! ```text
//! let hub = Hub::start();
//! let ada = hub.agent("Ada");
//! hub.write_credentials(&ada, &home);
//! … start the daemon on this home …
//! let said = hub.owner_says(&ada, "hi");
//! let answer = hub.wait_answer(&said);
//! hub.wait_settled(&said);
//! ```
//!
//! The end of a hub asserts that the daemon has broken none of the [`Rule`]s; a test that makes it break one says
//! [`Hub::allow`] or takes it with [`Hub::violations_of`]. Faults are set with [`Hub::fault`], time is moved with
//! [`Hub::clock`], [`Hub::stop`] and [`Hub::start_again`] are a crash of the hub and its return with its state.
//!
//! What is where: [`server`], [`http`], [`ws`] are the port; [`endpoint`] the table of paths; [`strict`] who calls, and how;
//! [`registry`], [`inbox`], [`send`] with [`deliver`], [`live`], [`files`], [`rooms`] the endpoints; [`state`] all that
//! is known; [`handles`], [`speech`], [`waits`], [`books`] what a test does with it;
//! [`settings`], [`clock`], [`faults`] how it behaves; [`violations`] what it notices. [`jcs`] and [`sign`] are
//! written independently of the daemon's, so that two mistakes do not cancel.
#![allow(dead_code, missing_docs, unused_imports)]

pub mod books;
pub mod clock;
pub mod deliver;
pub mod endpoint;
pub mod faults;
pub mod files;
pub mod handles;
pub mod http;
pub mod inbox;
pub mod jcs;
pub mod live;
pub mod registry;
pub mod rooms;
pub mod send;
pub mod server;
pub mod settings;
pub mod sign;
pub mod speech;
pub mod state;
pub mod strict;
pub mod violations;
pub mod waits;
pub mod ws;

pub use endpoint::Endpoint;
pub use faults::Fault;
pub use handles::{AgentHandle, Hub};
pub use settings::Settings;
pub use speech::Said;
pub use state::State;
pub use violations::Rule;
