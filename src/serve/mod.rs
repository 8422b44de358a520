//! The control API: how a person's commands reach the running daemon.
//!
//! HTTP/1.1 with JSON bodies over a Unix socket in the home, server-sent events for the progress of a turn.
//! This folder knows the engine's ports (as a [`crate::engine::ports::TurnObserver`]) and nothing else of the
//! engine: what the daemon does with a request is behind [`Control`].
//!
//! - [`wire`]: every request, answer and event as a type; the one place where the protocol is defined.
//! - [`queue`]: its part about the queue.
//! - [`room`]: its part for the agents of running turns.
//! - [`api`]: the trait [`Control`], the routes, and the glue between them.
//! - [`follow`]: remembers the progress of messages, so that it can be watched from the beginning.
//! - [`http`] and [`conn`]: heads and bodies as bytes, and the timed reading and writing of them.
//! - [`port`]: the metrics on a TCP port of this machine, for those who want that.
//! - [`sse`]: event streams as bytes, both directions.
//! - `watch`: serving one event stream.
//! - [`server`]: acceptor and connection threads. [`client`]: the other end. [`socket`]: where they meet.

pub mod api;
pub mod client;
pub mod conn;
pub mod follow;
pub mod http;
pub mod port;
pub mod queue;
pub mod room;
pub mod server;
pub mod socket;
pub mod sse;
mod watch;
pub mod wire;

pub use api::Control;
