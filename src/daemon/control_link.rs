//! The control socket of the hub that a person has logged this daemon in to, as a part of the daemon.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use serde_json::{Map, Value};

use super::duties::HubDuties;
use super::reload::Live;
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::link::botcord_control::connection::{self, Parts};
use crate::link::botcord_control::gate::Gate;
use crate::link::botcord_control::machine::Timing;
use crate::link::botcord_control::replay::Replay;
use crate::link::botcord_control::ring::{KEY_VARIABLE, KEYS_VARIABLE, KeyRing};
use crate::link::botcord_control::session::Session;
use crate::store::RealDisk;
use crate::thread;
use crate::time::now_ms;

/// Stack of the link's thread.
const STACK: usize = 512 * 1024;
/// Where the hub listens.
const PATH: &str = "/daemon/ws";

/// The running link.
pub(super) struct ControlLink {
    stop: CancelToken,
    thread: JoinHandle<()>,
}

impl ControlLink {
    /// Connects, if a person has logged in.
    pub(super) fn start(live: &Arc<Live>) -> io::Result<Option<Self>> {
        let session = Arc::new(Session::open(&live.home.daemon_dir(), Arc::new(RealDisk)));
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
        let duties = Arc::new(HubDuties::new(Arc::clone(live)));
        let on_connect = Arc::clone(&duties);
        let (link, runner) = connection::prepare(Parts {
            gate: Gate::new(ring(&live.started_with), requires_signed(&live.started_with), replay),
            session,
            duties,
            path: PATH,
            timing: Timing::default(),
            connected: Box::new(move |link| on_connect.tell_runtimes(link)),
            changed: Box::new(|| {}),
            config: live.home.config(),
        })?;
        drop(link);
        let stop = CancelToken::new()?;
        let token = stop.clone();
        let thread = thread::spawn_sized("control", STACK, move || runner.run(&token))?;
        Ok(Some(Self { stop, thread }))
    }

    /// Ends it; frames that are carried out go on.
    pub(super) fn stop(self) {
        self.stop.cancel(CancelReason::Shutdown);
        if self.thread.join().is_err() {
            log::error!("control.panicked");
        }
    }
}

/// The hub's keys, of the environment or the configuration.
fn ring(config: &Map<String, Value>) -> KeyRing {
    let variable = |name: &str| std::env::var(name).ok();
    let list = config.get("hubControlPublicKeys").and_then(Value::as_array);
    let configured: Vec<String> = list.into_iter().flatten().filter_map(Value::as_str).map(ToOwned::to_owned).collect();
    KeyRing::of(variable(KEYS_VARIABLE).as_deref(), variable(KEY_VARIABLE).as_deref(), &configured)
}

fn requires_signed(config: &Map<String, Value>) -> bool {
    config.get("requireSignedControl").and_then(Value::as_bool).unwrap_or(false)
}
