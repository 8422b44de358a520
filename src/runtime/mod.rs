//! Runtimes: the adapters that drive agent CLIs as child processes.
//!
//! [`RUNTIMES`] lists what is registered, [`Registry`] makes adapters from it. An adapter of a CLI that runs
//! once per turn is a [`ndjson::Cli`] (how it is started) with a [`ndjson::StreamParser`] (what its events
//! mean); the driver in [`ndjson`] does the rest on top of [`process`]. What all share:
//!
//! - [`resolve`], [`version`]: where a binary lies, what it says about itself;
//! - [`environ`], [`prompt_text`], [`extra_args`], [`session_id`]: what may reach a child, and in which form;
//! - [`context_file`]: instruction files that conversations share;
//! - [`classify`], [`outcome`]: what an end means.
//!
//! Adapters know the engine's traits. They never know a channel, and never each other.

pub mod acp;
pub mod acp_generic;
pub mod capture;
pub mod catalogue;
pub mod classify;
pub mod claude_code;
pub mod claude_vault;
pub mod codex;
pub mod context_file;
pub mod deepseek;
pub mod digest;
pub mod echo;
pub mod environ;
pub mod extra_args;
pub mod fields;
pub mod gemini;
pub mod hermes;
pub mod kept;
pub mod kimi;
mod linger;
pub mod login;
mod nap;
pub mod ndjson;
pub mod openclaw;
pub mod outcome;
pub mod process;
pub mod prompt_text;
mod registry;
pub mod reminder;
pub mod resolve;
pub mod selection;
pub mod session_id;
pub mod settings;
#[cfg(test)]
pub(crate) mod testing;
mod trial;
pub mod version;

pub use registry::{Descriptor, ECHO_STAND_IN, Probe, RUNTIMES, Registry, descriptor};
pub use settings::RuntimeSettings;
