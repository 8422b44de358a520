//! Frames of the control socket and answers to them: one JSON object each.

use serde_json::{Map, Value, json};

use crate::json;

/// Values of a frame; more would take a hundred times the memory of a frame that is as long.
const VALUES: usize = 500_000;

/// A frame that asks for something.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Chosen by the hub, the same when it repeats itself.
    pub id: String,
    /// What is asked for.
    pub kind: String,
    /// Parameters; an empty object where there are none. Anything but an object is refused by every handler.
    pub params: Value,
    /// The hub's clock in milliseconds, as it was written; `None` when it is not a number.
    pub ts: Option<serde_json::Number>,
    /// The signature, where there is one that is text.
    pub sig: Option<String>,
}

/// What came over the socket.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A frame.
    Frame(Frame),
    /// The hub's answer to an event of ours: its id, and what was wrong with it.
    Answer {
        /// Id of the event.
        id: String,
        /// The code of a refusal.
        refused: Option<String>,
    },
    /// Neither; the text says why and holds nothing of it.
    Unreadable(&'static str),
}

/// Reads a text message of the socket.
pub fn read(text: &str) -> Incoming {
    let Ok(value) = json::parse_at_most(text.as_bytes(), VALUES) else { return Incoming::Unreadable("not JSON") };
    let Value::Object(mut object) = value else { return Incoming::Unreadable("not an object") };
    let Some(Value::String(id)) = object.remove("id") else { return Incoming::Unreadable("no id") };
    let Some(Value::String(kind)) = object.remove("type") else {
        let Some(Value::Bool(ok)) = object.get("ok") else { return Incoming::Unreadable("no type") };
        let code = || object.get("error")?.get("code")?.as_str().map(ToOwned::to_owned);
        let refused = if *ok { None } else { Some(code().unwrap_or_default()) };
        return Incoming::Answer { id, refused };
    };
    let params = match object.remove("params") {
        None | Some(Value::Null) => Value::Object(Map::new()),
        Some(params) => params,
    };
    let ts = match object.remove("ts") {
        Some(Value::Number(ts)) => Some(ts),
        _ => None,
    };
    let sig = match object.remove("sig") {
        Some(Value::String(sig)) if !sig.is_empty() => Some(sig),
        _ => None,
    };
    Incoming::Frame(Frame { id, kind, params, ts, sig })
}

/// Why a frame was not carried out.
#[derive(Clone, Debug, PartialEq)]
pub struct Refused {
    /// Part of the contract.
    pub code: &'static str,
    /// For people; holds no secrets.
    pub message: String,
    /// What else the error says.
    pub more: Map<String, Value>,
    /// A result all the same.
    pub result: Option<Box<Value>>,
}

impl Refused {
    /// A refusal with nothing but a code and a text.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), more: Map::new(), result: None }
    }

    /// A parameter is missing or of the wrong type.
    pub fn params(message: impl Into<String>) -> Self {
        Self::new("bad_params", message)
    }

    /// The daemon's own failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new("handler_error", message)
    }
}

/// What a handler returns: a result, or none.
pub type Handled = Result<Option<Value>, Refused>;

/// The answer to a frame. It has no `type`: the hub would take it for an event.
pub fn answer(id: &str, handled: &Handled) -> Value {
    match handled {
        Ok(None) => json!({"id": id, "ok": true}),
        Ok(Some(result)) => json!({"id": id, "ok": true, "result": result}),
        Err(refused) => {
            let mut error = refused.more.clone();
            error.insert("code".into(), refused.code.into());
            error.insert("message".into(), refused.message.clone().into());
            let mut answer = json!({"id": id, "ok": false, "error": error});
            if let Some(result) = &refused.result {
                answer["result"] = result.as_ref().clone();
            }
            answer
        }
    }
}

/// An event for the hub. `prefix` and `random` make its id.
pub fn event(prefix: &str, kind: &str, now_ms: i64, random: [u8; 6], params: Option<Value>) -> Value {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let random: String = random.iter().map(|b| DIGITS[usize::from(*b) % DIGITS.len()] as char).collect();
    let mut event = json!({"id": format!("{prefix}_{now_ms}_{random}"), "type": kind, "ts": now_ms});
    if let (Some(params), Some(object)) = (params, event.as_object_mut()) {
        object.insert("params".into(), params);
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_neither_frame_nor_answer_is_named() {
        for (text, why) in [
            ("no", "not JSON"),
            ("[]", "not an object"),
            ("{}", "no id"),
            (r#"{"id":7,"type":"ping"}"#, "no id"),
            (r#"{"id":"a"}"#, "no type"),
            (r#"{"id":"a","ok":"yes"}"#, "no type"),
            (r#"{"id":"\ud800","type":"ping"}"#, "not JSON"),
        ] {
            assert_eq!(read(text), Incoming::Unreadable(why), "{text}");
        }
        let refused = r#"{"id":"rt_1","ok":false,"error":{"code":"bad_params"}}"#;
        assert_eq!(read(refused), Incoming::Answer { id: "rt_1".into(), refused: Some("bad_params".into()) });
    }

    #[test]
    fn an_error_may_say_more_but_not_another_code() {
        let mut refused = Refused::new("hermes_profile_occupied", "taken");
        refused.more = [("profile".to_owned(), json!("work")), ("code".to_owned(), json!("x"))].into_iter().collect();
        let error = json!({"profile": "work", "code": "hermes_profile_occupied", "message": "taken"});
        assert_eq!(answer("a", &Err(refused)), json!({"id": "a", "ok": false, "error": error}));
    }

    #[test]
    fn an_event_has_an_id_of_its_kind() {
        let event = event("hb", "pong", 1_800_000_000_000, [0, 10, 35, 36, 1, 255], None);
        assert_eq!(event, json!({"id": "hb_1800000000000_0az013", "type": "pong", "ts": 1_800_000_000_000_i64}));
    }
}
