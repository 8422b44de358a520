//! The control socket of the hub that a person has logged this daemon in to, as a part of the daemon.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::duties::HubDuties;
use super::reload::Live;
use super::snapshot::Poke;
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::link::botcord_control::connection::{self, Link, Parts};
use crate::link::botcord_control::gate::Gate;
use crate::link::botcord_control::machine::Timing;
use crate::link::botcord_control::replay::Replay;
use crate::link::botcord_control::ring::KeyRing;
use crate::link::botcord_control::session::Session;
use crate::store::RealDisk;
use crate::thread;
use crate::time::now_ms;

/// Stack of the link's thread.
const STACK: usize = 512 * 1024;
/// Where the hub listens.
const PATH: &str = "/daemon/ws";

/// What the rest of the daemon knows of the link; empty without one.
#[derive(Default)]
pub(super) struct LinkSlot(Mutex<Option<Linked>>);

struct Linked {
    link: Link,
    session: Arc<Session>,
    duties: Arc<HubDuties>,
    keys: (KeyRing, bool),
}

impl LinkSlot {
    fn lock(&self) -> MutexGuard<'_, Option<Linked>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The login, for requests to its hub.
    pub(super) fn session(&self) -> Option<Arc<Session>> {
        Some(Arc::clone(&self.lock().as_ref()?.session))
    }

    /// What `status` says about it; null without a link.
    pub(super) fn state(&self) -> Value {
        let slot = self.lock();
        let Some(Linked { link, session, keys: (ring, _), .. }) = &*slot else { return Value::Null };
        let state = link.state();
        let word = match (state.connected, state.expired) {
            (true, _) => "connected",
            (false, true) => "logged_out",
            (false, false) => "connecting",
        };
        let mut told = json!({"state": word, "unsigned": state.unsigned, "keys": ring.fingerprints()});
        let optional = [
            ("since", state.since.map(Value::from)),
            ("lastError", state.last_error.map(Value::from)),
            ("skewMs", state.skew_ms.map(Value::from)),
            ("hub", session.auth().map(|auth| auth.hub_url.into())),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                told[key] = value;
            }
        }
        told
    }

    /// Follows a configuration that was read again, and a new login.
    pub(super) fn follow(&self, config: &Map<String, Value>) {
        let mut slot = self.lock();
        let Some(linked) = &mut *slot else { return };
        let keys = (KeyRing::in_effect(config), requires_signed(config));
        if keys != linked.keys {
            linked.keys = keys.clone();
            linked.link.set_keys(keys.0, keys.1);
            // The hub waits for the new key before it signs with it.
            linked.duties.tell_runtimes(&linked.link);
        }
        linked.link.look_for_login();
    }

    /// A circuit has broken or is whole again: the hub is told.
    pub(super) fn tell_runtimes(&self) {
        if let Some(linked) = &*self.lock() {
            linked.duties.tell_runtimes(&linked.link);
        }
    }

    /// What is sent to the hub of the keys that count.
    pub(super) fn fingerprints(&self) -> Vec<String> {
        self.lock().as_ref().map(|linked| linked.keys.0.fingerprints()).unwrap_or_default()
    }
}

/// The running link.
pub(super) struct ControlLink {
    stop: CancelToken,
    thread: JoinHandle<()>,
    slot: Arc<LinkSlot>,
}

impl ControlLink {
    /// Connects, if a person has logged in.
    pub(super) fn start(live: &Arc<Live>, poke: Poke) -> io::Result<Option<Self>> {
        let session = Arc::new(Session::open(&live.home.daemon_dir(), Arc::new(RealDisk))?);
        if session.auth().is_none() {
            return Ok(None);
        }
        let replay = match Replay::open(live.home.daemon_dir().join("control-frames.jsonl"), now_ms()) {
            Ok(replay) => replay,
            Err(e) => {
                // The handlers bear a repetition.
                log::warn!("control.replay_unreadable error={e}");
                Replay::in_memory()
            }
        };
        let keys = (KeyRing::in_effect(&live.started_with), requires_signed(&live.started_with));
        let duties = Arc::new(HubDuties::new(Arc::clone(live)));
        let (on_connect, on_kept) = (Arc::clone(&duties), Arc::clone(&duties));
        let (link, runner) = connection::prepare(Parts {
            gate: Gate::new(keys.0.clone(), keys.1, replay),
            session: Arc::clone(&session),
            duties: Arc::clone(&duties) as Arc<_>,
            path: PATH,
            timing: Timing::default(),
            connected: Box::new(move |link| on_connect.tell_runtimes(link)),
            kept: Box::new(move |event| on_kept.kept(event)),
            changed: Box::new(move || poke.poke()),
            config: live.home.config(),
        })?;
        let stop = CancelToken::new()?;
        let token = stop.clone();
        let thread = thread::spawn_sized("control", STACK, move || runner.run(&token))?;
        let slot = Arc::clone(&live.link);
        *slot.lock() = Some(Linked { link, session, duties, keys });
        Ok(Some(Self { stop, thread, slot }))
    }

    /// Ends it; frames that are carried out go on.
    pub(super) fn stop(self) {
        self.stop.cancel(CancelReason::Shutdown);
        if self.thread.join().is_err() {
            log::error!("control.panicked");
        }
        self.slot.lock().take();
    }
}

fn requires_signed(config: &Map<String, Value>) -> bool {
    config.get("requireSignedControl").and_then(Value::as_bool).unwrap_or(false)
}
