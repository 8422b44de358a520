//! What a runtime is told: the user turn, the system context and everything they are made of.
//!
//! Knows messages and the engine's ports; knows no wire and no CLI. Most of it is pure functions; [`Prompts`] holds
//! the files and the little state behind them and is what the engine calls.

pub mod activity;
mod files;
pub mod hints;
pub mod memory;
pub mod profile;
pub mod recovery;
pub mod room;
mod room_cache;
pub mod sender;
pub mod skills;
pub mod system_context;
pub mod user_turn;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use self::activity::Tracker;
use self::hints::Hints;
use self::memory::MemoryStore;
use self::room_cache::RoomCache;
use self::skills::{Skill, SkillIndex};
use self::system_context::{Blocks, Scene};
use crate::engine::loop_risk::{self, LoopWatch, Side};
use crate::engine::ports::{
    Frame, PromptBuilder, PromptFacts, RoomContext, SystemContext, SystemRule, TurnEvent, TurnObserver, TurnStatus,
};
use crate::message::Inbound;

/// How far back other rooms count as active, in milliseconds.
const DIGEST_WINDOW_MS: i64 = 7_200_000;
/// Rooms of the digest.
const DIGEST_ENTRIES: usize = 5;

/// Where things lie.
#[derive(Clone, Debug, Default)]
pub struct Homes {
    /// The root of the installation: `agents/<agent>` and `memory/<agent>` are below it.
    pub root: PathBuf,
    /// The daemon's own directory: `activity.json` is in it.
    pub daemon: PathBuf,
    /// The user's home, with the CLIs' global skills.
    pub user: PathBuf,
    /// Further directories of skills.
    pub skills: Vec<PathBuf>,
    /// Hermes profiles by agent.
    pub hermes_profiles: HashMap<String, PathBuf>,
}

/// Asks the channel of a message about its room. May call the network.
pub type RoomLookup = Box<dyn Fn(&Inbound) -> Option<RoomContext> + Send + Sync>;

/// Composes prompts for all agents of the daemon.
///
/// It learns of activity either as a [`TurnObserver`] or, for messages that never become a turn, by
/// [`Prompts::saw`]; a message should be reported once.
pub struct Prompts {
    homes: Homes,
    display_names: RwLock<HashMap<String, String>>,
    memory: MemoryStore,
    activity: Tracker,
    skills: SkillIndex,
    rooms: RoomCache,
    lookup: RoomLookup,
    loops: Mutex<LoopWatch>,
    hints: Hints,
}

impl Prompts {
    /// Prompts for the agents of a home. `lookup` may answer `None` to everything.
    pub fn new(homes: Homes, lookup: RoomLookup) -> Self {
        Self {
            memory: MemoryStore::new(&homes.root, &homes.daemon),
            activity: Tracker::new(homes.daemon.join("activity.json")),
            homes,
            display_names: RwLock::default(),
            skills: SkillIndex::default(),
            rooms: RoomCache::default(),
            lookup,
            loops: Mutex::default(),
            hints: Hints::default(),
        }
    }

    /// Sets what an agent is called.
    pub fn set_display_name(&self, agent: &str, name: &str) {
        let mut names = self.display_names.write().unwrap_or_else(PoisonError::into_inner);
        names.insert(agent.to_owned(), name.to_owned());
    }

    /// What an agent is called, for finding mentions.
    pub fn display_name(&self, agent: &str) -> Option<String> {
        self.display_names.read().unwrap_or_else(PoisonError::into_inner).get(agent).cloned()
    }

    /// The memories of the agents.
    pub fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    /// A message has come in, whether it wakes the agent or not.
    pub fn saw(&self, message: &Inbound) {
        self.activity.record(message, files::now_ms());
        self.loops().record(&message.loop_key(), Side::In, &message.text, message.received_at);
    }

    /// The agent has said something in the conversation of a message.
    pub fn said(&self, message: &Inbound, text: &str) {
        self.loops().record(&message.loop_key(), Side::Out, text, files::now_ms());
    }

    /// The skills that an agent has with a runtime, sorted by name.
    pub fn skills(&self, agent: &str, runtime: &str) -> Vec<Skill> {
        let Some(agent_dir) = self.agent_dir(agent) else { return Vec::new() };
        let hermes = self.homes.hermes_profiles.get(agent).map(PathBuf::as_path);
        let places = skills::places(runtime, &agent_dir, &self.homes.user, hermes, &self.homes.skills);
        self.skills.find(&places)
    }

    /// Writes what is not written yet; for the end of the daemon.
    pub fn flush(&self) {
        self.activity.flush(files::now_ms());
    }

    /// The directory of an agent; `None` when its id cannot be a directory's name.
    fn agent_dir(&self, agent: &str) -> Option<PathBuf> {
        files::is_plain_name(agent).then(|| self.homes.root.join("agents").join(agent))
    }

    fn loops(&self) -> MutexGuard<'_, LoopWatch> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory_block(&self, agent: &str, local: bool) -> Option<String> {
        let place = self.memory.dir(agent).ok()?;
        let memory = self.memory.read(agent);
        Some(memory::block(memory.as_ref(), agent, &place.to_string_lossy(), local))
    }

    fn digest(&self, message: &Inbound, now: i64) -> Option<String> {
        let (latest, count) = self.activity.others(message, now - DIGEST_WINDOW_MS, DIGEST_ENTRIES);
        room::digest(&latest, count, now)
    }

    fn room_block(&self, message: &Inbound, now: i64) -> Option<String> {
        if !sender::has_room_context(message) {
            return None;
        }
        self.rooms.get(message, now, &self.lookup).map(|r| room::context(&r))
    }
}

impl PromptBuilder for Prompts {
    fn user_turn(&self, message: &Inbound, facts: PromptFacts<'_>) -> Result<String, String> {
        Ok(user_turn::compose(message, facts.text_is_delivered, &self.hints))
    }

    fn system_context(&self, message: &Inbound, facts: PromptFacts<'_>) -> Option<SystemContext> {
        let agent = message.account_id.as_str();
        let agent_dir = self.agent_dir(agent);
        let now = files::now_ms();
        let scene = Scene::of(message, facts.channel_kind);
        let mut blocks = Blocks {
            identity: agent_dir.as_deref().and_then(|dir| system_context::identity(&dir.join("workspace"))),
            scene: system_context::scene(scene),
            // Agents of this machine have bellhop's own command; the hub's would change nothing for them.
            memory: self.memory_block(agent, facts.channel_kind == "local"),
            skills: skills::block(&self.skills(agent, facts.runtime)),
            ..Blocks::default()
        };
        if scene != Scene::Terminal {
            blocks.room_type = Some(system_context::room_type(message));
            blocks.environment = system_context::environment(message);
            let speaks = facts.has_tools || !facts.text_is_delivered;
            blocks.commands = speaks.then(|| system_context::COMMANDS.to_owned());
            blocks.room = self.room_block(message, now);
            blocks.digest = self.digest(message, now);
            blocks.profile = agent_dir
                .and_then(|dir| profile::read(&dir, agent, &message.conversation.id, now))
                .map(|profile| profile.block());
            blocks.loop_risk = system_context::loop_risk(&self.loops().evaluate(&message.loop_key(), now));
        }
        blocks.assemble()
    }

    fn system_rules(&self, message: &Inbound) -> Vec<SystemRule> {
        room::rule(message).into_iter().collect()
    }

    fn framed(&self, user_turn: &str, frame: Frame<'_>) -> String {
        match frame {
            Frame::Recovery { runtime, why, recent } => recovery::prompt(runtime, why, recent, user_turn),
            Frame::MemoryChanged { old, new } => recovery::memory_notice(old, new, user_turn),
            Frame::Interrupted { attempt } => recovery::interrupted_notice(attempt, user_turn),
        }
    }

    fn memory_version(&self, account_id: &str) -> Option<String> {
        self.memory.dir(account_id).ok()?;
        Some(self.memory.read(account_id).unwrap_or_default().version())
    }
}

impl TurnObserver for Prompts {
    fn event(&self, event: &TurnEvent<'_>) {
        match event {
            TurnEvent::Queued { message, .. } => self.saw(message),
            TurnEvent::OwnWords { message, said } => {
                let mut loops = self.loops();
                for (at, text) in *said {
                    loops.saw_own(&message.loop_key(), text, *at);
                }
            }
            TurnEvent::Block { message, block, .. } => {
                if let Some(text) = loop_risk::sent_by_tool(block) {
                    self.said(message, &text);
                }
            }
            // In the hub's rooms the final text goes nowhere; what the agent says there is seen as a tool call.
            TurnEvent::Finished { message, report }
                if report.status == TurnStatus::Ok
                    && (message.is_owner_chat() || !message.conversation.id.starts_with("rm_")) =>
            {
                if let Some(reply) = &report.reply {
                    self.said(message, reply);
                }
            }
            _ => {}
        }
    }
}

/// `text` cut to `limit` bytes at a character, with `…` where something was cut.
fn cut_bytes(mut text: String, limit: usize) -> String {
    if text.len() > limit {
        let room = limit.saturating_sub("…".len());
        let end = (0..=room).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::files::tests::TempDir;
    use super::*;
    use crate::message::document;

    fn message(conversation: &str, kind: &str) -> Inbound {
        document::parse(&json!({
            "id": "1", "channel": "ag_me", "accountId": "ag_me", "conversation": {"id": conversation, "kind": kind},
            "sender": {"id": "hu_1", "name": "Al", "kind": "user"}, "text": "hello", "receivedAt": 0,
            "raw": {"room_rule": "be brief"}
        }))
        .unwrap()
    }

    fn prompts(dir: &TempDir) -> Prompts {
        let root = dir.path().to_owned();
        let homes = Homes { daemon: root.join("daemon"), user: root.join("user"), root, ..Homes::default() };
        Prompts::new(
            homes,
            Box::new(|m| {
                Some(RoomContext { id: m.conversation.id.clone(), name: Some("Desk".into()), ..RoomContext::default() })
            }),
        )
    }

    fn headings(context: &str) -> Vec<&str> {
        let lines = context.lines().filter(|l| l.starts_with('['));
        lines.filter_map(|l| l.split_inclusive(']').next()).collect()
    }

    #[test]
    fn the_blocks_of_a_group_stand_in_order() {
        let dir = TempDir::new("prompts-group");
        let skill = dir.path().join("agents/ag_me/workspace/skills/digest");
        fs::create_dir_all(&skill).unwrap();
        fs::write(skill.join("SKILL.md"), "makes digests").unwrap();
        fs::write(dir.path().join("agents/ag_me/workspace/identity.md"), "I am Nora").unwrap();
        let prompts = prompts(&dir);
        prompts.saw(&message("rm_2", "group"));
        let facts =
            PromptFacts { runtime: "codex", channel_kind: "botcord", text_is_delivered: false, has_tools: true };
        let context = prompts.system_context(&message("rm_1", "group"), facts).unwrap().text;
        assert_eq!(
            headings(&context),
            [
                "[BotCord Identity]",
                "[BotCord Room-Type Awareness]",
                "[BotCord Runtime Environment]",
                "[BotCord Commands]",
                "[BotCord Working Memory]",
                "[BotCord Room Context]",
                "[BotCord Cross-Room Awareness]",
                "[BotCord Daemon Skill Index]",
            ],
            "{context}"
        );
        assert_eq!(prompts.system_rules(&message("rm_1", "group"))[0].text, "be brief");
        assert!(prompts.system_rules(&message("rm_1", "direct")).is_empty());
    }

    #[test]
    fn a_person_at_the_terminal_hears_nothing_of_a_hub() {
        let dir = TempDir::new("prompts-local");
        let prompts = prompts(&dir);
        prompts.saw(&message("rm_2", "group"));
        let mut local = message("terminal", "direct");
        local.origin = crate::message::Origin::OwnerChat;
        let facts = PromptFacts { runtime: "echo", channel_kind: "local", text_is_delivered: true, has_tools: false };
        let context = prompts.system_context(&local, facts).unwrap().text;
        assert_eq!(headings(&context), ["[Local Scene]", "[BotCord Working Memory]"]);
        assert!(!context.contains("botcord_send") && !context.contains("hub"), "{context}");
        assert_eq!(prompts.user_turn(&local, facts).unwrap(), "hello");
    }

    #[test]
    fn the_memory_version_changes_with_the_memory() {
        let dir = TempDir::new("prompts-memory");
        let prompts = prompts(&dir);
        let before = prompts.memory_version("ag_me").unwrap();
        let update = memory::Update { goal: Some("ship".into()), ..memory::Update::default() };
        prompts.memory().update("ag_me", &update, "t").unwrap();
        assert_ne!(prompts.memory_version("ag_me").unwrap(), before);
        assert_eq!(prompts.memory_version("../x"), None);
    }

    #[test]
    fn a_loop_is_pointed_out() {
        let dir = TempDir::new("prompts-loop");
        let prompts = prompts(&dir);
        let chat = message("telegram:group:1", "group");
        prompts.said(&chat, "I agree with that");
        prompts.said(&chat, "I agree with that");
        let context = prompts.system_context(&chat, PromptFacts::default()).unwrap().text;
        assert!(context.ends_with(system_context::LOOP_ADVICE) && context.contains("- repeated_outbound"), "{context}");
    }
}
