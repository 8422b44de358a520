//! The control socket of the hub that this daemon is logged in to, as a part of the daemon.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use serde_json::{Map, Value, json};

use super::duties::HubDuties;
use super::reload::Live;
use super::snapshot::Poke;
use super::vigil::Vigil;
use crate::config::cloud::{self, Cloud};
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::link::botcord_control::connection::{self, Parts};
use crate::link::botcord_control::gate::Gate;
use crate::link::botcord_control::handle::Link;
use crate::link::botcord_control::machine::Timing;
use crate::link::botcord_control::replay::Replay;
use crate::link::botcord_control::ring::{KEYS_VARIABLE, KeyRing};
use crate::link::botcord_control::session::Session;
use crate::store::RealDisk;
use crate::thread;
use crate::time::now_ms;

/// Where the hub listens.
const PATH: &str = "/daemon/ws";
/// Where it listens to sandboxes.
const CLOUD_PATH: &str = "/cloud/daemon/ws";
/// How long a sandbox waits before it shows a refused token again, unless [`RETRY_VARIABLE`] says otherwise.
const RETRY_MS: u64 = 300_000;
/// The variable with that time in milliseconds.
const RETRY_VARIABLE: &str = "BELLHOP_CLOUD_RETRY_MS";

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
        let Some(Linked { link, session, duties, keys: (ring, _) }) = &*slot else { return Value::Null };
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
            ("absent", Some(duties.absent()).filter(|absent| !absent.is_empty()).map(Value::from)),
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
        let keys = keys(config);
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

    /// The link itself, where there is one.
    pub(super) fn link(&self) -> Option<Link> {
        self.lock().as_ref().map(|linked| linked.link.clone())
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
    vigil: Option<Vigil>,
}

impl ControlLink {
    /// Connects, if somebody has logged in. `give_up` is called when a sandbox has no business any more.
    pub(super) fn start(
        live: &Arc<Live>,
        cloud: Option<&Cloud>,
        poke: Poke,
        give_up: impl Fn() + Send + 'static,
    ) -> io::Result<Option<Self>> {
        let dir = live.home.daemon_dir();
        let session = Arc::new(match cloud {
            Some(cloud) => Session::of_cloud(&dir, Arc::new(RealDisk), cloud)?,
            None => Session::open(&dir, Arc::new(RealDisk))?,
        });
        if session.auth().is_none() {
            return Ok(None);
        }
        let replay = match Replay::open(dir.join("control-frames.jsonl"), now_ms()) {
            Ok(replay) => replay,
            Err(e) => {
                // The handlers bear a repetition.
                log::warn!("control.replay_unreadable error={e}");
                Replay::in_memory()
            }
        };
        // Not those of the start: somebody may have written keys down, and logged in, since.
        let keys = keys(&live.applied());
        if cloud.is_some() && keys.0.is_empty() {
            log::error!("control.no_keys all frames are refused; expected some in {KEYS_VARIABLE}");
        }
        let duties = Arc::new(HubDuties::new(Arc::clone(live)));
        let (on_connect, on_kept) = (Arc::clone(&duties), Arc::clone(&duties));
        let (look, looks) = Vigil::poke();
        let refused = cloud.map(|_| milliseconds(RETRY_VARIABLE).unwrap_or(RETRY_MS));
        let (link, runner) = connection::prepare(Parts {
            gate: Gate::new(keys.0.clone(), keys.1, replay),
            session: Arc::clone(&session),
            duties: Arc::clone(&duties) as Arc<_>,
            path: if cloud.is_some() { CLOUD_PATH } else { PATH },
            timing: Timing { refused, ..Timing::default() },
            connected: Box::new(move |link| on_connect.connected(link)),
            kept: Box::new(move |event| on_kept.kept(event)),
            changed: Box::new(move || {
                poke.poke();
                let _ = look.try_send(());
            }),
            config: live.home.config(),
        })?;
        let vigil = cloud.map(|_| Vigil::start(link.clone(), live.engine.clone(), looks, give_up)).transpose()?;
        let stop = CancelToken::new()?;
        let token = stop.clone();
        let slot = Arc::clone(&live.link);
        // First: what is told after a connection looks there.
        *slot.lock() = Some(Linked { link, session, duties, keys });
        let thread = thread::spawn("control", move || runner.run(&token)).inspect_err(|_| drop(slot.lock().take()))?;
        Ok(Some(Self { stop, thread, slot, vigil }))
    }

    /// Ends it; frames that are carried out go on.
    pub(super) fn stop(self) {
        self.stop.cancel(CancelReason::Shutdown);
        if self.thread.join().is_err() {
            log::error!("control.panicked");
        }
        self.slot.lock().take();
        if let Some(vigil) = self.vigil {
            vigil.stop();
        }
    }
}

/// A time that a variable gives.
pub(super) fn milliseconds(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.trim().parse().ok().filter(|ms| *ms > 0)
}

/// The hub's keys, and whether one of them has to have signed every frame.
fn keys(config: &Map<String, Value>) -> (KeyRing, bool) {
    (KeyRing::in_effect(config), cloud::is_on() || requires_signed(config))
}

fn requires_signed(config: &Map<String, Value>) -> bool {
    config.get("requireSignedControl").and_then(Value::as_bool).unwrap_or(false)
}
