//! The channel of one bot: what the engine is offered, put together from the parts.

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use super::access::Access;
use super::api::Api;
use super::poll::Poll;
use super::send::Sender;
use super::state::Kept;
use super::update;
use crate::engine::WeakEngine;
use crate::engine::cancel::CancelToken;
use crate::engine::gate::{Mode, Policy};
use crate::engine::policy::PolicySource;
use crate::engine::ports::{Acceptor, Capabilities, Channel, ChannelNews, Delivery, Exit, Lifecycle};
use crate::message::{Inbound, Outbound};
use crate::net::http::Http;
use crate::store::RealDisk;

/// Type of the channel.
pub const KIND: &str = "telegram";

/// For how long Telegram is tried to be told an answer before that is given up.
const PATIENCE: Duration = Duration::from_hours(24);

/// What a gateway is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Id of the gateway, which is that of the channel.
    pub id: String,
    /// The agent.
    pub account: String,
    /// Address of the Bot API.
    pub base: String,
    /// Whose messages count.
    pub access: Access,
    /// Longest piece of a reply, in UTF-16 units.
    pub split_at: usize,
    /// Directory of the agent, for files.
    pub workspace: PathBuf,
    /// File of what a restart goes on from.
    pub state: PathBuf,
    /// When the agent hears groups.
    pub groups: Groups,
}

/// When an agent hears the groups of a bot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// As the policy of its hub says.
    Hub,
    /// When it is addressed.
    Mentions,
    /// Always.
    All,
}

/// The channel of one bot.
pub struct Telegram {
    options: Options,
    api: Arc<Api>,
    kept: Arc<Kept>,
    sender: Arc<Sender>,
    engine: RwLock<WeakEngine>,
}

impl Telegram {
    /// A channel that is not connected yet. Fails for what can be no token, and when the process is out of descriptors.
    pub fn new(options: Options, token: &str, http: Arc<Http>) -> Result<Arc<Self>, String> {
        let api = Arc::new(Api::new(http, &options.base, token)?);
        let kept = Arc::new(Kept::open(&options.state, api.bot(), Arc::new(RealDisk)));
        let (access, split) = (options.access.clone(), options.split_at);
        let sender = Sender::new(&options.id, Arc::clone(&api), Arc::clone(&kept), access, split);
        let sender = Arc::new(sender.map_err(|e| e.to_string())?);
        Ok(Arc::new(Self { options, api, kept, sender, engine: RwLock::default() }))
    }

    /// Who takes its messages.
    pub fn set_engine(&self, engine: WeakEngine) {
        *self.engine.write().unwrap_or_else(PoisonError::into_inner) = engine;
    }

    fn engine(&self) -> WeakEngine {
        self.engine.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// When it sent something last.
    pub fn last_send_at(&self) -> Option<i64> {
        self.sender.last_at()
    }

    /// Ends every request that is under way.
    pub fn close(&self) {
        self.sender.stop();
    }

    /// The channel at the hub of the same agent, if it has one.
    fn at_hub(&self) -> Option<Arc<dyn Channel>> {
        self.engine().upgrade()?.channel(&self.options.account).filter(|c| c.id() != self.options.id)
    }
}

impl Lifecycle for Telegram {
    fn id(&self) -> &str {
        &self.options.id
    }

    fn account(&self) -> &str {
        &self.options.account
    }

    fn provider(&self) -> &str {
        KIND
    }

    fn run(&self, stop: &CancelToken, tell: &dyn Fn(ChannelNews)) -> Exit {
        let engine = self.engine();
        let poll = Poll {
            channel: &self.options.id,
            account: &self.options.account,
            api: &self.api,
            kept: &self.kept,
            access: &self.options.access,
            workspace: &self.options.workspace,
            engine: &engine as &dyn Acceptor,
            sender: &self.sender,
            stop,
            tell,
        };
        poll.run()
    }
}

impl Channel for Telegram {
    fn id(&self) -> &str {
        &self.options.id
    }

    fn kind(&self) -> &str {
        KIND
    }

    /// Telegram shows neither blocks nor reactions of bots that help anybody, and the text of a turn is its answer.
    fn capabilities(&self) -> Capabilities {
        Capabilities { typing: true, coalesce: true, ..Capabilities::default() }
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn send(&self, message: &Outbound) -> Delivery {
        self.sender.send(message)
    }

    fn typing(&self, message: &Inbound) -> Result<(), String> {
        self.sender.typing(message)
    }

    fn policies(&self) -> Option<&dyn PolicySource> {
        (self.options.groups != Groups::All).then_some(self as &dyn PolicySource)
    }

    fn display_name(&self, agent: &str) -> Option<String> {
        self.at_hub()?.display_name(agent)
    }

    fn hub_url(&self, agent: &str) -> Option<String> {
        self.at_hub()?.hub_url(agent)
    }
}

impl PolicySource for Telegram {
    fn fetch(&self, agent: &str, conversation: Option<&str>) -> Result<Option<Policy>, String> {
        let is_group = conversation.and_then(update::chat_of).is_some_and(|chat| !super::access::is_private(chat));
        if self.options.groups == Groups::Mentions {
            return Ok(is_group.then(|| Policy { mode: Mode::MentionOnly, ..Policy::default() }));
        }
        match self.at_hub() {
            Some(hub) => hub.policies().map_or(Ok(None), |policies| policies.fetch(agent, conversation)),
            None => Err("the agent's hub is not connected".into()),
        }
    }

    fn per_conversation(&self) -> bool {
        true
    }
}
