//! A daemon without an engine: a `Control` that remembers what it was asked, a home of its own, and turns
//! that a test tells by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellhop::engine::ports::{TurnEvent, TurnObserver, TurnReport, TurnStatus};
use bellhop::message::{Block, BlockKind, Conversation, ConversationKind, Digest, Inbound, Origin, Sender, SenderKind};
use bellhop::serve::Control;
use bellhop::serve::follow::Follow;
use bellhop::serve::server::{Server, Settings};
use bellhop::serve::wire::*;

#[derive(Default)]
pub struct Fake {
    pub submitted: Mutex<Vec<Submit>>,
    pub states: Mutex<Vec<MessageState>>,
    pub health: Mutex<Health>,
    pub asked: Mutex<Vec<String>>,
}

impl Control for Fake {
    fn submit(&self, message: Submit) -> Result<Accepted, Failure> {
        match message.text.as_str() {
            "panic" => panic!("as the test asked"),
            "busy" => return Err(Failure::new(ErrorKind::TooBusy, "50 messages wait; at most 50 may")),
            _ => {}
        }
        let mut submitted = self.submitted.lock().unwrap();
        let id = message.id.clone().unwrap_or_else(|| format!("made-{}", submitted.len()));
        let duplicate = submitted.iter().any(|m| m.id.as_ref() == Some(&id));
        let accepted = Accepted {
            id,
            agent: message.agent.clone().unwrap_or("default".into()),
            conversation: message.conversation.clone().unwrap_or("main".into()),
            duplicate,
            ahead: submitted.len(),
        };
        submitted.push(message);
        Ok(accepted)
    }

    fn message_state(&self, id: &str) -> MessageState {
        let states = self.states.lock().unwrap();
        states.iter().find(|s| s.id == id).cloned().unwrap_or(MessageState::new(id, State::Unknown))
    }

    fn cancel_message(&self, id: &str) -> Result<Cancelled, Failure> {
        self.asked.lock().unwrap().push(format!("cancel {id}"));
        Ok(Cancelled { cancelled: 1 })
    }

    fn cancel_conversation(&self, which: Cancel) -> Result<Cancelled, Failure> {
        self.asked.lock().unwrap().push(format!("cancel {:?} {:?}", which.agent, which.conversation));
        Ok(Cancelled { cancelled: 2 })
    }

    fn status(&self) -> DaemonStatus {
        DaemonStatus { pid: 7, version: "0".into(), ..DaemonStatus::default() }
    }

    fn health(&self) -> Health {
        self.health.lock().unwrap().clone()
    }

    fn sessions(&self) -> Result<Sessions, Failure> {
        Ok(Sessions::default())
    }

    fn reset_sessions(&self, which: ResetSessions) -> Result<SessionsReset, Failure> {
        self.asked.lock().unwrap().push(format!("reset {:?}", which.key));
        Err(Failure::new(ErrorKind::Conflict, "a turn runs on it"))
    }

    fn queue(&self) -> Result<Queue, Failure> {
        Ok(Queue { live: true, messages: vec![queued("e1")], ..Queue::default() })
    }

    fn dead_letters(&self) -> Result<Queue, Failure> {
        Ok(Queue { live: true, dead: 1, ..Queue::default() })
    }

    fn queue_item(&self, id: &str) -> Result<QueueItem, Failure> {
        if id == "e1" { Ok(queued(id)) } else { Err(Failure::new(ErrorKind::NotFound, "there is none")) }
    }

    fn change_queue(&self, id: &str, action: QueueAction) -> Result<QueueChanged, Failure> {
        self.asked.lock().unwrap().push(format!("{} {id}", action.word()));
        Ok(QueueChanged { id: id.into(), done: action.word().into() })
    }

    fn shutdown(&self, how: Shutdown) -> Result<ShuttingDown, Failure> {
        Ok(ShuttingDown { pid: 7, turns: 0, drain_seconds: how.drain_seconds.unwrap_or(30) })
    }
}

/// A directory that goes away with the test.
pub struct Home(pub PathBuf);

impl Home {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("bh-serve-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server with everything it needs.
pub struct House {
    pub server: Option<Server>,
    pub fake: Arc<Fake>,
    pub follow: Arc<Follow>,
    pub home: Home,
}

impl House {
    pub fn open(settings: Settings) -> Self {
        let (home, fake, follow) = (Home::new(), Arc::new(Fake::default()), Arc::new(Follow::default()));
        let server = Some(Server::start(&home.0, fake.clone(), follow.clone(), settings).unwrap());
        Self { server, fake, follow, home }
    }

    pub fn socket(&self) -> PathBuf {
        bellhop::serve::socket::path(&self.home.0)
    }

    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends bytes as they are and reads until the server closes.
    pub fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        // A server that has seen enough closes before everything is sent.
        let _ = stream.write_all(bytes);
        read_all(&mut stream)
    }

    /// One well-formed request; the answer's status and body.
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let answer = self.raw(
            format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .as_bytes(),
        );
        (status(&answer), answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }
}

pub fn read_all(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        // The server closed while bytes of ours were unread; what it said came before.
        Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(e) => panic!("after {:?}: {e}", String::from_utf8_lossy(&bytes)),
    }
    String::from_utf8(bytes).unwrap()
}

/// The status of an answer; 0 when there is none.
pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_default()
}

pub fn message(id: &str) -> Inbound {
    Inbound {
        id: id.into(),
        channel: "local".into(),
        account_id: "default".into(),
        conversation: Conversation { id: "main".into(), kind: ConversationKind::Direct, title: None, thread_id: None },
        sender: Sender { id: "me".into(), name: None, kind: SenderKind::User },
        text: "hello".into(),
        reply_to: None,
        msg_id: None,
        mentioned: true,
        received_at: 0,
        trace: None,
        entries: Vec::new(),
        omitted: 0,
        hops: 0,
        origin: Origin::Room,
        quote: None,
        envelope_type: None,
        room: None,
        schedule: None,
        cloud_run: None,
        media_only: false,
        attachments: Vec::new(),
        overrides: None,
    }
}

pub fn report(id: &str, reply: &str) -> TurnReport {
    TurnReport {
        turn_id: format!("turn-{id}"),
        message_ids: vec![id.into()],
        channel: "local".into(),
        agent: "default".into(),
        conversation: "main".into(),
        runtime: "echo".into(),
        session_id: None,
        status: TurnStatus::Ok,
        reply: Some(reply.into()),
        error: None,
        blocks: 0,
        ms: 1,
        usage: None,
        cost_usd: None,
        class: None,
    }
}

pub fn text_block(seq: u64, text: &str) -> Block {
    let digest = Digest { text: Some(text.into()), ..Digest::default() };
    Block { kind: BlockKind::AssistantText, seq, raw: serde_json::Value::Null, digest }
}

/// Tells the observer what an engine would.
pub trait Tell {
    fn queued(&self, message: &Inbound);
    fn started(&self, message: &Inbound);
    fn says(&self, message: &Inbound, seq: u64, text: &str);
    fn finished(&self, message: &Inbound, reply: &str);
}

impl Tell for Follow {
    fn queued(&self, message: &Inbound) {
        self.event(&TurnEvent::Queued { message, ahead: 0 });
    }

    fn started(&self, message: &Inbound) {
        self.event(&TurnEvent::Started { message, turn_id: "t", runtime: "echo", attempt: 1 });
    }

    fn says(&self, message: &Inbound, seq: u64, text: &str) {
        self.event(&TurnEvent::Block { message, turn_id: "t", block: &text_block(seq, text) });
    }

    fn finished(&self, message: &Inbound, reply: &str) {
        self.event(&TurnEvent::Finished { message, report: &report(&message.id, reply) });
    }
}

fn queued(id: &str) -> QueueItem {
    QueueItem {
        id: id.into(),
        message_ids: vec!["m1".into()],
        channel: "local".into(),
        agent: "a1".into(),
        conversation: "c7".into(),
        thread: None,
        queue: "local:a1:c7:".into(),
        state: QueueState::Held,
        since: 0,
        attempts: 1,
        turn_id: None,
        why: None,
        until: None,
        sender: "me".into(),
        text: "hello".into(),
    }
}
