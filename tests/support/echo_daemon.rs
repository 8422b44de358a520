//! A control server whose agent does what the message says, for tests of the commands.
//!
//! `fail`, `none`, `timeout` end the turn so; `tools` runs two tools first; `hang` runs until it is cancelled;
//! `rude` sends what would steer a terminal; `forgotten` is done, and nothing else is known of it. Everything else is repeated in two pieces.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};

use bellhop::engine::ports::{TurnEvent, TurnFailure, TurnObserver, TurnReport, TurnStatus, Usage};
use bellhop::message::{
    Block, BlockKind, Conversation, ConversationKind, Digest, Inbound, Origin, Sender as From, SenderKind,
};
use bellhop::serve::Control;
use bellhop::serve::follow::Follow;
use bellhop::serve::server::{Server, Settings};
use bellhop::serve::wire::*;

/// A directory that goes away with the test; it is the home and holds the directory `work`.
pub struct Place {
    pub home: PathBuf,
}

impl Place {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let home = std::env::temp_dir().join(format!("bh-cli-{}-{n}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home);
        std::fs::create_dir_all(home.join("work")).unwrap();
        std::fs::create_dir_all(home.join("daemon")).unwrap();
        Self { home }
    }

    /// The program on this home, working in `work`, without the user's environment.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bellhop"));
        command
            .args(args)
            .env_clear()
            .env("BELLHOP_HOME", &self.home)
            .env("HOME", &self.home)
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .current_dir(self.home.join("work"))
            .stdin(Stdio::null());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs it with this standard input.
    pub fn feed(&self, args: &[&str], input: &str) -> Ran {
        let file = self.home.join("input");
        std::fs::write(&file, input).unwrap();
        Ran::of(self.command(args).stdin(std::fs::File::open(file).unwrap()).output().unwrap())
    }

    pub fn write(&self, path: &str, text: &str) {
        let path = self.home.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// The daemon; ends when dropped.
pub struct EchoDaemon {
    pub place: Place,
    pub agent: Arc<Agent>,
    _server: Server,
}

impl EchoDaemon {
    pub fn start() -> Self {
        let place = Place::new();
        let follow = Arc::new(Follow::default());
        let agent = Arc::new(Agent { follow: follow.clone(), ..Agent::default() });
        let server = Server::start(&place.home, agent.clone(), follow, Settings::default()).unwrap();
        Self { place, agent, _server: server }
    }
}

#[derive(Default)]
pub struct Agent {
    follow: Arc<Follow>,
    pub submitted: Mutex<Vec<Submit>>,
    pub asked: Mutex<Vec<String>>,
    running: Mutex<HashMap<String, Sender<()>>>,
}

impl Agent {
    fn play(&self, inbound: &Inbound, cancelled: &std::sync::mpsc::Receiver<()>) {
        let tell = |event: &TurnEvent<'_>| self.follow.event(event);
        let turn = format!("turn-{}", inbound.id);
        tell(&TurnEvent::Started { message: inbound, turn_id: &turn, runtime: "echo", attempt: 1 });
        let block = |seq, kind, digest| {
            let block = Block { kind, seq, raw: serde_json::Value::Null, digest };
            tell(&TurnEvent::Block { message: inbound, turn_id: &turn, block: &block });
        };
        let says = |seq, text: &str| {
            block(seq, BlockKind::AssistantText, Digest { text: Some(text.into()), ..Digest::default() });
        };
        let mut report = TurnReport {
            turn_id: turn.clone(),
            message_ids: vec![inbound.id.clone()],
            channel: "local".into(),
            agent: inbound.account_id.clone(),
            conversation: inbound.conversation.id.clone(),
            runtime: "echo".into(),
            session_id: Some("s1".into()),
            status: TurnStatus::Ok,
            reply: Some(inbound.text.clone()),
            error: None,
            blocks: 2,
            ms: 12,
            usage: Some(Usage { hit: 1, miss: 2, output: 3 }),
            cost_usd: Some(0.5),
            class: None,
        };
        match inbound.text.as_str() {
            "fail" => {
                report.status = TurnStatus::Error;
                report.reply = None;
                report.error = Some(TurnFailure {
                    kind: "auth".into(),
                    message: "not logged in".into(),
                    error_ref: Some("err_1".into()),
                });
            }
            "none" => (report.status, report.reply) = (TurnStatus::NoReply, None),
            "timeout" => (report.status, report.reply) = (TurnStatus::Timeout, None),
            "hang" => {
                cancelled.recv().unwrap();
                (report.status, report.reply) = (TurnStatus::Cancelled, None);
            }
            "tools" => {
                let tool = Digest { tool: Some("Bash".into()), summary: Some("ls".into()), ..Digest::default() };
                block(1, BlockKind::ToolUse, tool);
                block(
                    2,
                    BlockKind::ToolResult,
                    Digest { summary: Some("denied".into()), failed: true, ..Digest::default() },
                );
                says(3, "done");
            }
            "rude" => {
                report.reply = Some("\u{1b}[2Jx".into());
                says(1, "\u{1b}[2Jx");
            }
            text => {
                let half = text.len() / 2;
                says(1, &text[..half]);
                says(2, &text[half..]);
            }
        }
        tell(&TurnEvent::Finished { message: inbound, report: &report });
    }

    fn cancel_one(&self, id: &str) -> u64 {
        self.running.lock().unwrap().remove(id).map_or(0, |s| u64::from(s.send(()).is_ok()))
    }
}

// The server needs the trait on the agent itself, and turns need the agent on their threads.
impl Control for Agent {
    fn submit(&self, message: Submit) -> Result<Accepted, Failure> {
        if message.text == "busy" {
            return Err(Failure::new(ErrorKind::TooBusy, "50 messages wait; at most 50 may"));
        }
        let id = message.id.clone().unwrap();
        let inbound = inbound(&id, &message);
        let accepted = Accepted {
            id: id.clone(),
            agent: inbound.account_id.clone(),
            conversation: inbound.conversation.id.clone(),
            duplicate: false,
            ahead: 0,
        };
        let forgotten = message.text == "forgotten";
        self.submitted.lock().unwrap().push(message);
        if forgotten {
            return Ok(accepted);
        }
        let (sender, cancelled) = channel();
        self.running.lock().unwrap().insert(id, sender);
        self.follow.event(&TurnEvent::Queued { message: &inbound, ahead: 0 });
        let player = Agent { follow: self.follow.clone(), ..Agent::default() };
        std::thread::spawn(move || player.play(&inbound, &cancelled));
        Ok(accepted)
    }

    fn message_state(&self, id: &str) -> MessageState {
        let known = |sent: &Submit| sent.id.as_deref() == Some(id) && sent.text == "forgotten";
        let state = if self.submitted.lock().unwrap().iter().any(known) { State::Done } else { State::Unknown };
        self.follow.message_state(id).unwrap_or(MessageState::new(id, state))
    }

    fn cancel_message(&self, id: &str) -> Result<Cancelled, Failure> {
        self.asked.lock().unwrap().push(format!("cancel {id}"));
        Ok(Cancelled { cancelled: self.cancel_one(id) })
    }

    fn cancel_conversation(&self, which: Cancel) -> Result<Cancelled, Failure> {
        let words = [which.agent.unwrap_or_default(), which.conversation.unwrap_or_default()];
        self.asked.lock().unwrap().push(format!("cancel {}/{}", words[0], words[1]));
        Ok(Cancelled { cancelled: if words[1] == "idle" { 0 } else { 2 } })
    }

    fn status(&self) -> DaemonStatus {
        let turn = RunningTurn {
            turn_id: "turn-7".into(),
            queue: "q".into(),
            agent: "a1".into(),
            conversation: "c7".into(),
            runtime: "codex".into(),
            started_at: 0,
        };
        DaemonStatus { pid: 7, version: "0.1.0".into(), turns: vec![turn], ..DaemonStatus::default() }
    }

    fn health(&self) -> Health {
        Health::default()
    }

    fn sessions(&self) -> Result<Sessions, Failure> {
        let session = SessionInfo {
            key: "k1".into(),
            runtime: "codex".into(),
            channel: "local".into(),
            agent: "a1".into(),
            conversation: "c7".into(),
            thread: None,
            session_id: "s1".into(),
            cwd: "/".into(),
            updated_at: 0,
        };
        Ok(Sessions { sessions: vec![session] })
    }

    fn reset_sessions(&self, which: ResetSessions) -> Result<SessionsReset, Failure> {
        Ok(SessionsReset { reset: if which.all { 3 } else { u64::from(which.key.as_deref() == Some("k1")) } })
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

    fn shutdown(&self, _how: Shutdown) -> Result<ShuttingDown, Failure> {
        Ok(ShuttingDown { pid: 7, turns: 0, drain_seconds: 0 })
    }
}

fn inbound(id: &str, message: &Submit) -> Inbound {
    Inbound {
        id: id.into(),
        channel: "local".into(),
        account_id: message.agent.clone().unwrap_or("local".into()),
        conversation: Conversation {
            id: message.conversation.clone().unwrap_or("main".into()),
            kind: ConversationKind::Direct,
            title: None,
            thread_id: None,
        },
        sender: From { id: "me".into(), name: None, kind: SenderKind::User },
        text: message.text.clone(),
        reply_to: None,
        msg_id: None,
        mentioned: true,
        received_at: 0,
        trace: None,
        entries: Vec::new(),
        omitted: 0,
        hops: 0,
        origin: Origin::OwnerChat,
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
