//! What a CLI says about itself when it is asked with one argument: its version, its help.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::engine::cancel::CancelToken;
use crate::runtime::environ;
use crate::runtime::process::{Driven, Handler, Io, Process, Spec, Stdin, StopLimits};
use crate::runtime::resolve::FileId;
use crate::runtime::settings::RuntimeSettings;

/// How long a CLI may be silent before the question is given up.
pub const LIMIT: Duration = Duration::from_secs(5);

/// More output than this is not kept.
const MAX_OUTPUT: usize = 256 * 1024;

/// Answers of CLIs by file and question, for the life of the process. A binary that changed is asked again.
#[derive(Default)]
pub struct Answers {
    known: Mutex<BTreeMap<(FileId, String), Option<String>>>,
}

impl Answers {
    /// First line of `<program> --version`; `None` when it fails or says nothing.
    pub fn version(&self, program: &Path, file: FileId, settings: &RuntimeSettings) -> Option<String> {
        let said = self.ask(program, file, "--version", settings)?;
        said.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
    }

    /// Standard output of `<program> <question>`, trimmed; `None` when it fails.
    pub fn ask(&self, program: &Path, file: FileId, question: &str, settings: &RuntimeSettings) -> Option<String> {
        let key = (file, question.to_owned());
        if let Some(answer) = self.lock().get(&key) {
            return answer.clone();
        }
        let answer = ask_now(program, question, settings);
        self.lock().insert(key, answer.clone());
        answer
    }

    /// Puts in an answer that was kept elsewhere, such as in a file of an earlier process.
    pub fn remember(&self, file: FileId, question: &str, answer: Option<String>) {
        self.lock().insert((file, question.to_owned()), answer);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(FileId, String), Option<String>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default)]
struct Listener {
    said: String,
}

impl Handler for Listener {
    fn line(&mut self, line: &str, io: &mut Io) {
        if self.said.is_empty() {
            io.end_within(LIMIT);
        }
        if self.said.len() + line.len() < MAX_OUTPUT {
            self.said.push_str(line);
            self.said.push('\n');
        }
    }
}

fn ask_now(program: &Path, question: &str, settings: &RuntimeSettings) -> Option<String> {
    let spec = Spec {
        runtime: "probe".into(),
        turn_id: format!("probe-{}-{}", std::process::id(), program.display()),
        program: program.to_owned(),
        args: vec![question.into()],
        env: environ::plain(settings),
        cwd: std::env::temp_dir(),
        stdin: Stdin::Null,
        idle_limit: Some(LIMIT),
        kill_leftovers: true,
        stop: StopLimits {
            term: Duration::from_millis(200),
            kill: Duration::from_millis(500),
            give_up: Duration::from_secs(2),
        },
    };
    let never = CancelToken::new().ok()?;
    let mut process = Process::spawn(spec).ok()?;
    let mut listener = Listener::default();
    let Driven::Ended(ended) = process.drive(&never, &mut listener) else { return None };
    let fine = ended.exit_code == Some(0) && ended.stopped.is_none();
    fine.then(|| listener.said.trim().to_owned())
}
