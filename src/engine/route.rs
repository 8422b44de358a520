//! Which runtime answers a message: routes, their predicates and their precedence.

use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

use super::ports::Gateway;
use crate::message::{ConversationKind, Inbound, TrustLevel};

/// Predicates on a message, all of which must hold; one that is absent holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Match {
    /// The channel's id (not its type).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The agent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_id: Option<String>,
    /// The conversation, exactly.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_id: Option<String>,
    /// What the conversation's id begins with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_prefix: Option<String>,
    /// Two parties or many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conversation_kind: Option<ConversationKind>,
    /// The sender.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sender_id: Option<String>,
    /// Whether the channel says that the agent is addressed. Looked at before the text is searched for its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mentioned: Option<bool>,
}

impl Match {
    /// A match for everything that reaches an agent.
    pub fn account(id: impl Into<String>) -> Self {
        Self { account_id: Some(id.into()), ..Self::default() }
    }

    /// Whether every predicate holds for the message.
    pub fn holds(&self, message: &Inbound) -> bool {
        is(self.channel.as_ref(), &message.channel)
            && is(self.account_id.as_ref(), &message.account_id)
            && is(self.conversation_id.as_ref(), &message.conversation.id)
            && self.conversation_prefix.as_ref().is_none_or(|p| message.conversation.id.starts_with(p.as_str()))
            && is(self.conversation_kind.as_ref(), &message.conversation.kind)
            && is(self.sender_id.as_ref(), &message.sender.id)
            && is(self.mentioned.as_ref(), &message.mentioned)
    }
}

fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
    wanted.is_none_or(|w| w == found)
}

/// What happens to a message that meets a running turn of its conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueMode {
    /// It waits, and is merged with what else waits.
    Serial,
    /// It takes the running turn's place.
    CancelPrevious,
}

impl QueueMode {
    /// The word used in documents and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serial => "serial",
            Self::CancelPrevious => "cancel-previous",
        }
    }
}

/// What becomes of a message whose turn a crash or a stop interrupted after it may have had effects. One
/// without effects always runs again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnInterrupt {
    /// It runs again; the agent is told.
    #[default]
    Rerun,
    /// The room is asked; the next message there goes on with it.
    Ask,
    /// It is set aside until a person releases it.
    Hold,
}

/// The mode of a conversation: what its route says, else cancel-previous between two and serial among many.
pub fn queue_mode(route: &Route, kind: ConversationKind) -> QueueMode {
    route.queue_mode.unwrap_or(match kind {
        ConversationKind::Direct => QueueMode::CancelPrevious,
        ConversationKind::Group => QueueMode::Serial,
    })
}

/// How messages that match are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Route {
    /// Which messages it is for; absent, `null` and empty mean all.
    #[serde(rename = "match", default, deserialize_with = "null_is_empty", skip_serializing_if = "is_empty")]
    pub matches: Match,
    /// Runtime id.
    pub runtime: String,
    /// Working directory of the runtime.
    pub cwd: PathBuf,
    /// Arguments for the runtime; its adapter filters them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_args: Vec<String>,
    /// See [`queue_mode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_mode: Option<QueueMode>,
    /// Trust in the senders; see [`Route::trust`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust_level: Option<TrustLevel>,
    /// Gateway of an `openclaw-acp` route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Profile of a `hermes-agent` route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hermes_profile: Option<String>,
    /// What becomes of a message whose turn was interrupted; see [`OnInterrupt`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_interrupt: Option<OnInterrupt>,
}

impl Route {
    /// The trust that its turns run with: [`TrustLevel::Trusted`] unless it says otherwise.
    pub fn trust(&self) -> TrustLevel {
        self.trust_level.unwrap_or_default()
    }
}

fn null_is_empty<'de, D: Deserializer<'de>>(d: D) -> Result<Match, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

fn is_empty(m: &Match) -> bool {
    *m == Match::default()
}

/// All routes of the daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// What the configuration lists, in its order.
    pub user: Vec<Route>,
    /// One for each bound agent, in the order of binding. Change it with [`Routes::put_managed`].
    pub managed: Vec<Route>,
    /// For everything else.
    pub default: Route,
}

impl Routes {
    /// The route of a message; the first hit of: the user's routes that name its agent, the managed routes, the
    /// user's other routes, the default.
    ///
    /// So a broad rule of the user never takes an agent away from its own managed route.
    pub fn resolve(&self, message: &Inbound) -> &Route {
        let hit = |r: &&Route| r.matches.holds(message);
        let mut naming = self.user.iter().filter(|r| r.matches.account_id.as_ref() == Some(&message.account_id));
        naming
            .find(hit)
            .or_else(|| self.managed.iter().find(hit))
            .or_else(|| self.user.iter().find(hit))
            .unwrap_or(&self.default)
    }

    /// Adds the managed route of an agent, or replaces it where it stands. Returns `false`, and does nothing, when
    /// the route names no agent.
    #[must_use]
    pub fn put_managed(&mut self, route: Route) -> bool {
        let Some(account) = &route.matches.account_id else { return false };
        match self.managed.iter_mut().find(|r| r.matches.account_id.as_ref() == Some(account)) {
            Some(known) => *known = route,
            None => self.managed.push(route),
        }
        true
    }

    /// Removes the managed route of an agent.
    pub fn remove_managed(&mut self, account_id: &str) {
        self.managed.retain(|r| r.matches.account_id.as_deref() != Some(account_id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_keeps_its_document() {
        let document = serde_json::json!({
            "match": {"accountId": "ag_1", "conversationPrefix": "rm_oc_"}, "runtime": "claude-code", "cwd": "/w",
            "extraArgs": ["--model", "m"], "queueMode": "cancel-previous", "trustLevel": "owner",
            "gateway": {"name": "g", "url": "ws://h", "openclawAgent": "a"}, "hermesProfile": "p",
        });
        let route: Route = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(route.trust(), TrustLevel::Owner);
        assert_eq!(serde_json::to_value(route).unwrap(), document);
    }

    #[test]
    fn a_bare_route_matches_all_and_trusts() {
        let route: Route = serde_json::from_str(r#"{"match":null,"runtime":"x","cwd":"/w","new":1}"#).unwrap();
        assert_eq!(route.matches, Match::default());
        assert_eq!(route.trust(), TrustLevel::Trusted);
        assert_eq!(serde_json::to_string(&route).unwrap(), r#"{"runtime":"x","cwd":"/w"}"#);
    }

    #[test]
    fn managed_routes_are_replaced_in_place() {
        let managed = |account: &str, runtime: &str| Route {
            matches: Match::account(account),
            runtime: runtime.to_owned(),
            ..Route::default()
        };
        let mut routes = Routes::default();
        assert!(routes.put_managed(managed("a", "1")) && routes.put_managed(managed("b", "2")));
        assert!(routes.put_managed(managed("a", "3")));
        assert!(!routes.put_managed(Route::default()));
        assert_eq!(routes.managed, [managed("a", "3"), managed("b", "2")]);
        routes.remove_managed("a");
        assert_eq!(routes.managed, [managed("b", "2")]);
    }
}
