//! An engine with a channel that records, a runtime that follows a script, and files in a directory of its own.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bellhop::engine::cancel::CancelToken;
use bellhop::engine::gate::Policy;
use bellhop::engine::journal::{Journal, JournalOptions};
use bellhop::engine::policy::PolicySource;
use bellhop::engine::ports::{
    Capabilities, Channel, Delivery, Frame, FreshStart, MessageStatus, PromptBuilder, PromptFacts, RecentMessage,
    ResumedSession, RoomContext, RunRequest, RunResult, RunSink, Runtime, Runtimes, Settled, StreamBlock, StreamPace,
    SystemContext, SystemRule, Thrown, Told, TurnDone, TurnEvent, TurnHook, TurnObserver, TurnReport,
};
use bellhop::engine::route::{Route, Routes};
use bellhop::engine::sessions::SessionStore;
use bellhop::engine::settle::Settlement;
use bellhop::engine::transcript::Writer;
use bellhop::engine::{Acceptance, Engine, Parts, Recovered, Recovery, Settings, now_ms};
use bellhop::message::{
    Block, BlockKind, Conversation, ConversationKind, Digest, Inbound, Origin, Outbound, Sender, SenderKind,
};
use bellhop::store::{Disk, RealDisk};

/// Longest wait for something that is to happen; a test that gets here has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A directory that is removed at the end of the test.
pub struct TempDir(pub PathBuf);

impl TempDir {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("bellhop-{name}-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Something that grows and can be waited for.
pub struct Log<T> {
    items: Mutex<Vec<T>>,
    grown: Condvar,
}

impl<T> Default for Log<T> {
    fn default() -> Self {
        Self { items: Mutex::new(Vec::new()), grown: Condvar::new() }
    }
}

impl<T: Clone> Log<T> {
    pub fn push(&self, item: T) {
        self.items.lock().unwrap().push(item);
        self.grown.notify_all();
    }

    pub fn all(&self) -> Vec<T> {
        self.items.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.items.lock().unwrap().len()
    }

    pub fn wait(&self, count: usize) -> Vec<T> {
        self.wait_for(&format!("{count} items"), |items| items.len() >= count)
    }

    pub fn wait_for(&self, what: &str, done: impl Fn(&[T]) -> bool) -> Vec<T> {
        let end = Instant::now() + PATIENCE;
        let mut items = self.items.lock().unwrap();
        while !done(&items) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}; there are {}", items.len());
            items = self.grown.wait_timeout(items, left).unwrap().0;
        }
        items.clone()
    }
}

pub type BeforeSend = Box<dyn Fn(&Outbound) + Send + Sync>;

/// A channel that records what it is asked to do.
pub struct FakeChannel {
    pub id: String,
    pub kind: String,
    pub capabilities: Capabilities,
    pub sent: Log<Outbound>,
    pub settled: Log<Settled>,
    pub blocks: Log<StreamBlock>,
    pub typing: Log<String>,
    pub ended: Log<String>,
    pub statuses: Log<MessageStatus>,
    /// What the next attempts to send answer; `Delivered` once it is empty.
    pub deliveries: Mutex<Vec<Delivery>>,
    pub recent: Mutex<Option<Vec<RecentMessage>>>,
    /// Where policies come from; without it every message wakes the agent.
    pub policies: Option<FakePolicies>,
    pub display_name: Option<String>,
    /// What asking to show typing answers.
    pub typing_fails: bool,
    pub room: Option<RoomContext>,
    pub waited_at: bool,
    pub patience: Option<Duration>,
    pub stream_pace: StreamPace,
    /// Called in each attempt to send, before the far side has it.
    pub before_send: Option<BeforeSend>,
    /// How long showing a block takes.
    pub block_takes: Duration,
    /// Everything in order, as words.
    pub order: Arc<Log<String>>,
}

impl FakeChannel {
    pub fn new(id: &str, kind: &str, capabilities: Capabilities) -> Self {
        Self {
            id: id.into(),
            kind: kind.into(),
            capabilities,
            sent: Log::default(),
            settled: Log::default(),
            blocks: Log::default(),
            typing: Log::default(),
            ended: Log::default(),
            statuses: Log::default(),
            deliveries: Mutex::default(),
            recent: Mutex::new(Some(Vec::new())),
            waited_at: false,
            patience: None,
            stream_pace: StreamPace::default(),
            before_send: None,
            block_takes: Duration::ZERO,
            policies: None,
            display_name: None,
            typing_fails: false,
            room: None,
            order: Arc::default(),
        }
    }

    /// A BotCord-like channel: gated, streaming, coalescing.
    pub fn botcord() -> Self {
        let capabilities =
            Capabilities { typing: true, blocks: true, message_status: true, coalesce: true, gated: true };
        Self::new("botcord", "botcord", capabilities)
    }
}

impl Channel for FakeChannel {
    fn id(&self) -> &str {
        &self.id
    }

    fn kind(&self) -> &str {
        &self.kind
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn is_waited_at(&self) -> bool {
        self.waited_at
    }

    fn send(&self, message: &Outbound) -> Delivery {
        if let Some(before) = &self.before_send {
            before(message);
        }
        let mut deliveries = self.deliveries.lock().unwrap();
        let delivery =
            if deliveries.is_empty() { Delivery::Delivered { id: Some("p1".into()) } } else { deliveries.remove(0) };
        drop(deliveries);
        self.order.push(format!("send {}", message.text));
        self.sent.push(message.clone());
        delivery
    }

    fn resolve(&self, _: &Outbound) -> Delivery {
        self.order.push("resolve".into());
        let mut deliveries = self.deliveries.lock().unwrap();
        if deliveries.is_empty() {
            Delivery::Transient { after: None, why: "not there".into() }
        } else {
            deliveries.remove(0)
        }
    }

    fn typing(&self, message: &Inbound) -> Result<(), String> {
        self.order.push("typing".into());
        self.typing.push(message.id.clone());
        if self.typing_fails { Err("typing is broken".into()) } else { Ok(()) }
    }

    fn patience(&self) -> Option<Duration> {
        self.patience
    }

    fn stream_pace(&self) -> StreamPace {
        self.stream_pace
    }

    fn block(&self, block: &StreamBlock) -> Result<(), String> {
        std::thread::sleep(self.block_takes);
        self.order.push("block".into());
        self.blocks.push(block.clone());
        Ok(())
    }

    fn message_status(&self, status: &MessageStatus) -> Result<(), String> {
        self.statuses.push(status.clone());
        Ok(())
    }

    fn stream_end(&self, ids: &[String], told: Told) {
        for id in ids {
            self.order.push(format!("end {id}"));
            self.ended.push(id.clone());
        }
        told();
    }

    fn settled(&self, settled: &Settled) {
        self.order.push(format!("ack {}", settled.ids.join(",")));
        self.settled.push(settled.clone());
    }

    fn policies(&self) -> Option<&dyn PolicySource> {
        self.policies.as_ref().map(|p| p as &dyn PolicySource)
    }

    fn display_name(&self, _: &str) -> Option<String> {
        self.display_name.clone()
    }

    fn room_context(&self, _: &Inbound) -> Option<RoomContext> {
        self.room.clone()
    }

    fn recent_messages(&self, _: &Inbound) -> Option<Vec<RecentMessage>> {
        self.recent.lock().unwrap().clone()
    }
}

type Answer = dyn Fn(&str) -> Result<Option<Policy>, String> + Send + Sync;

/// Policies as a test wants them: the answer for a conversation.
pub struct FakePolicies {
    pub answer: Box<Answer>,
    pub asked: Arc<Log<String>>,
}

impl FakePolicies {
    pub fn new(answer: impl Fn(&str) -> Result<Option<Policy>, String> + Send + Sync + 'static) -> Self {
        Self { answer: Box::new(answer), asked: Arc::default() }
    }

    /// The same for every conversation.
    pub fn always(policy: Policy) -> Self {
        Self::new(move |_| Ok(Some(policy.clone())))
    }
}

impl PolicySource for FakePolicies {
    fn fetch(&self, _: &str, conversation: Option<&str>) -> Result<Option<Policy>, String> {
        let conversation = conversation.unwrap_or_default();
        self.asked.push(conversation.to_owned());
        (self.answer)(conversation)
    }

    fn per_conversation(&self) -> bool {
        true
    }
}

/// A turn that a hook was told of.
#[derive(Clone, Debug)]
pub struct Hooked {
    pub message: String,
    pub text: Option<String>,
    pub thrown: Option<String>,
}

/// Records what hooks are told.
#[derive(Default)]
pub struct Hooks {
    pub done: Log<Hooked>,
    pub settlements: Log<Settlement>,
}

impl TurnHook for Hooks {
    fn turn_complete(&self, done: &TurnDone<'_>) {
        self.done.push(Hooked {
            message: done.message.id.clone(),
            text: done.result.map(|r| r.text.clone()),
            thrown: done.thrown.map(|t| t.message.clone()),
        });
    }

    fn settle(&self, settlement: &Settlement) {
        self.settlements.push(settlement.clone());
    }
}

/// What a run does.
pub type Script = dyn Fn(usize, &RunRequest, &CancelToken, &mut dyn RunSink) -> Result<RunResult, Thrown> + Send + Sync;

/// A closure as a script.
pub fn script(
    run: impl Fn(usize, &RunRequest, &CancelToken, &mut dyn RunSink) -> Result<RunResult, Thrown> + Send + Sync + 'static,
) -> Box<Script> {
    Box::new(run)
}

/// A runtime that follows a script and records its inputs.
pub struct Scripted {
    pub id: String,
    pub script: Box<Script>,
    pub runs: Log<RunRequest>,
    pub ended: Log<usize>,
    pub order: Arc<Log<String>>,
}

impl Runtime for Scripted {
    fn id(&self) -> &str {
        &self.id
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        let n = self.runs.len();
        self.order.push(format!("run {}", request.text));
        self.runs.push(request.clone());
        let result = (self.script)(n, request, cancel, sink);
        self.order.push("run end".into());
        self.ended.push(n);
        result
    }

    fn acts_unseen(&self) -> bool {
        self.id == "kimi-cli"
    }

    /// A session whose note says so.
    fn wants_fresh(&self, session: &ResumedSession) -> bool {
        session.note.as_deref() == Some("leave it")
    }
}

/// The registry of one runtime under several ids.
pub struct OneRuntime(pub Arc<Scripted>, pub Vec<String>);

impl Runtimes for OneRuntime {
    fn get(&self, id: &str) -> Result<Arc<dyn Runtime>, String> {
        if self.1.iter().any(|known| known == id) {
            Ok(Arc::clone(&self.0) as Arc<dyn Runtime>)
        } else {
            Err(format!("unknown runtime \"{id}\"; registered are {}", self.1.join(", ")))
        }
    }
}

type Compose = dyn Fn(&Inbound) -> Result<String, String> + Send + Sync;

type RulesOf = dyn Fn(&Inbound) -> Vec<SystemRule> + Send + Sync;

/// Prompts that tests can read.
pub struct FakePrompts {
    pub compose: Box<Compose>,
    pub context: Box<dyn Fn() -> Option<String> + Send + Sync>,
    pub memory: Mutex<Option<String>>,
    pub rules: Box<RulesOf>,
    pub composed: Log<Inbound>,
    /// Messages that a system context was made for.
    pub contexts: Log<Inbound>,
    /// What sessions that start anew were told of the room.
    pub heard: Log<Vec<RecentMessage>>,
}

impl Default for FakePrompts {
    fn default() -> Self {
        Self {
            compose: Box::new(|m| Ok(m.text.trim().to_owned())),
            context: Box::new(|| None),
            memory: Mutex::default(),
            rules: Box::new(|_| Vec::new()),
            composed: Log::default(),
            contexts: Log::default(),
            heard: Log::default(),
        }
    }
}

impl PromptBuilder for FakePrompts {
    fn user_turn(&self, message: &Inbound, _: PromptFacts<'_>) -> Result<String, String> {
        self.composed.push(message.clone());
        (self.compose)(message)
    }

    fn system_context(&self, message: &Inbound, _: PromptFacts<'_>) -> Option<SystemContext> {
        self.contexts.push(message.clone());
        (self.context)().map(SystemContext::from)
    }

    fn system_rules(&self, message: &Inbound) -> Vec<SystemRule> {
        (self.rules)(message)
    }

    fn framed(&self, user_turn: &str, frame: Frame<'_>) -> String {
        match frame {
            Frame::Recovery { why, recent, .. } => {
                let why = match why {
                    FreshStart::Failed(error) => format!("failed: {error}"),
                    other => format!("{other:?}"),
                };
                self.heard.push(recent.unwrap_or_default().to_vec());
                let recent = recent.map_or_else(|| "(unavailable)".to_owned(), |r| format!("{} recent", r.len()));
                format!("[recovery] {why} | {recent}\n[turn]\n{user_turn}")
            }
            Frame::MemoryChanged { old, new } => {
                format!("[memory] previous: {}, current: {new}\n[turn]\n{user_turn}", old.unwrap_or("none"))
            }
            Frame::Interrupted { attempt } => format!("[interrupted] attempt {attempt}\n[turn]\n{user_turn}"),
        }
    }

    fn memory_version(&self, _: &str) -> Option<String> {
        self.memory.lock().unwrap().clone()
    }
}

/// Records reports.
#[derive(Default)]
pub struct Watcher {
    pub reports: Log<TurnReport>,
    pub queued: Log<(String, usize)>,
    pub order: Arc<Log<String>>,
}

impl TurnObserver for Watcher {
    fn event(&self, event: &TurnEvent<'_>) {
        match event {
            TurnEvent::Queued { message, ahead } => {
                self.order.push("queued".into());
                self.queued.push((message.id.clone(), *ahead));
            }
            TurnEvent::Finished { report, .. } => self.reports.push((*report).clone()),
            _ => {}
        }
    }
}

/// How a harness differs from the usual one.
pub struct Build {
    pub channel: FakeChannel,
    pub script: Box<Script>,
    pub prompts: FakePrompts,
    pub routes: Vec<Route>,
    pub default_runtime: String,
    pub runtimes: Vec<String>,
    pub settings: Settings,
    pub disk: Arc<dyn Disk>,
    pub recovery: Recovery,
    pub extra_observers: Vec<Arc<dyn TurnObserver>>,
}

impl Default for Build {
    fn default() -> Self {
        Self {
            channel: FakeChannel::botcord(),
            script: Box::new(|_, _, _, _| Ok(answer("ok", "sid-1"))),
            prompts: FakePrompts::default(),
            routes: Vec::new(),
            default_runtime: "claude-code".into(),
            runtimes: ["claude-code", "codex", "hermes-agent", "gemini", "kimi-cli"].map(String::from).to_vec(),
            settings: Settings { outbox_delays: vec![Duration::from_millis(5); 3], ..Settings::default() },
            disk: Arc::new(RealDisk),
            recovery: Recovery::All,
            extra_observers: Vec::new(),
        }
    }
}

/// A running engine and its fakes.
pub struct Harness {
    pub engine: Engine,
    pub channel: Arc<FakeChannel>,
    pub runtime: Arc<Scripted>,
    pub prompts: Arc<FakePrompts>,
    pub reports: Arc<Watcher>,
    pub hooks: Arc<Hooks>,
    pub order: Arc<Log<String>>,
    pub recovered: Recovered,
    pub dir: Arc<TempDir>,
}

impl Harness {
    pub fn new(name: &str) -> Self {
        Self::build(name, Build::default())
    }

    pub fn script(
        name: &str,
        script: impl Fn(usize, &RunRequest, &CancelToken, &mut dyn RunSink) -> Result<RunResult, Thrown>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self::build(name, Build { script: self::script(script), ..Build::default() })
    }

    pub fn build(name: &str, build: Build) -> Self {
        Self::in_dir(Arc::new(TempDir::new(name)), build)
    }

    pub fn in_dir(dir: Arc<TempDir>, build: Build) -> Self {
        let order: Arc<Log<String>> = Arc::default();
        let channel = Arc::new(FakeChannel { order: Arc::clone(&order), ..build.channel });
        let runtime = Arc::new(Scripted {
            id: build.default_runtime.clone(),
            script: build.script,
            runs: Log::default(),
            ended: Log::default(),
            order: Arc::clone(&order),
        });
        let prompts = Arc::new(build.prompts);
        let reports = Arc::new(Watcher { order: Arc::clone(&order), ..Watcher::default() });
        let opened = Journal::open(&dir.0.join("journal"), Arc::clone(&build.disk), JournalOptions::default()).unwrap();
        let (sessions, _) =
            SessionStore::load(&dir.0.join("sessions.json"), Arc::clone(&build.disk), now_ms()).unwrap();
        let default = Route { runtime: build.default_runtime, cwd: dir.0.clone(), ..Route::default() };
        let mut observers: Vec<Arc<dyn TurnObserver>> = vec![Arc::clone(&reports) as Arc<dyn TurnObserver>];
        observers.extend(build.extra_observers);
        let engine = Engine::new(Parts {
            journal: opened.journal,
            sessions,
            transcripts: Writer::new(dir.0.join("agents"), true),
            runtimes: Arc::new(OneRuntime(Arc::clone(&runtime), build.runtimes)),
            prompts: Arc::clone(&prompts) as Arc<dyn PromptBuilder>,
            observers,
            channels: vec![Arc::clone(&channel) as Arc<dyn Channel>],
            routes: Routes { user: build.routes, managed: Vec::new(), default },
            settings: build.settings,
        })
        .unwrap();
        let hooks: Arc<Hooks> = Arc::default();
        engine.add_hook(Arc::clone(&hooks) as Arc<dyn TurnHook>);
        let recovered = engine.recover(build.recovery);
        Self { engine, channel, runtime, prompts, reports, hooks, order, recovered, dir }
    }

    pub fn accept(&self, message: Inbound) -> Acceptance {
        self.engine.accept(vec![message]).remove(0)
    }

    /// Takes a message and waits until it is settled.
    pub fn handle(&self, message: Inbound) -> Settled {
        let before = self.channel.settled.len();
        let answer = self.accept(message);
        assert!(matches!(answer, Acceptance::Accepted { .. }), "{answer:?}");
        self.channel.settled.wait(before + 1).pop().unwrap()
    }

    pub fn sessions(&self) -> HashMap<String, bellhop::engine::sessions::SessionEntry> {
        self.engine.sessions().into_iter().map(|e| (e.key.clone(), e)).collect()
    }

    /// All transcript records of the one agent, in order of their files and lines.
    pub fn transcript(&self) -> Vec<serde_json::Value> {
        let mut files = Vec::new();
        collect(&self.dir.0.join("agents"), &mut files);
        files.sort();
        let lines = |f: &PathBuf| std::fs::read_to_string(f).unwrap();
        files
            .iter()
            .flat_map(|f| lines(f).lines().map(|l| serde_json::from_str(l).unwrap()).collect::<Vec<_>>())
            .collect()
    }

    /// Kinds of the transcript's records.
    pub fn kinds(&self) -> Vec<String> {
        self.transcript().iter().map(|r| r["kind"].as_str().unwrap().to_owned()).collect()
    }

    pub fn stop(self) -> Arc<TempDir> {
        self.engine.stop(Duration::ZERO);
        self.dir
    }
}

fn collect(dir: &std::path::Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|e| e == "jsonl") {
            files.push(path);
        }
    }
}

/// A message as the scenarios have it: owner chat, direct, from an agent.
pub fn message(id: &str, text: &str) -> Inbound {
    Inbound {
        id: id.into(),
        channel: "botcord".into(),
        account_id: "ag_me".into(),
        conversation: Conversation {
            id: "rm_oc_1".into(),
            kind: ConversationKind::Direct,
            title: None,
            thread_id: None,
        },
        sender: Sender { id: "ag_peer".into(), name: None, kind: SenderKind::Agent },
        text: text.into(),
        reply_to: None,
        msg_id: None,
        mentioned: false,
        received_at: now_ms(),
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

/// The same in a group room.
pub fn group(room: &str, id: &str, text: &str) -> Inbound {
    let mut message = message(id, text);
    message.conversation.id = room.into();
    message.conversation.kind = ConversationKind::Group;
    message
}

/// A successful run.
pub fn answer(text: &str, session: &str) -> RunResult {
    RunResult { text: text.into(), new_session_id: session.into(), ..RunResult::default() }
}

/// A failed run without a class.
pub fn failure(error: &str, session: &str) -> RunResult {
    RunResult {
        error: Some(bellhop::engine::ports::RunError { message: error.into(), class: None }),
        new_session_id: session.into(),
        ..RunResult::default()
    }
}

/// A block.
pub fn block(kind: BlockKind, seq: u64) -> Block {
    Block { kind, seq, raw: serde_json::json!({"n": seq}), digest: Digest::default() }
}

/// Waits until the token is set, then fails as a cancelled runtime does.
pub fn hang(cancel: &CancelToken) -> Result<RunResult, Thrown> {
    assert!(cancel.sleep(PATIENCE), "never cancelled");
    Err(Thrown::new("aborted"))
}

/// A door that a test opens.
#[derive(Default)]
pub struct Gate {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Gate {
    pub fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.changed.notify_all();
    }

    /// Waits for the door, or for the turn's cancellation (then false).
    pub fn pass(&self, cancel: &CancelToken) -> bool {
        let end = Instant::now() + PATIENCE;
        let mut open = self.open.lock().unwrap();
        while !*open {
            assert!(Instant::now() < end, "the gate was never opened");
            if cancel.is_cancelled() {
                return false;
            }
            open = self.changed.wait_timeout(open, Duration::from_millis(2)).unwrap().0;
        }
        true
    }
}
