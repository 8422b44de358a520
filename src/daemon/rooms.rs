//! What prompts may ask channels about rooms.
//!
//! Prompts are a part of the engine, and channels come and go with it: this is the door between them, opened once the
//! engine is there.

use std::sync::{Arc, OnceLock};

use crate::engine::{Engine, WeakEngine};
use crate::prompt::RoomLookup;

/// The door. Clones are the same one.
#[derive(Clone, Default)]
pub(super) struct Rooms {
    engine: Arc<OnceLock<WeakEngine>>,
}

impl Rooms {
    /// From now on the engine's channels are asked.
    pub(super) fn open(&self, engine: &Engine) {
        let _ = self.engine.set(engine.downgrade());
    }

    /// Asks the channel of a message; `None` while there is no engine.
    pub(super) fn lookup(&self) -> RoomLookup {
        let door = self.clone();
        Box::new(move |message| {
            let engine = door.engine.get()?.upgrade()?;
            engine.channel(&message.channel)?.room_context(message)
        })
    }
}
