//! A program in place of an agent CLI, driven by the real adapter through real pipes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::ports::{RunRequest, RunResult, Runtime, Runtimes, Thrown};
use bellhop::runtime::{Registry, RuntimeSettings, descriptor};

use super::run_request::{Recorder, request};
use super::temp_dir::TempDir;

/// A directory with what the program does, a working directory, and a home of bellhop.
pub struct FakeCli {
    runtime: &'static str,
    dir: TempDir,
    /// Settings of the registry that the runs use.
    pub settings: RuntimeSettings,
}

impl FakeCli {
    /// In place of the CLI of this runtime.
    pub fn new(runtime: &'static str) -> Self {
        let dir = TempDir::new(&format!("fake-{runtime}"));
        for below in ["cwd", "home/.codex", "bellhop/daemon"] {
            std::fs::create_dir_all(dir.join(below)).unwrap();
        }
        let mut env: Vec<_> = std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "TMPDIR").collect();
        env.push(("HOME".into(), dir.join("home").into()));
        let fake = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_cli.sh");
        env.push((format!("BELLHOP_{}", descriptor(runtime).unwrap().variable).into(), fake.into()));
        let mut settings = RuntimeSettings::with_env(&dir.join("bellhop"), env);
        // Whatever a recording holds after its result belongs to it.
        settings.linger = Duration::from_secs(10);
        settings.busy_pauses = vec![Duration::from_millis(1); 4];
        Self { runtime, dir, settings }
    }

    /// Makes the program do this; `$dir` is where [`FakeCli::put`] puts its files.
    pub fn plays(&self, script: &str) {
        self.put("play", script.as_bytes());
    }

    /// A file beside the script.
    pub fn put(&self, name: &str, content: &[u8]) {
        std::fs::write(self.dir.join(name), content).unwrap();
    }

    /// What the program wrote beside its script.
    pub fn get(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Path of something in the directory.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A request for a run in the working directory.
    pub fn request(&self, text: &str) -> RunRequest {
        let mut request = request(text);
        request.cwd = self.dir.join("cwd");
        request.env = vec![("FAKE_CLI".into(), self.dir.path().display().to_string())];
        request
    }

    /// The adapter, for several runs. It has to be closed at the end.
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Registry::new(self.settings.clone()).get(self.runtime).unwrap()
    }

    /// Runs it.
    pub fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut Recorder) -> Result<RunResult, Thrown> {
        self.runtime().run(request, cancel, sink)
    }

    /// Runs it without cancelling.
    pub fn run_to_end(&self, request: &RunRequest) -> (RunResult, Recorder) {
        let mut sink = Recorder::default();
        let result = self.run(request, &CancelToken::new().unwrap(), &mut sink).unwrap();
        (result, sink)
    }
}
