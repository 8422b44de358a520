//! JSON-RPC 2.0, one object per line: reading what an agent writes, writing what it reads.
//!
//! Reading never fails loudly: a line that is no message is [`Incoming::Garbage`], because agents print
//! banners and warnings on stdout and a turn must survive them.

use serde::Serialize;
use serde_json::Value;

use crate::engine::ports::ErrorClass;
use crate::json;

/// Longest error text that is kept, in UTF-16 units; what an agent puts into `data` has no limit of its own.
const ERROR_TEXT_LIMIT: usize = 4_096;

/// Code of a method that does not exist.
pub const METHOD_NOT_FOUND: i64 = -32_601;
/// Code with which agents ask for a login first.
const AUTH_REQUIRED: i64 = -32_000;

/// Id of an agent's request: a number (0 included) or a string. Answered with exactly what came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Id {
    /// A number, kept as written.
    Number(serde_json::Number),
    /// A string.
    Text(String),
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(n) => write!(f, "{n}"),
            Self::Text(s) => f.write_str(s),
        }
    }
}

/// One line from an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Incoming {
    /// A request that must be answered exactly once.
    Request {
        /// Its id.
        id: Id,
        /// Method.
        method: String,
        /// Parameters; null when absent.
        params: Value,
    },
    /// A notification.
    Notification {
        /// Method.
        method: String,
        /// Parameters; null when absent.
        params: Value,
    },
    /// The answer to a request of ours.
    Answer {
        /// Our id.
        id: u64,
        /// `result` (null included), or `error`.
        outcome: Result<Value, RpcError>,
    },
    /// Not a message of the protocol.
    Garbage,
}

/// The `error` member of an answer. Members of the wrong type are treated as absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RpcError {
    /// Error code.
    pub code: Option<i64>,
    /// Message.
    pub message: Option<String>,
    /// Details: a string, an object, anything.
    pub data: Value,
}

impl RpcError {
    /// Reads an error object.
    pub fn from_value(error: &Value) -> Self {
        Self {
            code: error.get("code").and_then(Value::as_i64),
            message: error.get("message").and_then(Value::as_str).map(str::to_owned),
            data: error.get("data").cloned().unwrap_or_default(),
        }
    }

    /// Message and detail: `message: detail`, where the detail is `data` as a string, `data.details`, or
    /// `data` as JSON.
    pub fn text(&self) -> String {
        let message = self.message.as_deref().filter(|m| !m.is_empty()).unwrap_or("(no message)");
        let text = match self.detail() {
            Some(detail) => format!("{message}: {detail}"),
            None => message.to_owned(),
        };
        crate::text::clip(&text, ERROR_TEXT_LIMIT)
    }

    /// [`RpcError::text`] for a log, with the code in front.
    pub fn coded_text(&self) -> String {
        match self.code {
            Some(code) => format!("acp error {code}: {}", self.text()),
            None => format!("acp error ?: {}", self.text()),
        }
    }

    fn detail(&self) -> Option<String> {
        match &self.data {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            data => match data.get("details").and_then(Value::as_str) {
                Some(details) if !details.is_empty() => Some(details.to_owned()),
                _ => Some(data.to_string()),
            },
        }
    }

    fn error_kind(&self) -> Option<&str> {
        self.data.get("errorKind").and_then(Value::as_str)
    }

    /// Whether a failed `session/load` may be followed by `session/new`: every agent words "unknown
    /// session" differently, so everything may except a missing login, which would fail again.
    pub fn allows_fresh_session(&self) -> bool {
        self.code != Some(AUTH_REQUIRED) && !self.error_kind().is_some_and(|kind| kind.starts_with("auth"))
    }

    /// The class, where code or `data.errorKind` tell it.
    pub fn class(&self) -> Option<ErrorClass> {
        if matches!(self.code, Some(AUTH_REQUIRED | 401)) {
            return Some(ErrorClass::Auth);
        }
        match self.error_kind()? {
            "authentication_failed" => Some(ErrorClass::Auth),
            "server_error" => Some(ErrorClass::Transient),
            _ => None,
        }
    }
}

/// Reads one line.
pub fn read(line: &str) -> Incoming {
    let Ok(Value::Object(mut message)) = json::parse_lossy(line.as_bytes()) else { return Incoming::Garbage };
    let mut take = |name: &str| message.get_mut(name).map(Value::take);
    // `"result": null` is an answer; no `result` at all is none.
    let (id, method, result) = (take("id").unwrap_or_default(), take("method").unwrap_or_default(), take("result"));
    let (params, error) = (take("params").unwrap_or_default(), take("error").unwrap_or_default());
    if let Value::String(method) = method {
        return match id {
            Value::Number(n) => Incoming::Request { id: Id::Number(n), method, params },
            Value::String(s) => Incoming::Request { id: Id::Text(s), method, params },
            _ => Incoming::Notification { method, params },
        };
    }
    let Some(id) = own_id(&id) else { return Incoming::Garbage };
    match (error, result) {
        (Value::Null, Some(result)) => Incoming::Answer { id, outcome: Ok(result) },
        (Value::Null, None) => Incoming::Garbage,
        (error, _) => Incoming::Answer { id, outcome: Err(RpcError::from_value(&error)) },
    }
}

/// Our id, as a number or, from agents that know only one kind of either, as one with a fraction or as a text.
fn own_id(id: &Value) -> Option<u64> {
    id.as_u64()
        .or_else(|| id.as_str()?.parse().ok())
        .or_else(|| id.as_f64().filter(|n| n.fract() == 0.0).map(|n| n as u64))
}

#[derive(Serialize)]
struct Outgoing<'a, T: Serialize> {
    jsonrpc: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    method: &'a str,
    params: T,
}

#[derive(Serialize)]
struct Answered<'a, T: Serialize> {
    jsonrpc: &'static str,
    id: &'a Id,
    result: T,
}

#[derive(Serialize)]
struct Refused<'a> {
    jsonrpc: &'static str,
    id: &'a Id,
    error: Refusal<'a>,
}

#[derive(Serialize)]
struct Refusal<'a> {
    code: i64,
    message: &'a str,
}

fn line(message: &impl Serialize) -> Vec<u8> {
    // Serialising strings, numbers and maps with string keys into memory cannot fail.
    let mut bytes = json::to_vec(message).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// A request, with its newline.
pub fn request(id: u64, method: &str, params: impl Serialize) -> Vec<u8> {
    line(&Outgoing { jsonrpc: "2.0", id: Some(id), method, params })
}

/// A notification, with its newline.
pub fn notification(method: &str, params: impl Serialize) -> Vec<u8> {
    line(&Outgoing { jsonrpc: "2.0", id: None, method, params })
}

/// The answer to an agent's request, with its newline.
pub fn answer(id: &Id, result: impl Serialize) -> Vec<u8> {
    line(&Answered { jsonrpc: "2.0", id, result })
}

/// The refusal of an agent's request, with its newline.
pub fn refuse(id: &Id, code: i64, message: &str) -> Vec<u8> {
    line(&Refused { jsonrpc: "2.0", id, error: Refusal { code, message } })
}

/// The refusal of a method that this client does not offer.
pub fn refuse_unknown(id: &Id, method: &str) -> Vec<u8> {
    refuse(id, METHOD_NOT_FOUND, &format!("unknown server request: {}", crate::text::head(method, 120)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ids_of_requests_come_back_as_they_came() {
        for id in ["0", "17", "\"a-1\""] {
            let Incoming::Request { id: read_id, .. } = read(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#))
            else {
                panic!("{id} is a request");
            };
            let text = String::from_utf8(answer(&read_id, json!({}))).unwrap();
            assert_eq!(text, format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{{}}}}\n"));
        }
    }

    #[test]
    fn a_null_result_is_an_answer_and_no_result_is_none() {
        assert_eq!(read(r#"{"id":3,"result":null}"#), Incoming::Answer { id: 3, outcome: Ok(Value::Null) });
        assert_eq!(read(r#"{"id":3}"#), Incoming::Garbage);
        assert_eq!(read(r#"{"id":3,"result":1,"error":null}"#), Incoming::Answer { id: 3, outcome: Ok(json!(1)) });
        assert!(matches!(read(r#"{"id":3,"error":"boom"}"#), Incoming::Answer { id: 3, outcome: Err(_) }));
        for id in ["\"3\"", "3.0"] {
            let answer = Incoming::Answer { id: 3, outcome: Ok(Value::Null) };
            assert_eq!(read(&format!("{{\"id\":{id},\"result\":null}}")), answer);
        }
    }

    #[test]
    fn whatever_is_no_message_is_garbage() {
        for text in
            ["", "hello", "[]", "7", "null", r#"{"id":null,"result":1}"#, r#"{"id":"x","result":1}"#, "{\"id\":"]
        {
            assert_eq!(read(text), Incoming::Garbage, "{text}");
        }
        assert!(matches!(read(r#"{"method":"session/update","id":null}"#), Incoming::Notification { .. }));
    }

    #[test]
    fn details_are_found_wherever_agents_put_them() {
        let text = |v| RpcError::from_value(&v).text();
        assert_eq!(text(json!({"message":"m","data":{"details":"d"}})), "m: d");
        assert_eq!(text(json!({"message":"m","data":{"a":1}})), "m: {\"a\":1}");
        assert_eq!(text(json!("nonsense")), "(no message)");
        assert_eq!(RpcError::from_value(&json!({"code":-3,"message":"m"})).coded_text(), "acp error -3: m");
    }

    #[test]
    fn a_missing_login_is_recognised_by_code_and_by_kind() {
        let error = |v| RpcError::from_value(&v);
        assert_eq!(error(json!({"code":401})).class(), Some(ErrorClass::Auth));
        let kind = error(json!({"code":-32603,"data":{"errorKind":"authentication_failed"}}));
        assert_eq!(kind.class(), Some(ErrorClass::Auth));
        assert!(!kind.allows_fresh_session());
        assert_eq!(error(json!({"code":-32603})).class(), None);
    }
}
