//! A person at a terminal: what is shown, and what an interrupt leaves.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::home::Home;
use crate::hub_control::ControlHub;

/// A program that has a terminal of its own.
struct Session {
    child: Child,
    keys: File,
    shown: Arc<Mutex<String>>,
}

impl Session {
    /// `bellhop start` as a person types it.
    fn start(home: &Home, hub: &ControlHub) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let open = || -> OwnedFd {
            rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        // It becomes the foreground of the terminal, so that a key interrupts it.
        let mut command = Command::new("setsid");
        command.arg("-c").arg(env!("CARGO_BIN_EXE_bellhop")).args(["start", "--hub", &hub.url()]);
        command.env_clear().env("HOME", home.dir.path()).env("PATH", "/usr/bin:/bin").env("BELLHOP_HOME", home.root());
        let child = command.stdin(open()).stdout(open()).stderr(open()).spawn().unwrap();
        drop(command);
        let shown = Arc::new(Mutex::new(String::new()));
        let (mut screen, into) = (File::from(master.try_clone().unwrap()), Arc::clone(&shown));
        std::thread::spawn(move || {
            let mut bytes = [0; 4_096];
            // The end of the last program is an error of the terminal.
            while let Ok(count) = screen.read(&mut bytes) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, keys: File::from(master), shown }
    }

    fn wait_shown(&self, hub: &ControlHub, text: &str) -> String {
        hub.wait(&format!("{text:?} on the screen"), |_| {
            let shown = self.shown.lock().unwrap();
            shown.contains(text).then(|| shown.clone())
        })
    }

    /// Control and C.
    fn interrupt(&mut self) {
        self.keys.write_all(b"\x03").unwrap();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Files of the daemon.
fn files(home: &Home) -> Vec<String> {
    fn below(dir: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                below(&entry.path(), into);
            } else {
                into.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    let mut names = Vec::new();
    below(&home.root(), &mut names);
    names
}

#[test]
fn whoever_is_interrupted_while_he_enters_a_code_leaves_nothing() {
    let (hub, home) = (ControlHub::start(), Home::new());
    let mut session = Session::start(&home, &hub);
    let code = hub.wait_code();
    session.wait_shown(&hub, &code);
    // He is asked about as he reads.
    hub.wait("a question", |world| world.rows.iter().any(|row| row.path.ends_with("/device-token")).then_some(()));
    session.interrupt();
    let status = session.child.wait().unwrap();
    assert_eq!((status.signal(), status.code()), (Some(2), None), "as any program that is interrupted");
    let left = files(&home);
    assert!(left.iter().all(|name| !name.contains("user-auth") && !name.contains("flag")), "{left:?}");
    assert!(!home.daemon().join("config.json").exists() && left.iter().all(|name| !name.contains("tmp")), "{left:?}");
    let device = hub.requests("/device-token")[0].body["device_code"].as_str().unwrap().to_owned();
    assert!(!session.shown.lock().unwrap().contains(&device), "the device code is nobody's business");
    assert!(hub.requests("/daemon/ws").is_empty());
}

#[test]
fn whoever_enters_his_code_has_a_daemon_until_he_interrupts_it() {
    let (hub, home) = (ControlHub::start(), Home::new());
    let mut session = Session::start(&home, &hub);
    let code = hub.wait_code();
    let shown = session.wait_shown(&hub, &code);
    assert!(shown.contains(&format!("/activate?code={code}&next=%2Fsettings%2Fdaemons")), "{shown}");
    let instance = hub.approve(&code, None);
    session.wait_shown(&hub, "Logged in as user-1");
    hub.wait_online(&instance);
    session.interrupt();
    let status = session.child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{}", session.shown.lock().unwrap());
    assert_eq!(home.login()["daemonInstanceId"], instance.as_str());
    assert!(files(&home).iter().all(|name| !name.contains("tmp") && name != "snapshot.json"));
}
