//! The doors of the engine: [`Channel`], [`Runtime`], [`PromptBuilder`], [`TurnObserver`], and for those who account
//! for turns [`TurnHook`]. The other way round, channels that fetch messages hand them to an [`Acceptor`].
//!
//! The engine declares these traits and calls them; the adapters under `channel`, `runtime`, `prompt`
//! and `serve` implement them and know nothing of each other.

mod acceptor;
mod channel;
mod hook;
mod lifecycle;
mod observer;
mod prompt;
mod runtime;
mod tools;

pub use acceptor::*;
pub use channel::*;
pub use hook::*;
pub use lifecycle::*;
pub use observer::*;
pub use prompt::*;
pub use runtime::*;
pub use tools::*;
