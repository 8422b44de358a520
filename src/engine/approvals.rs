//! Permission for tool calls: who decides, and the questions that wait for an answer.
//!
//! A runtime that asks is answered at once where the policy says so. Where it says `ask`, the question becomes an
//! event and waits here in the background: the run goes on listening, and its token is woken when the answer has come.
//! Every question gets one: from a person, from the time limit, or from the end of its turn.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::cancel::CancelToken;
use super::ports::{Approval, ApprovalRequest};
use crate::crypto;
use crate::message::{Inbound, TrustLevel};

/// Questions that may wait in the whole daemon; what is asked beyond them is denied.
pub const LIMIT: usize = 256;

/// Who decides about tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decide {
    /// They are allowed.
    Allow,
    /// They are denied.
    Deny,
    /// A person is asked.
    Ask,
}

/// Who decides, by how far the sender of the message is trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApprovalPolicy {
    /// For the owner.
    pub owner: Decide,
    /// For known parties.
    pub trusted: Decide,
    /// For anybody.
    pub public: Decide,
    /// A question without an answer is denied after this.
    pub limit: Duration,
}

impl Default for ApprovalPolicy {
    /// The owner and trusted parties are allowed everything, anybody else nothing.
    fn default() -> Self {
        Self { owner: Decide::Allow, trusted: Decide::Allow, public: Decide::Deny, limit: Duration::from_mins(2) }
    }
}

impl ApprovalPolicy {
    /// Who decides at a level of trust.
    pub fn of(&self, trust: TrustLevel) -> Decide {
        match trust {
            TrustLevel::Owner => self.owner,
            TrustLevel::Trusted => self.trusted,
            TrustLevel::Public => self.public,
        }
    }
}

/// A question that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingApproval {
    /// Under which it is answered.
    pub id: String,
    /// Turn that waits for it.
    pub turn_id: String,
    /// Channel of the message that is answered.
    pub channel: String,
    /// Agent.
    pub agent: String,
    /// Conversation.
    pub conversation: String,
    /// Tool or title.
    pub tool: String,
    /// One line about what it would do, redacted.
    pub summary: String,
    /// When it was asked, in Unix milliseconds.
    pub asked_at: i64,
    /// When it is denied, in Unix milliseconds.
    pub expires_at: i64,
}

/// Where the answers for one run arrive, each with the runtime's own id of the question.
pub(super) type Mailbox = Arc<Mutex<VecDeque<(String, Approval)>>>;

/// Takes the next answer out of a mailbox.
pub(super) fn receive(mailbox: &Mailbox) -> Option<(String, Approval)> {
    mailbox.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

struct Open {
    shown: PendingApproval,
    question: String,
    mailbox: Mailbox,
    token: CancelToken,
}

/// The questions that wait, and the policy.
pub(super) struct Approvals {
    policy: Mutex<ApprovalPolicy>,
    open: Mutex<HashMap<String, Open>>,
}

impl Approvals {
    pub(super) fn new(policy: ApprovalPolicy) -> Self {
        Self { policy: Mutex::new(policy), open: Mutex::default() }
    }

    pub(super) fn policy(&self) -> ApprovalPolicy {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_policy(&self, policy: ApprovalPolicy) {
        *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
    }

    /// Takes a question in; `None` when too many wait. The caller sees to the time limit.
    pub(super) fn ask(
        &self,
        turn_id: &str,
        message: &Inbound,
        request: ApprovalRequest,
        mailbox: &Mailbox,
        token: &CancelToken,
    ) -> Option<PendingApproval> {
        let now = super::now_ms();
        let limit = i64::try_from(self.policy().limit.as_millis()).unwrap_or(i64::MAX);
        let shown = PendingApproval {
            id: format!("ap_{}", crypto::hex(&crypto::random::<10>())),
            turn_id: turn_id.to_owned(),
            channel: message.channel.clone(),
            agent: message.account_id.clone(),
            conversation: message.conversation.id.clone(),
            tool: request.tool,
            summary: request.summary,
            asked_at: now,
            expires_at: now.saturating_add(limit),
        };
        let open =
            Open { shown: shown.clone(), question: request.id, mailbox: Arc::clone(mailbox), token: token.clone() };
        let mut all = self.open();
        if all.len() >= LIMIT {
            return None;
        }
        all.insert(shown.id.clone(), open);
        Some(shown)
    }

    /// Answers a question; `false` when it does not wait (any more).
    pub(super) fn answer(&self, id: &str, answer: Approval) -> bool {
        let Some(open) = self.open().remove(id) else { return false };
        let allow = answer == Approval::Allow;
        log::info!("approval.answered id={id} turn={} tool={:?} allow={allow}", open.shown.turn_id, open.shown.tool);
        open.mailbox.lock().unwrap_or_else(PoisonError::into_inner).push_back((open.question, answer));
        open.token.wake();
        true
    }

    /// Denies everything that a turn asks: it has ended or is about to.
    pub(super) fn end(&self, turn_id: &str) {
        let ids: Vec<String> =
            self.open().values().filter(|o| o.shown.turn_id == turn_id).map(|o| o.shown.id.clone()).collect();
        for id in ids {
            self.answer(&id, Approval::Deny { reason: "the turn has ended".into() });
        }
    }

    /// What waits, oldest first.
    pub(super) fn list(&self) -> Vec<PendingApproval> {
        let mut list: Vec<PendingApproval> = self.open().values().map(|o| o.shown.clone()).collect();
        crate::sort::sort_by(&mut list, |a, b| a.asked_at.cmp(&b.asked_at).then_with(|| a.id.cmp(&b.id)));
        list
    }

    fn open(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::document;

    fn message() -> Inbound {
        document::parse(&serde_json::json!({
            "id": "1", "channel": "local", "accountId": "a", "conversation": {"id": "c", "kind": "direct"},
            "sender": {"id": "o", "kind": "user"}, "text": "x", "receivedAt": 0
        }))
        .unwrap()
    }

    fn request(id: &str) -> ApprovalRequest {
        ApprovalRequest { id: id.into(), tool: "Bash".into(), summary: "ls".into() }
    }

    #[test]
    fn every_question_is_answered_once() {
        let approvals = Approvals::new(ApprovalPolicy::default());
        let (mailbox, token) = (Mailbox::default(), CancelToken::new().unwrap());
        let ask = |turn: &str, id: &str| approvals.ask(turn, &message(), request(id), &mailbox, &token).unwrap();
        let (first, second) = (ask("t1", "q1"), ask("t2", "q2"));
        assert_eq!(approvals.list().len(), 2);
        assert!(approvals.answer(&first.id, Approval::Allow) && !approvals.answer(&first.id, Approval::Allow));
        assert_eq!(receive(&mailbox), Some(("q1".into(), Approval::Allow)));
        approvals.end("t1");
        assert_eq!(approvals.list(), [second]);
        approvals.end("t2");
        assert!(matches!(receive(&mailbox), Some((id, Approval::Deny { .. })) if id == "q2"));
        assert_eq!(receive(&mailbox), None);
    }

    #[test]
    fn the_table_has_an_end() {
        let approvals = Approvals::new(ApprovalPolicy::default());
        let (mailbox, token) = (Mailbox::default(), CancelToken::new().unwrap());
        let ask = |n: usize| approvals.ask("t", &message(), request(&n.to_string()), &mailbox, &token);
        assert!((0..LIMIT).all(|n| ask(n).is_some()));
        assert!(ask(LIMIT).is_none());
    }
}
