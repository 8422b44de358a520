//! Frames to daemons, as they should be and as they should not.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::server::Shared;
use super::sign::Signer;
use super::world::World;

/// A frame with everything that may be wrong with it.
#[derive(Default)]
pub struct Frame {
    pub kind: String,
    pub params: Value,
    /// In place of a fresh one.
    pub id: Option<String>,
    /// Added to the hub's clock.
    pub offset: i64,
    /// No `ts` at all.
    pub timeless: bool,
    pub unsigned: bool,
    /// Signs in place of the hub.
    pub signer: Option<Signer>,
    /// Params that take the place of the signed ones.
    pub tampered: Option<Value>,
}

impl Frame {
    pub fn new(kind: &str, params: Value) -> Self {
        Self { kind: kind.to_owned(), params, ..Self::default() }
    }

    /// Its id and its text.
    pub fn text(&self, world: &mut World) -> (String, String) {
        let id = self.id.clone().unwrap_or_else(|| world.fresh_uuid());
        let ts = if self.timeless { json!(0) } else { json!(world.now() + self.offset) };
        let signer = self.signer.as_ref().unwrap_or(&world.signer);
        let params = if self.params.is_null() { json!({}) } else { self.params.clone() };
        let mut frame = json!({"id": id, "type": self.kind, "params": params});
        if !self.timeless {
            frame["ts"] = ts.clone();
        }
        if !self.unsigned {
            frame["sig"] = signer.sign(&id, &self.kind, &params, &ts).into();
        }
        if let Some(other) = &self.tampered {
            frame["params"] = other.clone();
        }
        (id, frame.to_string())
    }
}

/// The first frame of a connection.
pub fn hello(world: &mut World, id: &str) -> String {
    let instance = &world.instances[id];
    let mut params = json!({"server_time": world.now(), "agents": instance.agents});
    if let Some((cloud, _)) = &instance.cloud {
        params["cloud_daemon_instance_id"] = cloud.as_str().into();
    }
    let (name, text) = Frame::new("hello", params).text(world);
    world.sent.insert(name, (id.to_owned(), None));
    text
}

/// A frame that is on its way.
pub struct Pending {
    pub shared: Arc<Shared>,
    pub instance: String,
    pub id: String,
}

impl Pending {
    /// The ack, if it comes within half a minute.
    #[track_caller]
    pub fn ack(&self) -> Value {
        let ack = wait_ack(&self.shared, &self.id, Duration::from_secs(30));
        ack.unwrap_or_else(|| panic!("frame {} to {} was not acked", self.id, self.instance))
    }

    /// The result of an ack that says yes.
    #[track_caller]
    pub fn result(&self) -> Value {
        let ack = self.ack();
        assert_eq!(ack["ok"], true, "{ack}");
        ack["result"].clone()
    }

    /// The code of one that says no.
    #[track_caller]
    pub fn refusal(&self) -> String {
        let ack = self.ack();
        assert_eq!(ack["ok"], false, "{ack}");
        ack["error"]["code"].as_str().expect("a refusal has a code").to_owned()
    }
}

/// Sends a frame; nothing when the daemon is not connected.
pub fn send(shared: &Arc<Shared>, instance: &str, frame: &Frame) -> Option<Pending> {
    let (id, text, conn) = shared.change(|world| {
        let conn = world.online.get(instance)?.clone();
        let (id, text) = frame.text(world);
        world.sent.insert(id.clone(), (instance.to_owned(), None));
        Some((id, text, conn))
    })?;
    conn.text(&text);
    Some(Pending { shared: shared.clone(), instance: instance.to_owned(), id })
}

/// The ack of a frame; nothing when there is none in time, or the socket has ended.
pub fn wait_ack(shared: &Shared, id: &str, limit: Duration) -> Option<Value> {
    let end = Instant::now() + limit;
    let mut world = shared.look();
    loop {
        match world.sent.get(id) {
            Some((_, Some(ack))) => return Some(ack.clone()),
            None => return None,
            Some(_) if Instant::now() >= end || shared.is_over() => return None,
            Some(_) => world = shared.wait(world),
        }
    }
}

/// Sends a frame and waits for its ack.
pub fn ask(shared: &Arc<Shared>, instance: &str, kind: &str, params: Value, limit: Duration) -> Option<Value> {
    let pending = send(shared, instance, &Frame::new(kind, params))?;
    wait_ack(shared, &pending.id, limit)
}
