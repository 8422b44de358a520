//! One short turn of a runtime, to see whether it works: with the adapter's own arguments, in a directory of its
//! own that is removed afterwards.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::login::Login;
use super::{Registry, RuntimeSettings};
use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::ports::{Approval, ApprovalRequest, ProcessId, RunRequest, RunResult, RunSink, Runtimes, Thrown};
use crate::json;
use crate::message::{Block, Budget, ConversationKind, Status, TrustLevel};
use crate::redact;
use crate::runtime::digest;
use crate::runtime::settings::Warm;

/// How long the turn may take.
const LIMIT: Duration = Duration::from_mins(2);
/// What the agent is told.
const TEXT: &str = "This is a test of the connection. Answer with the single word: ok";

/// A directory that goes with the trial.
struct Place(PathBuf);

impl Place {
    fn new() -> std::io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("bellhop-trial-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let place = Self(path);
        std::fs::create_dir(place.0.join("work"))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs it and says what became of it. Asks the model, so it may cost something.
pub(super) fn run(id: &str, settings: &RuntimeSettings) -> Login {
    if id == "openclaw-acp" {
        return Login::Skipped("its turns need a gateway".into());
    }
    let place = match Place::new() {
        Ok(place) => place,
        Err(e) => return Login::Failed(format!("no directory for the turn: {e}")),
    };
    let settings = of_trial(settings, &place.0);
    let registry = Registry::new(settings);
    let began = Instant::now();
    let done = attempt(id, &registry, &place.0.join("work"));
    registry.close();
    judge(done, began.elapsed())
}

/// What the trial starts carries neither the home's mark nor shares its markers: a daemon that runs there keeps its own.
fn of_trial(settings: &RuntimeSettings, place: &Path) -> RuntimeSettings {
    RuntimeSettings {
        agents_dir: place.join("agents"),
        daemon_dir: place.to_owned(),
        warm: Warm::default(),
        ..settings.clone()
    }
}

fn attempt(id: &str, registry: &Registry, cwd: &Path) -> Result<RunResult, Thrown> {
    let runtime = registry.get(id).map_err(Thrown::new)?;
    let cancel = CancelToken::new().map_err(|e| Thrown::new(e.to_string()))?;
    let request = request(id, cwd);
    std::thread::scope(|scope| {
        let (done, ended) = crossbeam_channel::bounded::<()>(0);
        let clock = cancel.clone();
        // Its only news is that the other end is gone: then nothing is to be cancelled.
        scope.spawn(move || {
            if ended.recv_timeout(LIMIT).is_err_and(|e| e.is_timeout()) {
                clock.cancel(CancelReason::Timeout);
            }
        });
        let result = runtime.run(&request, &cancel, &mut Deaf);
        drop(done);
        result
    })
}

fn judge(done: Result<RunResult, Thrown>, took: Duration) -> Login {
    let line = |text: &str| digest::line(&redact::text(text)).unwrap_or_default();
    let class = |class| json::to_value(&class).ok().and_then(|v| v.as_str().map(str::to_owned));
    let failed = |kind, message: &str| {
        let kind = class(kind).map(|kind| format!("{kind}: ")).unwrap_or_default();
        Login::Failed(format!("{kind}{} ({} ms)", line(message), took.as_millis()))
    };
    match done {
        Err(thrown) => failed(thrown.class, &thrown.message),
        Ok(RunResult { error: Some(error), .. }) => failed(error.class, &error.message),
        Ok(result) => {
            let session = if result.new_session_id.is_empty() { "none" } else { &result.new_session_id };
            Login::Ok(format!("a turn took {} ms, session {}", took.as_millis(), line(session)))
        }
    }
}

fn request(id: &str, cwd: &Path) -> RunRequest {
    RunRequest {
        // Several runtimes are tried at the same time: what ends one must not end the others.
        turn_id: format!("trial-{}-{id}", std::process::id()),
        message_id: "trial".into(),
        room_id: "trial".into(),
        topic_id: None,
        channel: "local".into(),
        conversation_kind: ConversationKind::Direct,
        agent: "trial".into(),
        text: TEXT.into(),
        session: None,
        cwd: cwd.to_owned(),
        hub_url: None,
        wait_file: None,
        extra_args: Vec::new(),
        trust: TrustLevel::Owner,
        from_owner: true,
        system_context: None,
        system_rules: Vec::new(),
        budget: Budget::default(),
        gateway: None,
        hermes_profile: None,
        env: Vec::new(),
        attachments: Vec::new(),
    }
}

/// Nobody listens to a trial, and nothing may be done in it.
struct Deaf;

impl RunSink for Deaf {
    fn begin(&mut self) -> Result<(), Thrown> {
        Ok(())
    }

    fn spawned(&mut self, _: ProcessId) {}

    fn session(&mut self, _: &str) {}

    fn block(&mut self, _: Block) {}

    fn status(&mut self, _: Status) {}

    fn approval(&mut self, _: ApprovalRequest) -> Option<Approval> {
        Some(Approval::Deny { reason: "this is a test".into() })
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::kept::{self, Marker};
    use crate::store::tests::TempDir;
    use std::sync::Arc;

    #[test]
    fn a_trial_leaves_the_marker_of_the_running_daemon() {
        let home = TempDir::new();
        let settings = Arc::new(RuntimeSettings::from_env(&home.0));
        std::fs::create_dir_all(&settings.daemon_dir).unwrap();
        let place = Place::new().unwrap();
        let trial = Arc::new(of_trial(&settings, &place.0));
        Marker::new(Arc::clone(&settings), kept::DEEPSEEK).set();
        let marker = Marker::new(Arc::clone(&trial), kept::DEEPSEEK);
        marker.set();
        marker.clear();
        assert!(settings.daemon_dir.join(kept::DEEPSEEK).exists());
        assert_ne!(kept::mark(&trial), kept::mark(&settings));
    }
}
