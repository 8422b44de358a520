//! The channel of one agent: what the engine is offered, put together from the parts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::api::Api;
use super::connection::Connection;
use super::credentials::{Credentials, CredentialsFile};
use super::envelope::Draft;
use super::error::ApiError;
use super::hub::{Fault, Hub, Page};
use super::inbox::{AckAt, Inbox};
use super::socket::Timing;
use crate::engine::cancel::CancelToken;
use crate::engine::ports::{Acceptor, Capabilities, Channel, ChannelNews, Delivery, Exit, Lifecycle, Settled};
use crate::message::{Outbound, OutboundKind};
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
    /// Whether the hub is shown what the agent does while it does it.
    pub stream_blocks: bool,
}

/// The channel of one agent; its id is the agent's.
pub struct Botcord {
    agent: String,
    api: Arc<Api>,
    inbox: Arc<Inbox>,
    options: Options,
}

impl Botcord {
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
        Ok(Arc::new(Self { agent, api, inbox, options }))
    }

    /// Who takes its messages.
    pub fn set_engine(&self, engine: Box<dyn Acceptor>) {
        self.inbox.set_engine(engine);
    }

    /// Waits for what is finished to be acknowledged, at most for `limit`; then ends every request that is under way.
    pub fn close(&self, limit: Duration) {
        self.inbox.flush(limit);
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
        Capabilities { coalesce: true, gated: true, ..Capabilities::default() }
    }

    fn send(&self, message: &Outbound) -> Delivery {
        let is_error = message.kind == OutboundKind::Error;
        let payload = if is_error {
            json!({"error": {"code": "agent_error", "message": message.text, "error_ref": message.error_ref}})
        } else {
            json!({"text": message.text})
        };
        let draft = Draft {
            msg_id: msg_id(message),
            to: &message.conversation_id,
            kind: if is_error { "error" } else { "message" },
            reply_to: message.reply_to.as_deref(),
            topic: None,
            goal: None,
            payload: &payload,
            mentions: &[],
            trace_id: message.trace_id.as_deref(),
        };
        match self.api.send(&draft) {
            Ok(answer) => Delivery::Delivered { id: answer.hub_msg_id },
            Err(e) if e.is_uncertain() => Delivery::Uncertain { why: e.to_string() },
            Err(e) => Delivery::Transient { after: None, why: e.to_string() },
        }
    }

    fn resolve(&self, message: &Outbound) -> Delivery {
        match self.api.message_status(msg_id(message)) {
            Ok(Some(_)) => Delivery::Delivered { id: None },
            Ok(None) => Delivery::Transient { after: None, why: "the hub does not have it".into() },
            Err(e) => Delivery::Uncertain { why: e.to_string() },
        }
    }

    fn settled(&self, settled: &Settled) {
        self.inbox.settled(&settled.ids);
    }

    fn display_name(&self, _agent: &str) -> Option<String> {
        self.api.display_name().map(str::to_owned)
    }

    fn hub_url(&self, _agent: &str) -> Option<String> {
        Some(self.api.hub_url().to_owned())
    }
}

/// The message's id at the hub: that of its turn, a UUID that was drawn before the turn began.
fn msg_id(message: &Outbound) -> &str {
    message.id.strip_prefix("out_").unwrap_or(&message.id)
}
