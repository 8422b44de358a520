//! The four doors of the engine: [`Channel`], [`Runtime`], [`PromptBuilder`], [`TurnObserver`].
//!
//! The engine declares these traits and calls them; the adapters under `channel`, `runtime`, `prompt`
//! and `serve` implement them and know nothing of each other.

mod channel;
mod observer;
mod prompt;
mod runtime;

pub use channel::*;
pub use observer::*;
pub use prompt::*;
pub use runtime::*;
