//! The Agent Client Protocol: JSON-RPC 2.0 over a child's stdin and stdout, one object per line.
//!
//! [`rpc`] knows lines, [`update`] and [`permission`] know the two messages of an agent that matter,
//! [`messages`] has the parameters of requests; [`client`] is the state machine of one turn in one process,
//! [`run`] what is around it, [`trace`] writes what went over the wire.
//! `hermes-agent` and the configured `acp:<name>` runtimes are thin shells around [`run::run`];
//! `openclaw-acp` keeps its process between turns and shares everything but the client.

pub mod client;
pub mod messages;
pub mod permission;
pub mod rpc;
pub mod run;
pub mod trace;
pub mod update;
