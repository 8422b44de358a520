//! The environment of a child: the daemon's own, without the daemon's credentials, with what the run adds.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use crate::engine::ports::{ErrorClass, RunRequest, Thrown};
use crate::heap;
use crate::runtime::settings::RuntimeSettings;

/// Changes that one runtime makes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Variables to set.
    pub set: Vec<(String, OsString)>,
    /// Variables to leave out.
    pub remove: Vec<&'static str>,
}

impl Changes {
    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.set.push((name.to_owned(), value.into()));
    }
}

/// Whether a variable belongs to the daemon alone: its credentials, its service manager's sockets, and what
/// an outer turn may have left.
pub fn is_private(name: &OsStr) -> bool {
    let Some(name) = name.to_str() else { return false };
    if let Some(own) = name.strip_prefix("BOTCORD_").or_else(|| name.strip_prefix("BELLHOP_")) {
        let secret = ["TOKEN", "SECRET", "PASSWORD", "DSN", "KEY"].iter().any(|word| own.contains(word));
        return secret || matches!(own, "TURN" | "WARM" | "AGENT" | "WAIT_FILE" | "DAEMON_CHILD" | "RESTARTED");
    }
    matches!(name, "NOTIFY_SOCKET" | "SENTRY_DSN" | "CREDENTIALS_DIRECTORY")
        || name.starts_with("WATCHDOG_")
        || name.starts_with("LISTEN_")
}

/// The daemon's environment without its private part, with the extended PATH.
pub fn plain(settings: &RuntimeSettings) -> Vec<(OsString, OsString)> {
    let mut env = Vec::with_capacity(settings.base_env.len() + 16);
    for (name, value) in &settings.base_env {
        if !is_private(name)
            && !heap::is_private(name, value)
            && !settings.remove_env.iter().any(|gone| name == gone.as_str())
        {
            put(&mut env, name.clone(), value.clone());
        }
    }
    put(&mut env, "PATH".into(), settings.search_path.clone());
    env
}

/// The environment of a run: [`plain`], the agent's facts, the runtime's changes, the request's variables.
/// A name or value that no environment can hold is an error.
pub fn of_run(
    request: &RunRequest,
    settings: &RuntimeSettings,
    changes: &Changes,
) -> Result<Vec<(OsString, OsString)>, Thrown> {
    let mut env = plain(settings);
    if let Some(dir) = &settings.bundled_bin {
        let mut path = dir.clone().into_os_string();
        if !settings.search_path.is_empty() {
            path.push(":");
            path.push(&settings.search_path);
        }
        put(&mut env, "PATH".into(), path);
    }
    if let Some(hub) = &request.hub_url {
        put(&mut env, "BOTCORD_HUB".into(), hub.into());
    }
    if !request.agent.is_empty() {
        put(&mut env, "BOTCORD_AGENT_ID".into(), request.agent.clone().into());
        // With BELLHOP_TURN, so that `bellhop send` inside a turn says who writes.
        put(&mut env, "BELLHOP_AGENT".into(), request.agent.clone().into());
    }
    if let Some(file) = &request.wait_file {
        put(&mut env, "BOTCORD_WAIT_FILE".into(), file.clone().into());
    }
    env.retain(|(name, _)| !changes.remove.iter().any(|gone| name == gone));
    for (name, value) in &changes.set {
        put(&mut env, name.into(), value.clone());
    }
    for (name, value) in &request.env {
        put(&mut env, name.into(), value.into());
    }
    match env.iter().find(|(name, value)| !is_valid(name, value)) {
        None => Ok(env),
        // The value is not shown: it may be a secret.
        Some((name, _)) => Err(Thrown {
            class: Some(ErrorClass::Config),
            ..Thrown::new(format!("environment variable {} is not valid", name.display()))
        }),
    }
}

fn put(env: &mut Vec<(OsString, OsString)>, name: OsString, value: OsString) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

fn is_valid(name: &OsStr, value: &OsStr) -> bool {
    let name = name.as_bytes();
    !name.is_empty() && !name.contains(&b'=') && !name.contains(&0) && !value.as_bytes().contains(&0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::testing::request;
    use std::path::Path;

    fn settings(pairs: &[(&str, &str)]) -> RuntimeSettings {
        let env = pairs.iter().map(|(k, v)| (OsString::from(k), OsString::from(v))).collect();
        RuntimeSettings::with_env(Path::new("/h"), env)
    }

    fn get<'a>(env: &'a [(OsString, OsString)], name: &str) -> Option<&'a str> {
        env.iter().find(|(k, _)| k == name).and_then(|(_, v)| v.to_str())
    }

    #[test]
    fn the_daemons_own_credentials_stay_with_it() {
        let settings = settings(&[
            ("LANG", "C"),
            ("OPENAI_API_KEY", "for the agent"),
            ("BOTCORD_CLOUD_DAEMON_ACCESS_TOKEN", "x"),
            ("BOTCORD_HUB_CONTROL_PUBLIC_KEYS", "x"),
            ("BOTCORD_DAEMON_SENTRY_DSN", "x"),
            ("BELLHOP_TURN", "outer"),
            ("NOTIFY_SOCKET", "/run/x"),
            ("WATCHDOG_USEC", "1"),
            ("LISTEN_FDS", "1"),
            ("MINE", "1"),
        ]);
        let settings = RuntimeSettings { remove_env: vec!["MINE".into()], ..settings };
        let env = plain(&settings);
        let names: Vec<_> = env.iter().filter_map(|(k, _)| k.to_str()).collect();
        assert_eq!(names, ["LANG", "OPENAI_API_KEY", "PATH"]);
    }

    #[test]
    fn a_run_adds_its_facts_and_its_own_variables_last() {
        let mut settings = settings(&[("PATH", "/bin"), ("GONE", "1"), ("A", "base")]);
        settings.search_path = "/bin".into();
        settings.bundled_bin = Some("/opt/b".into());
        let mut request = request("hello");
        request.hub_url = Some("https://hub".into());
        request.wait_file = Some("/w".into());
        request.env = vec![("A".into(), "mine".into())];
        let mut changes = Changes { remove: vec!["GONE"], ..Changes::default() };
        changes.set("A", "runtime");
        let env = of_run(&request, &settings, &changes).unwrap();
        assert_eq!(get(&env, "PATH"), Some("/opt/b:/bin"));
        assert_eq!(get(&env, "BOTCORD_HUB"), Some("https://hub"));
        assert_eq!(get(&env, "BOTCORD_AGENT_ID"), Some("ag_1"));
        assert_eq!(get(&env, "BOTCORD_WAIT_FILE"), Some("/w"));
        assert_eq!(get(&env, "A"), Some("mine"));
        assert_eq!(get(&env, "GONE"), None);
    }

    #[test]
    fn what_no_environment_can_hold_is_refused_without_showing_it() {
        for (name, value) in [("A=B", "x"), ("", "x"), ("A\0", "x"), ("A", "sec\0ret")] {
            let mut request = request("hello");
            request.env = vec![(name.into(), value.into())];
            let error = of_run(&request, &settings(&[]), &Changes::default()).unwrap_err();
            assert_eq!(error.class, Some(ErrorClass::Config));
            assert!(!error.message.contains("ret"), "{}", error.message);
        }
    }
}
