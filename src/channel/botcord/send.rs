//! What an agent says: sent once, whatever happens on the way (the hub's protocol, §13).
//!
//! The engine decides when there is another attempt; here it is decided what an attempt says, and what its outcome means.
//! A message that may have arrived is never sent again before the hub was asked for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::envelope::Draft;
use super::error::ApiError;
use super::far::Far;
use super::files;
use super::outcome::{self, Attempt, SAME_WORDS, Step};
use super::pace::{Limits, Pace};
use super::payload::{cut, msg_id, payload, with_urls};
use crate::engine::ports::Delivery;
use crate::message::{Outbound, OutboundKind};

/// Messages under way that are remembered; the one tried longest ago makes room.
const UNDER_WAY: usize = 256;
/// For so long uploaded files are good; a hub keeps them for an hour.
const FILES_KEEP: Duration = Duration::from_mins(45);

/// What is known of a message under way.
struct Tried {
    attempt: Attempt,
    count: u32,
    began: Instant,
    last: Instant,
    /// When the hub took it for a repetition of the same words.
    same_words: Option<Instant>,
    /// What it says, once its files are with the hub.
    payload: Option<(Arc<Value>, Instant)>,
}

impl Tried {
    fn new(now: Instant) -> Self {
        Self { attempt: Attempt::default(), count: 0, began: now, last: now, same_words: None, payload: None }
    }
}

/// Sends the messages of one agent.
pub struct Sender {
    far: Arc<dyn Far>,
    began: Instant,
    pace: Mutex<Pace>,
    tried: Mutex<HashMap<String, Tried>>,
}

impl Sender {
    /// A sender that has sent nothing yet, and keeps below these limits.
    pub fn new(far: Arc<dyn Far>, limits: Limits) -> Self {
        let pace = Mutex::new(Pace::new(limits));
        Self { far, began: Instant::now(), pace, tried: Mutex::default() }
    }

    /// One attempt. It waits for the hub, and for the uploads of the message's files before.
    pub fn send(&self, out: &Outbound) -> Delivery {
        let id = msg_id(self.far.agent(), out);
        let payload = self.payload_of(out, &id);
        loop {
            let now = self.began.elapsed().as_millis() as i64;
            let wait = self.pace.lock().unwrap_or_else(PoisonError::into_inner).take(&out.conversation_id, now);
            if let Err(after) = wait {
                return Delivery::Transient { after: Some(after), why: "not faster than the hub takes it".into() };
            }
            let attempt = self.with(&id, |tried| {
                tried.count += 1;
                tried.last = Instant::now();
                tried.attempt
            });
            let error = match self.far.send(&draft(out, &id, &payload, attempt)) {
                Ok(answer) => return self.delivered(out, &id, answer.hub_msg_id),
                Err(e) => e,
            };
            let step = outcome::step(&error, attempt);
            let why = error.to_string();
            match step {
                Step::GiveUp => return self.given_up(out, &id, why),
                Step::Later(after) => return Delivery::Transient { after, why },
                Step::Ask => {
                    self.with(&id, |tried| tried.attempt.repeated = true);
                    return Delivery::Uncertain { why };
                }
                Step::AskSameWords => {
                    self.with(&id, |tried| tried.same_words = Some(Instant::now()));
                    return Delivery::Uncertain { why };
                }
                Step::Unquote => {
                    log::info!("botcord.unquoted agent={} msg_id={id} error={why:?}", self.far.agent());
                    self.with(&id, |tried| tried.attempt.unquoted = true);
                }
                Step::SetClock => {
                    self.with(&id, |tried| tried.attempt.clock_set = true);
                    if !error.refusal().is_some_and(|refusal| self.far.adopt_clock(refusal)) {
                        return Delivery::Transient { after: None, why };
                    }
                }
            }
            // The hub has seen it. It is asked before every repetition.
            self.with(&id, |tried| tried.attempt.repeated = true);
            match self.resolve(out) {
                Delivery::Transient { after: None, .. } => {}
                delivery => return delivery,
            }
        }
    }

    /// Asks the hub whether it has a message. [`Delivery::Transient`]: it has not.
    pub fn resolve(&self, out: &Outbound) -> Delivery {
        let id = msg_id(self.far.agent(), out);
        let same_words = self.with(&id, |tried| {
            tried.attempt.repeated = true;
            tried.same_words
        });
        match self.far.message_status(&id) {
            Ok(Some(_)) => self.delivered(out, &id, None),
            Ok(None) => {
                let left = same_words.and_then(|at| SAME_WORDS.checked_sub(at.elapsed()));
                Delivery::Transient { after: left, why: "the hub does not have it".into() }
            }
            Err(e @ (ApiError::Revoked(_) | ApiError::Request(_))) => self.given_up(out, &id, e.to_string()),
            Err(e) if e.is("not_the_sender") => self.given_up(out, &id, e.to_string()),
            Err(e) => Delivery::Uncertain { why: e.to_string() },
        }
    }

    fn delivered(&self, out: &Outbound, id: &str, hub_msg_id: Option<String>) -> Delivery {
        let tried = self.lock().remove(id);
        let (count, ms) = tried.map_or((0, 0), |t| (t.count, t.began.elapsed().as_millis()));
        let (agent, room) = (self.far.agent(), &out.conversation_id);
        let hub_id = hub_msg_id.as_deref().unwrap_or("-");
        log::info!(
            "botcord.delivered agent={agent} room={room} msg_id={id} hub_msg_id={hub_id:?} attempts={count} ms={ms}"
        );
        Delivery::Delivered { id: hub_msg_id.or_else(|| Some(id.to_owned())) }
    }

    fn given_up(&self, out: &Outbound, id: &str, why: String) -> Delivery {
        self.lock().remove(id);
        let (agent, room) = (self.far.agent(), &out.conversation_id);
        log::error!("botcord.given_up agent={agent} room={room} msg_id={id} error={why:?}");
        Delivery::Permanent { why }
    }

    /// What a message says. While it is under way it stays the same, but that files are uploaded anew before the hub
    /// forgets them.
    fn payload_of(&self, out: &Outbound, id: &str) -> Arc<Value> {
        let is_owners = out.conversation_id.starts_with("rm_oc_");
        let too_long = out.text.len() > super::payload::TEXT_LIMIT;
        if out.attachments.is_empty() && !(too_long && is_owners) {
            let text = cut(&out.text, false);
            return Arc::new(payload(out, text.as_deref().unwrap_or(&out.text), &[]));
        }
        let known = self.with(id, |tried| tried.payload.clone());
        if let Some((payload, _)) = known.filter(|(_, at)| at.elapsed() < FILES_KEEP) {
            return payload;
        }
        let mut uploaded = files::upload_all(self.far.as_ref(), &out.attachments);
        let urls: Vec<(&str, &str)> = uploaded
            .paths
            .iter()
            .zip(&uploaded.files)
            .filter_map(|(path, file)| Some((path.as_deref()?, file.url.as_str())))
            .collect();
        let text = with_urls(&out.text, &urls);
        let mut attached = false;
        if too_long && is_owners && out.kind == OutboundKind::Message {
            match files::upload_text(self.far.as_ref(), &text) {
                Ok(file) => {
                    uploaded.files.push(file);
                    attached = true;
                }
                Err(later) => uploaded.is_partial |= later,
            }
        }
        let shown = cut(&text, attached);
        let payload = Arc::new(payload(out, shown.as_deref().unwrap_or(&text), &uploaded.files));
        if !uploaded.is_partial {
            self.with(id, |tried| tried.payload = Some((Arc::clone(&payload), Instant::now())));
        }
        payload
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Tried>> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, id: &str, change: impl FnOnce(&mut Tried) -> T) -> T {
        let mut all = self.lock();
        if all.len() >= UNDER_WAY && !all.contains_key(id) {
            let oldest = all.iter().min_by_key(|(_, t)| t.last).map(|(id, _)| id.clone());
            oldest.and_then(|id| all.remove(&id));
        }
        change(all.entry(id.to_owned()).or_insert_with(|| Tried::new(Instant::now())))
    }
}

fn draft<'a>(out: &'a Outbound, id: &'a str, payload: &'a Value, attempt: Attempt) -> Draft<'a> {
    Draft {
        msg_id: id,
        to: &out.conversation_id,
        kind: match out.kind {
            OutboundKind::Message => "message",
            OutboundKind::Error => "error",
        },
        // What could not be signed is not quoted: an answer is worth more.
        reply_to: out.reply_to.as_deref().filter(|id| !attempt.unquoted && !id.contains(char::is_control)),
        topic: out.topic.as_deref().filter(|t| !t.is_empty()),
        goal: None,
        payload,
        mentions: &out.mentions,
        trace_id: out.trace_id.as_deref(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeHub, Scripted, out, refused};
    use super::*;

    fn sender(script: impl IntoIterator<Item = Scripted>) -> (Arc<FakeHub>, Sender) {
        let hub = Arc::new(FakeHub::answering(script));
        (Arc::clone(&hub), Sender::new(hub, Limits::default()))
    }

    fn delivered(delivery: &Delivery) -> bool {
        matches!(delivery, Delivery::Delivered { .. })
    }

    #[test]
    fn a_quote_that_is_gone_is_left_out_once() {
        let gone = Some(refused(400, "reply_target_not_found"));
        let (hub, sender) = sender([gone, Some(refused(404, "message_not_found")), None]);
        assert!(delivered(&sender.send(&out("T"))));
        assert_eq!(hub.calls(), ["send message re m_0", "status", "send message"]);
        assert!(sender.lock().is_empty());
    }

    #[test]
    fn a_quote_that_cannot_be_signed_is_left_out() {
        let (hub, sender) = sender([None]);
        assert!(delivered(&sender.send(&Outbound { reply_to: Some("m\n0".into()), ..out("T") })));
        assert_eq!(hub.calls(), ["send message"]);
    }

    #[test]
    fn the_same_words_are_not_said_again_too_soon() {
        let missing = || Some(refused(404, "message_not_found"));
        let script = [
            Some(refused(400, "reply_target_not_found")),
            missing(),
            Some(refused(429, "duplicate_content")),
            missing(),
        ];
        let (hub, sender) = sender(script);
        assert!(matches!(sender.send(&out("T")), Delivery::Uncertain { .. }));
        match sender.resolve(&out("T")) {
            Delivery::Transient { after: Some(wait), .. } => assert!(wait > Duration::from_mins(4), "{wait:?}"),
            other => panic!("{other:?}"),
        }
        assert!(delivered(&sender.send(&out("T"))), "later");
        assert_eq!(hub.calls().last().unwrap(), "send message", "still without the quote");
    }

    #[test]
    fn words_that_the_room_has_just_heard_are_dropped() {
        let (_, sender) = sender([Some(refused(429, "duplicate_content"))]);
        assert!(matches!(sender.send(&out("T")), Delivery::Permanent { .. }));
    }

    #[test]
    fn after_a_crash_the_hub_is_asked_first_and_nothing_is_sent_while_it_does_not_say() {
        let silent = || Some(ApiError::Network { sent: false, why: "down".into() });
        let (hub, sender) = sender([silent(), Some(refused(404, "not_a_code")), None]);
        assert!(matches!(sender.resolve(&out("T")), Delivery::Uncertain { .. }));
        assert!(matches!(sender.resolve(&out("T")), Delivery::Uncertain { .. }), "some other server");
        assert!(delivered(&sender.resolve(&out("T"))));
        assert_eq!(hub.calls(), ["status"; 3]);
    }

    #[test]
    fn the_clock_is_set_once() {
        let mut early = super::super::error::Refusal { status: 400, date: Some(5), ..Default::default() };
        early.code = Some("timestamp_out_of_range".into());
        let early = || Some(ApiError::Refused(Box::new(early.clone())));
        let (hub, sender) = sender([early(), Some(refused(404, "message_not_found")), early()]);
        assert!(matches!(sender.send(&out("T")), Delivery::Permanent { .. }));
        assert_eq!(hub.calls(), ["send message re m_0", "clock", "status", "send message re m_0"]);
    }

    #[test]
    fn one_room_gets_ten_a_minute_and_the_rest_later() {
        let (hub, sender) = sender([]);
        let message =
            |n: usize, room: &str| Outbound { id: format!("out_{n}"), conversation_id: room.to_owned(), ..out("T") };
        for n in 0..10 {
            assert!(delivered(&sender.send(&message(n, "rm_1"))));
        }
        assert!(matches!(sender.send(&message(10, "rm_1")), Delivery::Transient { after: Some(_), .. }));
        assert!(delivered(&sender.send(&message(11, "rm_2"))));
        assert_eq!(hub.calls().len(), 11);
    }

    #[test]
    fn files_are_uploaded_once_and_named_by_their_url() {
        let dir = crate::store::tests::TempDir::new();
        let path = dir.0.canonicalize().unwrap().join("a.png");
        std::fs::write(&path, "png").unwrap();
        let file = |path: &std::path::Path| crate::message::Attachment {
            file_path: path.to_owned(),
            filename: "a.png".into(),
            content_type: Some("image/png".into()),
            kind: crate::message::AttachmentKind::Image,
            source_path: Some("out/a.png".into()),
        };
        let missing = file(&path.with_file_name("b.png"));
        let text = format!("see out/a.png {}", "x".repeat(super::super::payload::TEXT_LIMIT));
        let message =
            Outbound { conversation_id: "rm_oc_1".into(), attachments: vec![file(&path), missing], ..out(&text) };
        let lost = Some(ApiError::Network { sent: true, why: "cut".into() });
        let (hub, sender) = sender([None, None, lost, Some(refused(404, "message_not_found")), None]);
        assert!(matches!(sender.send(&message), Delivery::Uncertain { .. }));
        assert!(matches!(sender.resolve(&message), Delivery::Transient { after: None, .. }));
        assert!(delivered(&sender.send(&message)));
        let calls = hub.calls();
        assert_eq!(calls[0], "upload a.png image/png 3");
        assert!(calls[1].starts_with("upload answer.txt text/plain"), "{calls:?}");
        assert_eq!(&calls[2..], ["send message re m_0", "status", "send message re m_0"]);
        let sent = hub.sent.lock().unwrap();
        assert_eq!(sent[0], sent[1], "the same at every attempt");
        assert!(sent[0]["text"].as_str().unwrap().starts_with("see https://h/a.png x"));
        assert_eq!(sent[0]["attachments"].as_array().unwrap().len(), 2);
    }
}
