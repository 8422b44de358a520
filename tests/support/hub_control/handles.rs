//! What a test does with the hub.

use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::frames::{self, Frame, Pending};
use super::server::Shared;
use super::sign::Signer;
use super::socket::Conn;
use super::world::{Access, CODE_LIFE, CodeState, Fault, Greet, Instance, Refusal, Row, Run, Ticket, World};

/// Longest wait for something that is to happen; a test that gets here has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A hub. Its end asserts that no daemon has sent what it must not.
pub struct ControlHub {
    shared: Arc<Shared>,
}

impl ControlHub {
    pub fn start() -> Self {
        Self { shared: Shared::start() }
    }

    pub fn url(&self) -> String {
        self.shared.look().origin.clone()
    }

    /// A look at what the hub knows, or a change of it.
    pub fn world<T>(&self, look: impl FnOnce(&mut World) -> T) -> T {
        self.shared.change(look)
    }

    /// The key that daemons have to trust, as text.
    pub fn key(&self) -> String {
        self.shared.look().signer.public()
    }

    pub fn rotate_key(&self, seed: usize) {
        self.world(|world| world.signer = Signer::numbered(seed));
    }

    /// Moves the hub's clock.
    pub fn move_clock(&self, ms: i64) {
        self.world(|world| world.offset += ms);
    }

    /// What goes wrong with the next requests of an endpoint, one after the other.
    pub fn fault(&self, endpoint: &str, faults: impl IntoIterator<Item = Fault>) {
        self.world(|world| world.faults.entry(endpoint.to_owned()).or_default().extend(faults));
    }

    pub fn refuse_with(&self, refusal: Refusal) {
        self.world(|world| world.refusal = refusal);
    }

    pub fn greet(&self, greet: Greet) {
        self.world(|world| world.greet = greet);
    }

    /// The instance that a person makes of a login code.
    pub fn approve(&self, user_code: &str, label: Option<&str>) -> String {
        self.world(|world| {
            let instance = world.instance("user-1", label.map(str::to_owned));
            let code = world.codes.values_mut().find(|code| code.shown == user_code);
            code.expect("this code was given").state = CodeState::Approved(instance.clone());
            instance
        })
    }

    pub fn deny(&self, user_code: &str) {
        self.world(|world| {
            let code = world.codes.values_mut().find(|code| code.shown == user_code);
            code.expect("this code was given").state = CodeState::Denied;
        });
    }

    /// Waits for somebody who wants to log in; the code that he is shown.
    pub fn wait_code(&self) -> String {
        self.wait("a login code", |world| world.codes.values().next().map(|code| code.shown.clone()))
    }

    /// An install ticket, for an instance that exists or for a new one.
    pub fn ticket(&self, instance: Option<&str>) -> String {
        self.world(|world| {
            let token = format!("dit_{}", world.fresh(32));
            let (expires, instance) = (world.now() + CODE_LIFE, instance.map(str::to_owned));
            let ticket = Ticket { user: "user-1".into(), instance, consumed: false, expires };
            world.tickets.insert(token.clone(), ticket);
            token
        })
    }

    /// A new instance whose login lies in the home already. Returns its id.
    pub fn log_in(&self, home: &Path) -> String {
        let (id, tokens, expires) = self.world(|world| {
            let id = world.instance("user-1", Some("test".into()));
            let tokens = world.tokens(&id);
            (id, tokens, world.now() + 3_600_000)
        });
        let document = json!({
            "version": 1, "userId": "user-1", "daemonInstanceId": id, "hubUrl": self.url(),
            "accessToken": tokens["access_token"], "refreshToken": tokens["refresh_token"], "expiresAt": expires,
            "loggedInAt": "2027-01-15T08:00:00.000Z", "label": "test",
        });
        let dir = home.join("daemon");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).unwrap();
        let mut options = std::fs::OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(dir.join("user-auth.json"));
        file.unwrap().write_all(document.to_string().as_bytes()).unwrap();
        id
    }

    /// A sandbox: its instance, and the environment that its daemon is started with. A second launch makes the token
    /// of the first worthless.
    pub fn launch(&self, instance: Option<&str>) -> (String, Vec<(String, String)>) {
        self.world(|world| {
            let id = instance.map_or_else(|| world.instance("user-1", None), str::to_owned);
            let known = world.instances[&id].cloud.clone().map(|(cloud, _)| cloud);
            let cloud = known.unwrap_or_else(|| format!("cloud_dm_{}", world.fresh(12)));
            let (launch, token) = (world.fresh(16), format!("ct_{}", world.fresh(40)));
            world.instances.get_mut(&id).unwrap().cloud = Some((cloud.clone(), launch.clone()));
            let access = Access { instance: id.clone(), expires: world.now() + 3_600_000, launch: Some(launch) };
            world.access.insert(token.clone(), access);
            let variables = [
                ("BOTCORD_HUB_URL", world.origin.clone()),
                ("BOTCORD_CLOUD_DAEMON_INSTANCE_ID", cloud),
                ("BOTCORD_DAEMON_INSTANCE_ID", id.clone()),
                ("BOTCORD_CLOUD_DAEMON_ACCESS_TOKEN", token),
                ("BOTCORD_HUB_CONTROL_PUBLIC_KEYS", world.signer.public()),
            ];
            (id, variables.map(|(name, value)| (name.to_owned(), value)).to_vec())
        })
    }

    /// An agent that `hello` will name.
    pub fn bind(&self, instance: &str, agent: Value) {
        self.instance(instance, |instance| instance.agents.push(agent));
    }

    /// A run that may be settled.
    pub fn reserve(&self, run: &str, instance: &str) {
        let run = (run.to_owned(), Run { instance: instance.to_owned(), active: true });
        self.world(|world| world.runs.extend([run]));
    }

    /// An agent that is to be revoked the next time the daemon comes.
    pub fn revoke_later(&self, instance: &str, params: Value) {
        self.instance(instance, |instance| instance.revocations.push_back(params));
    }

    pub fn instance<T>(&self, id: &str, look: impl FnOnce(&mut Instance) -> T) -> T {
        self.world(|world| look(world.instances.get_mut(id).expect("this instance exists")))
    }

    /// Makes all access tokens of an instance worthless.
    pub fn expire_tokens(&self, instance: &str) {
        self.world(|world| world.access.retain(|_, access| access.instance != instance));
    }

    /// Revokes an instance: its tokens count no more, and where it is connected it is told so.
    pub fn revoke(&self, instance: &str, reason: &str) {
        let limit = Duration::from_secs(10);
        frames::ask(&self.shared, instance, "revoke", json!({"reason": reason}), limit);
        self.world(|world| {
            world.instances.get_mut(instance).expect("this instance exists").revoked = true;
            if let Some(conn) = world.online.get(instance) {
                conn.close(4403, "revoked");
            }
        });
    }

    /// Sends a frame as it should be.
    #[track_caller]
    pub fn send(&self, instance: &str, kind: &str, params: Value) -> Pending {
        self.send_frame(instance, &Frame::new(kind, params))
    }

    #[track_caller]
    pub fn send_frame(&self, instance: &str, frame: &Frame) -> Pending {
        frames::send(&self.shared, instance, frame).expect("the daemon is connected")
    }

    /// The same to a daemon that may be gone.
    pub fn try_send(&self, instance: &str, frame: &Frame) -> Option<Pending> {
        frames::send(&self.shared, instance, frame)
    }

    /// Writes a text that is no frame of the hub.
    pub fn send_raw(&self, instance: &str, text: &str) {
        self.conn(instance).text(text);
    }

    /// The writing side of a daemon's socket.
    pub fn conn(&self, instance: &str) -> Arc<Conn> {
        self.shared.look().online.get(instance).expect("the daemon is connected").clone()
    }

    pub fn close(&self, instance: &str, code: u16, reason: &str) {
        self.conn(instance).close(code, reason);
    }

    pub fn cut(&self, instance: &str) {
        self.conn(instance).cut();
    }

    /// From now on events of this connection are not acked.
    pub fn mute(&self, instance: &str) {
        self.conn(instance).mute.store(true, Ordering::SeqCst);
    }

    /// From now on nothing of this connection is read.
    pub fn deafen(&self, instance: &str) {
        self.conn(instance).deaf.store(true, Ordering::SeqCst);
    }

    /// Waits for a connection of this daemon.
    #[track_caller]
    pub fn wait_online(&self, instance: &str) {
        self.wait("the daemon's socket", |world| world.online.contains_key(instance).then_some(()));
    }

    /// Waits for another connection than this one.
    #[track_caller]
    pub fn wait_reconnected(&self, instance: &str, before: &Arc<Conn>) {
        let other = |world: &mut World| world.online.get(instance).is_some_and(|conn| !Arc::ptr_eq(conn, before));
        self.wait("another socket of the daemon", |world| other(world).then_some(()));
    }

    #[track_caller]
    pub fn wait_offline(&self, instance: &str) {
        self.wait("the end of the daemon's socket", |world| (!world.online.contains_key(instance)).then_some(()));
    }

    /// Waits for an event after the first `seen` ones of its type; its params.
    #[track_caller]
    pub fn wait_event(&self, instance: &str, kind: &str, seen: usize) -> Value {
        self.wait(kind, |world| {
            let events = world.heard.iter().filter(|heard| heard.instance == instance && heard.frame["type"] == kind);
            events.map(|heard| heard.frame["params"].clone()).nth(seen)
        })
    }

    /// Everything that came over this daemon's sockets.
    pub fn heard(&self, instance: &str) -> Vec<Value> {
        let world = self.shared.look();
        world.heard.iter().filter(|heard| heard.instance == instance).map(|heard| heard.frame.clone()).collect()
    }

    /// Requests whose path ends so.
    pub fn requests(&self, path: &str) -> Vec<Row> {
        self.shared.look().rows.iter().filter(|row| row.path.ends_with(path)).cloned().collect()
    }

    /// Waits until `find` finds something.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut find: impl FnMut(&mut World) -> Option<T>) -> T {
        let end = Instant::now() + PATIENCE;
        let mut world = self.shared.look();
        loop {
            if let Some(found) = find(&mut world) {
                return found;
            }
            assert!(Instant::now() < end, "waited in vain for {what}");
            world = self.shared.wait(world);
        }
    }

    /// Takes out what daemons did that they must not.
    pub fn violations(&self) -> Vec<String> {
        self.world(|world| std::mem::take(&mut world.violations))
    }
}

impl Drop for ControlHub {
    fn drop(&mut self) {
        self.shared.stop();
        let violations = self.violations();
        if !std::thread::panicking() {
            assert!(violations.is_empty(), "{violations:#?}");
        }
    }
}
