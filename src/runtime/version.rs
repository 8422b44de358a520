//! What a CLI says about itself when it is asked with one argument: its version, its help.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::json;
use crate::runtime::outcome::cap;
use crate::runtime::resolve::FileId;
use crate::runtime::settings::RuntimeSettings;
use crate::runtime::{capture, environ};
use crate::store::{self, Disk, RealDisk};

use serde::{Deserialize, Serialize};

/// How long a CLI may take for its answer.
pub const LIMIT: Duration = Duration::from_secs(5);

/// How long a failure is remembered.
const ASK_AGAIN: Duration = Duration::from_mins(1);
/// How long it is when it is not the first one and took the whole [`LIMIT`], for which a turn may wait.
const ASK_HUNG_AGAIN: Duration = Duration::from_mins(10);

/// More output than this is not kept.
const MAX_OUTPUT: usize = 256 * 1024;

/// Most answers that are kept between starts. There are two questions to a handful of programs.
const MAX_KEPT: usize = 64;
/// Largest file of kept answers that is read, in bytes.
const MAX_FILE: u64 = MAX_KEPT as u64 * MAX_OUTPUT as u64;
/// Version of the file's form.
const FORM: u32 = 1;

/// Answers by file and question; of a question that failed, when it may be asked again.
type Known = BTreeMap<(FileId, String), Result<String, Instant>>;

/// Answers of CLIs by file and question. A binary that changed is asked again.
#[derive(Default)]
pub struct Answers {
    known: Mutex<Known>,
    /// Where they are kept between starts.
    file: Option<PathBuf>,
}

/// The file of kept answers.
#[derive(Serialize, Deserialize)]
struct Document {
    form: u32,
    answers: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    dev: u64,
    ino: u64,
    /// In decimal: JSON numbers are not wide enough everywhere.
    mtime_ns: String,
    size: u64,
    question: String,
    answer: String,
}

impl Answers {
    /// With those that are kept in `directory`, if there is one. A file that cannot be read counts as empty:
    /// everything in it can be asked again.
    pub fn kept_in(directory: Option<&Path>) -> Self {
        let answers = Self { known: Mutex::default(), file: directory.map(|dir| dir.join("answers.json")) };
        let bytes = answers.file.as_ref().and_then(|file| RealDisk.read(file, MAX_FILE).ok()).unwrap_or_default();
        let document = json::from_slice::<Document>(&bytes).ok().filter(|document| document.form == FORM);
        for kept in document.into_iter().flat_map(|document| document.answers).take(MAX_KEPT) {
            let Ok(mtime_ns) = kept.mtime_ns.parse() else { continue };
            let file = FileId { dev: kept.dev, ino: kept.ino, mtime_ns, size: kept.size };
            answers.lock().insert((file, kept.question), Ok(kept.answer));
        }
        answers
    }

    /// Keeps the answers about these files for the next start; those about others are forgotten. A question
    /// that failed is asked again.
    pub fn keep(&self, files: &[FileId]) {
        let Some(path) = &self.file else { return };
        let keep = |((file, question), answer): (&(FileId, String), &Result<String, Instant>)| {
            files.contains(file).then_some(())?;
            Some(Kept {
                dev: file.dev,
                ino: file.ino,
                mtime_ns: file.mtime_ns.to_string(),
                size: file.size,
                question: question.clone(),
                answer: answer.as_ref().ok()?.clone(),
            })
        };
        let answers = self.lock().iter().filter_map(keep).take(MAX_KEPT).collect();
        let Ok(bytes) = json::to_vec(&Document { form: FORM, answers }) else { return };
        if RealDisk.read(path, MAX_FILE).is_ok_and(|before| before == bytes) {
            return;
        }
        if let Some(directory) = path.parent().filter(|dir| !dir.is_dir())
            && let Err(e) = RealDisk.create_dir(directory)
        {
            log::debug!("runtime.answers_not_kept dir={} error={e}", directory.display());
            return;
        }
        if let Err(e) = store::write(&RealDisk, path, &bytes) {
            log::warn!("runtime.answers_not_kept {e}");
        }
    }

    /// First line of `<program> --version`; `None` when it fails or says nothing.
    pub fn version(&self, program: &Path, file: FileId, settings: &RuntimeSettings) -> Option<String> {
        let said = self.ask(program, file, "--version", settings)?;
        said.lines().next().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty())
    }

    /// Standard output of `<program> <question>`, trimmed; `None` when it fails. One that has failed is asked again
    /// after [`ASK_AGAIN`], since the machine may have been busy, and one that hangs again after [`ASK_HUNG_AGAIN`].
    pub fn ask(&self, program: &Path, file: FileId, question: &str, settings: &RuntimeSettings) -> Option<String> {
        self.ask_at(program, file, question, settings, Instant::now())
    }

    fn ask_at(
        &self,
        program: &Path,
        file: FileId,
        question: &str,
        settings: &RuntimeSettings,
        now: Instant,
    ) -> Option<String> {
        let key = (file, question.to_owned());
        let has_failed = match self.lock().get(&key) {
            Some(Ok(answer)) => return Some(answer.clone()),
            Some(Err(again)) if now < *again => return None,
            known => known.is_some(),
        };
        let began = Instant::now();
        let answer = ask_now(program, question, settings);
        let pause = pause(has_failed, began.elapsed());
        self.lock().insert(key, answer.clone().ok_or_else(|| Instant::now() + pause));
        answer
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long a failure is remembered that took so long.
fn pause(has_failed: bool, took: Duration) -> Duration {
    if has_failed && took >= LIMIT { ASK_HUNG_AGAIN } else { ASK_AGAIN }
}

fn ask_now(program: &Path, question: &str, settings: &RuntimeSettings) -> Option<String> {
    let said = capture::run(program, &[question], environ::plain(settings), &std::env::temp_dir(), LIMIT)?;
    (said.code == Some(0)).then(|| cap(&said.stdout, MAX_OUTPUT).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::TempDir;
    use std::os::unix::fs::PermissionsExt;

    /// A program that counts how often it is asked.
    fn program(dir: &Path) -> (PathBuf, FileId) {
        let path = dir.join("cli");
        let script = format!("#!/bin/sh\necho x >>'{}'\necho 1.2.3\n", dir.join("asked").display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        let id = FileId::of_executable(&path).unwrap();
        (path, id)
    }

    fn asked(dir: &Path) -> usize {
        std::fs::read_to_string(dir.join("asked")).map_or(0, |text| text.lines().count())
    }

    #[test]
    fn an_answer_outlives_the_process_but_not_the_file_it_is_about() {
        let dir = TempDir::new();
        let dir = &dir.0;
        let settings = RuntimeSettings::from_env(dir);
        let (path, id) = program(dir);
        let cache = dir.join("cache");
        let first = Answers::kept_in(Some(&cache));
        assert_eq!(first.version(&path, id, &settings).as_deref(), Some("1.2.3"));
        first.keep(&[id]);
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&cache), mode(&cache.join("answers.json"))), (0o700, 0o600));
        let second = Answers::kept_in(Some(&cache));
        assert_eq!(second.version(&path, id, &settings).as_deref(), Some("1.2.3"));
        assert_eq!(asked(dir), 1);
        let changed = FileId { size: id.size + 1, ..id };
        assert_eq!(second.version(&path, changed, &settings).as_deref(), Some("1.2.3"));
        assert_eq!(asked(dir), 2);
        second.keep(&[changed]);
        assert_eq!(Answers::kept_in(Some(&cache)).lock().len(), 1, "the old file is forgotten");
    }

    #[test]
    fn a_question_that_failed_is_asked_again_later() {
        let dir = TempDir::new();
        let settings = RuntimeSettings::from_env(&dir.0);
        let (path, id) = program(&dir.0);
        std::fs::write(&path, "#!/bin/sh\n[ -e \"$0.ready\" ] && echo 1.2.3\n").unwrap();
        let answers = Answers::default();
        let ask = |now| answers.ask_at(&path, id, "--version", &settings, now);
        assert_eq!(ask(Instant::now()), None);
        std::fs::write(path.with_extension("ready"), "").unwrap();
        assert_eq!(ask(Instant::now()), None);
        assert_eq!(ask(Instant::now() + ASK_AGAIN).as_deref(), Some("1.2.3"));
        assert_eq!(ask(Instant::now()).as_deref(), Some("1.2.3"));
    }

    #[test]
    fn only_what_hangs_again_is_remembered_for_long() {
        let short = Duration::from_secs(1);
        let pauses = [(false, short), (true, short), (false, LIMIT), (true, LIMIT)].map(|(f, took)| pause(f, took));
        assert_eq!(pauses, [ASK_AGAIN, ASK_AGAIN, ASK_AGAIN, ASK_HUNG_AGAIN]);
    }

    #[test]
    fn a_damaged_file_and_failures_are_not_kept() {
        let dir = TempDir::new();
        let cache = dir.0.join("cache");
        std::fs::create_dir(&cache).unwrap();
        std::fs::write(cache.join("answers.json"), "{\"form\":1,\"answers\":[{").unwrap();
        let answers = Answers::kept_in(Some(&cache));
        assert_eq!(answers.lock().len(), 0);
        let id = FileId { dev: 1, ino: 2, mtime_ns: -3, size: 4 };
        answers.lock().insert((id, "--version".into()), Err(Instant::now()));
        answers.lock().insert((id, "--help".into()), Ok("words".into()));
        answers.keep(&[id]);
        let kept = Answers::kept_in(Some(&cache));
        assert_eq!(kept.lock().clone().into_keys().collect::<Vec<_>>(), [(id, "--help".to_owned())]);
    }
}
