//! The order in which an incoming frame is checked, and what becomes of it. Pure but for the file of [`Replay`].

use serde_json::{Value, json};

use super::frame::{Frame, Handled, Incoming, Refused, answer, read};
use super::replay::{Known, Replay};
use super::ring::KeyRing;

/// How far a frame's clock may be from ours, in milliseconds; exactly so far is near enough.
pub const CLOCK_LIMIT_MS: i64 = 300_000;

/// What is to be done with a message of the socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing; the text says why, for the log.
    Drop(&'static str),
    /// Nothing: the hub answered an event, with this refusal if any.
    Answered {
        /// Id of the event.
        id: String,
        /// The code of a refusal.
        refused: Option<String>,
    },
    /// Send this.
    Send(Value),
    /// Send this; the hub has revoked the whole daemon.
    Revoked(Value),
    /// Carry it out, then call [`Gate::finish`].
    Handle(Frame),
}

/// Checks frames.
#[derive(Debug)]
pub struct Gate {
    /// Whose signatures count. With none, frames are believed because the connection is.
    pub ring: KeyRing,
    /// Refuse every frame while [`Gate::ring`] is empty.
    pub require_signed: bool,
    /// The hub's clock less ours, in milliseconds.
    pub skew_ms: i64,
    replay: Replay,
}

impl Gate {
    /// A gate with this memory.
    pub fn new(ring: KeyRing, require_signed: bool, replay: Replay) -> Self {
        Self { ring, require_signed, skew_ms: 0, replay }
    }

    /// A text message came.
    pub fn take(&mut self, text: &str, now_ms: i64) -> Step {
        let frame = match read(text) {
            Incoming::Frame(frame) => frame,
            Incoming::Answer { id, refused } => return Step::Answered { id, refused },
            Incoming::Unreadable(why) => return Step::Drop(why),
        };
        if let Err(refused) = self.check(&frame, now_ms) {
            return Step::Send(answer(&frame.id, &Err(refused)));
        }
        match self.replay.get(&frame.id) {
            // The answer of the one that runs is an answer to both.
            Some(Known::Running) => return Step::Drop("repeated while it is carried out"),
            Some(Known::Answered(answer)) => return Step::Send(again(answer)),
            None => self.replay.begin(&frame.id, now_ms),
        }
        if frame.kind == "revoke" {
            return Step::Revoked(self.finish(&frame.id, &Ok(Some(json!({"acknowledged": true})))));
        }
        Step::Handle(frame)
    }

    /// A frame has been carried out. Returns the answer for the hub.
    pub fn finish(&mut self, id: &str, handled: &Handled) -> Value {
        let answer = answer(id, handled);
        self.replay.answered(id, &answer);
        answer
    }

    fn check(&self, frame: &Frame, now_ms: i64) -> Result<(), Refused> {
        let stale = |message| Err(Refused::new("stale_ts", message));
        match frame.ts.as_ref().and_then(serde_json::Number::as_f64) {
            Some(ts) if (ts - now_ms.saturating_add(self.skew_ms) as f64).abs() > CLOCK_LIMIT_MS as f64 => {
                return stale("the frame's clock is more than 5 minutes from ours");
            }
            // It could be replayed for ever.
            None if !self.ring.is_empty() => return stale("a signed frame needs a time"),
            _ => {}
        }
        if self.ring.is_empty() {
            if self.require_signed {
                let message = "signed frames are required, but no control key is configured";
                return Err(Refused::new("unsigned", message));
            }
            return Ok(());
        }
        if frame.sig.is_none() {
            return Err(Refused::new("unsigned", "the frame has no signature"));
        }
        if !self.ring.verifies(frame) {
            return Err(Refused::new("bad_signature", "no configured control key verifies the frame"));
        }
        Ok(())
    }
}

/// The first answer, marked as a repetition.
fn again(answer: &Value) -> Value {
    let mut answer = answer.clone();
    if answer["ok"] == true && answer.get("result").is_none() {
        answer["result"] = json!({});
    }
    if let Some(result) = answer.get_mut("result").and_then(Value::as_object_mut) {
        result.insert("duplicate".into(), true.into());
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_800_000_000_000;

    fn ping(id: &str) -> String {
        json!({"id": id, "type": "ping", "ts": NOW, "params": {}}).to_string()
    }

    fn gate() -> Gate {
        Gate::new(KeyRing::default(), false, Replay::in_memory())
    }

    #[test]
    fn a_repetition_gets_the_first_answer_and_none_while_that_is_made() {
        let mut gate = gate();
        assert!(matches!(gate.take(&ping("a"), NOW), Step::Handle(_)));
        assert!(matches!(gate.take(&ping("a"), NOW), Step::Drop(_)));
        let refused = gate.finish("a", &Err(Refused::failed("no")));
        assert_eq!(gate.take(&ping("a"), NOW), Step::Send(refused));
        assert!(matches!(gate.take(&ping("b"), NOW), Step::Handle(_)));
        gate.finish("b", &Ok(None));
        let again = json!({"id": "b", "ok": true, "result": {"duplicate": true}});
        assert_eq!(gate.take(&ping("b"), NOW), Step::Send(again));
    }

    #[test]
    fn the_hubs_clock_counts() {
        let mut gate = gate();
        gate.skew_ms = -3_600_000;
        assert!(matches!(gate.take(&ping("a"), NOW), Step::Send(_)), "an hour off");
        assert!(matches!(gate.take(&ping("a"), NOW + 3_600_000 + CLOCK_LIMIT_MS), Step::Handle(_)));
    }

    #[test]
    fn an_absurd_clock_of_the_hub_only_makes_frames_stale() {
        let mut gate = gate();
        for skew in [i64::MIN, i64::MAX] {
            gate.skew_ms = skew;
            assert!(matches!(gate.take(&ping("a"), NOW), Step::Send(_)));
        }
    }

    #[test]
    fn signatures_may_be_required_although_none_can_be_checked() {
        let mut gate = gate();
        gate.require_signed = true;
        let Step::Send(answer) = gate.take(&ping("a"), NOW) else { panic!("refused") };
        assert_eq!(answer["error"]["code"], "unsigned");
    }
}
