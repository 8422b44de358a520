//! The channel of one agent: what the engine is offered, put together from the parts.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::api::Api;
use super::connection::Connection;
use super::credentials::{Credentials, CredentialsFile};
use super::error::ApiError;
use super::far::Far;
use super::hub::{Fault, Hub, Page};
use super::inbox::{AckAt, Inbox};
use super::live;
use super::pace::Limits;
use super::prefetch;
use super::signatures::Signatures;
use super::socket::Timing;
use super::tools::Tools;
use super::voice::{PATIENCE, Voice};
use crate::engine::cancel::CancelToken;
use crate::engine::policy::{Announced, PolicySource};
use crate::engine::ports::{
    Acceptor, Capabilities, Channel, ChannelNews, Delivery, Exit, Lifecycle, MessageStatus, RecentMessage, RoomContext,
    RoomTools, Settled, StreamBlock, StreamPace, Told,
};
use crate::message::{Inbound, Outbound};
use crate::net::http::Http;

/// Type of the channel.
pub const KIND: &str = "botcord";

/// What an agent's channel can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// When messages are acknowledged.
    pub ack_at: AckAt,
    /// Time limits.
    pub timing: Timing,
    /// How many messages the hub takes.
    pub limits: Limits,
    /// Whether the hub is shown what the agent does while it does it.
    pub stream_blocks: bool,
    /// Whether the hub is asked when the agent listens; else it says so by itself.
    pub ask_policies: bool,
    /// Where files of messages are put before their turn; `None`: they stay with the hub.
    pub files_in: Option<PathBuf>,
    /// Whether the signatures of other agents are checked.
    pub verify: bool,
}

/// The channel of one agent; its id is the agent's.
pub struct Botcord {
    agent: String,
    api: Arc<Api>,
    inbox: Arc<Inbox>,
    voice: Arc<Voice>,
    tools: Tools,
    options: Options,
}

impl Botcord {
    /// The agent has another name from now on; messages that address it by that are for it.
    pub fn rename(&self, name: Option<String>) {
        self.api.rename(name);
    }

    /// The channel of the agent of these credentials, not connected yet. `file` is where they came from. Fails only when
    /// the process is out of descriptors.
    pub fn new(
        credentials: Credentials,
        file: CredentialsFile,
        http: Arc<Http>,
        options: Options,
    ) -> io::Result<Arc<Self>> {
        let agent = credentials.agent_id.clone();
        let api = Arc::new(Api::new(credentials, Some(file), http)?);
        let hub = Arc::clone(&api) as Arc<dyn Hub>;
        let inbox = Inbox::new(&agent, hub, options.ack_at, options.timing.clone())?;
        let far = Arc::clone(&api) as Arc<dyn Far>;
        let voice = Arc::new(Voice::new(&far, true, options.limits));
        if let Some(dir) = options.files_in.clone() {
            inbox.fetch_files(Box::new(move |raw| prefetch::fetch(far.as_ref(), &dir, raw)));
        }
        if options.verify {
            let signatures = Signatures::new(Arc::clone(&api) as Arc<dyn Far>);
            inbox.check_signatures(Box::new(move |raw| signatures.is_bad(raw)));
        }
        let told = Arc::clone(&voice);
        inbox.on_contact_request(Box::new(move |sender| told.contacts.wanted(sender)));
        let tools = Tools::new(Arc::clone(&api));
        Ok(Arc::new(Self { agent, api, inbox, voice, tools, options }))
    }

    /// Who takes its messages.
    pub fn set_engine(&self, engine: Box<dyn Acceptor>) {
        self.inbox.set_engine(engine);
    }

    /// Waits for what is finished to be told and acknowledged, at most for `limit`; then ends every request that is under
    /// way.
    pub fn close(&self, limit: Duration) {
        let end = Instant::now() + limit;
        self.inbox.flush(limit);
        self.voice.ends.flush(end.saturating_duration_since(Instant::now()));
        self.api.stop();
    }
}

impl Hub for Api {
    fn poll(&self, wait: Duration) -> Result<Page, Fault> {
        let page = Api::poll(self, wait).map_err(fault)?;
        Ok(Page { messages: page.messages, has_more: page.has_more })
    }

    fn acknowledge(&self, ids: &[String]) -> Result<u64, Fault> {
        self.ack(ids).map_err(fault)
    }

    fn renew(&self, ids: &[String]) -> Result<u64, Fault> {
        Api::renew(self, ids).map_err(fault)
    }

    fn token(&self, refused: Option<&str>) -> Result<String, Fault> {
        refused.map_or_else(|| Api::token(self), |failed| self.refresh_after(failed)).map_err(fault)
    }

    fn socket_url(&self) -> String {
        Api::socket_url(self)
    }
}

fn fault(error: ApiError) -> Fault {
    match error {
        ApiError::Revoked(why) => Fault::Revoked(format!("{why}; local binding revoked")),
        other => Fault::Failed(other.to_string()),
    }
}

impl Lifecycle for Botcord {
    fn id(&self) -> &str {
        &self.agent
    }

    fn account(&self) -> &str {
        &self.agent
    }

    fn provider(&self) -> &str {
        KIND
    }

    fn run(&self, stop: &CancelToken, tell: &dyn Fn(ChannelNews)) -> Exit {
        let timing = self.options.timing.clone();
        let exit = Connection::new(&self.agent, self.api.as_ref(), &self.inbox, timing, stop, tell).run();
        if let Exit::Permanent(why) = &exit {
            match self.api.put_credentials_aside() {
                Ok(Some(path)) => {
                    log::error!("botcord.revoked agent={} why={why:?} kept={}", self.agent, path.display());
                }
                Ok(None) => log::error!("botcord.revoked agent={} why={why:?}", self.agent),
                Err(e) => log::error!("botcord.revoked agent={} why={why:?} error={e}", self.agent),
            }
        }
        exit
    }
}

impl Channel for Botcord {
    fn id(&self) -> &str {
        &self.agent
    }

    fn kind(&self) -> &str {
        KIND
    }

    fn capabilities(&self) -> Capabilities {
        let blocks = self.options.stream_blocks;
        Capabilities { typing: true, blocks, message_status: true, coalesce: true, gated: true }
    }

    fn patience(&self) -> Option<Duration> {
        Some(PATIENCE)
    }

    fn send(&self, message: &Outbound) -> Delivery {
        self.voice.sender.send(message)
    }

    fn resolve(&self, message: &Outbound) -> Delivery {
        self.voice.sender.resolve(message)
    }

    fn typing(&self, message: &Inbound) -> Result<(), String> {
        self.voice.live.typing(message)
    }

    fn stream_pace(&self) -> StreamPace {
        live::PACE
    }

    fn block(&self, block: &StreamBlock) -> Result<(), String> {
        self.voice.live.block(block)
    }

    fn message_status(&self, status: &MessageStatus) -> Result<(), String> {
        self.voice.live.message_status(status)
    }

    fn stream_end(&self, ids: &[String], told: Told) {
        self.voice.ends.push(ids, told);
    }

    fn policies(&self) -> Option<&dyn PolicySource> {
        Some(if self.options.ask_policies { &self.voice.policies } else { &Announced })
    }

    fn room_context(&self, message: &Inbound) -> Option<RoomContext> {
        self.voice.rooms.context(message)
    }

    fn recent_messages(&self, message: &Inbound) -> Option<Vec<RecentMessage>> {
        self.voice.rooms.recent(message)
    }

    fn settled(&self, settled: &Settled) {
        self.inbox.settled(&settled.ids);
    }

    fn display_name(&self, _agent: &str) -> Option<String> {
        self.api.display_name()
    }

    fn room_tools(&self) -> Option<&dyn RoomTools> {
        Some(&self.tools)
    }

    fn hub_url(&self, _agent: &str) -> Option<String> {
        Some(self.api.hub_url().to_owned())
    }
}
