//! Everything that an agent lets its hub know, and what it looks up there: for the channel to hand on to.

use std::sync::Arc;
use std::time::Duration;

use super::contacts::Contacts;
use super::ends::StreamEnds;
use super::far::Far;
use super::live::Live;
use super::pace::Limits;
use super::policy::Policies;
use super::rooms::Rooms;
use super::send::Sender;

/// For how long a hub is tried to be told an answer before that is given up.
pub const PATIENCE: Duration = Duration::from_hours(24);

/// The voice of one agent at its hub.
pub struct Voice {
    /// What it says.
    pub sender: Sender,
    /// What it is seen doing.
    pub live: Live,
    /// That it is done.
    pub ends: Arc<StreamEnds>,
    /// What it knows of its rooms.
    pub rooms: Rooms,
    /// When it listens.
    pub policies: Policies,
    /// Who wants to be a contact.
    pub contacts: Contacts,
}

impl Voice {
    /// `room_policies`: the hub is asked for each room when the agent listens; else only in general.
    /// `limits`: what the hub takes.
    pub fn new(far: &Arc<dyn Far>, room_policies: bool, limits: Limits) -> Self {
        Self {
            sender: Sender::new(Arc::clone(far), limits),
            live: Live::new(Arc::clone(far)),
            ends: StreamEnds::new(Arc::clone(far)),
            rooms: Rooms::new(Arc::clone(far)),
            policies: Policies::new(Arc::clone(far), room_policies),
            contacts: Contacts::new(Arc::clone(far)),
        }
    }
}
