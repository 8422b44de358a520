//! The event stream of DeepSeek's server: frames, and what each means for a turn.

use serde_json::Value;

use crate::json;
use crate::message::{BlockKind, Digest, Phase, Status};

/// Largest frame that is read, in bytes; a larger one ends the stream with an error.
pub const FRAME_LIMIT: usize = 16 * 1_048_576;

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// Name from the `event:` line; `message` without one.
    pub event: String,
    /// The `data:` lines as JSON; `{"content": …}` where they are none.
    pub data: Value,
}

impl Frame {
    /// Reads the lines between two empty lines. `None`: no data (a comment that keeps the connection alive).
    pub fn parse(text: &str) -> Option<Self> {
        let mut event = "message";
        let mut data: Option<String> = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("event:") {
                event = name.trim();
            } else if let Some(more) = line.strip_prefix("data:") {
                let more = more.strip_prefix(' ').unwrap_or(more);
                match &mut data {
                    Some(data) => {
                        data.push('\n');
                        data.push_str(more);
                    }
                    None => data = Some(more.to_owned()),
                }
            }
        }
        let data = data?;
        let data = json::parse_lossy(data.as_bytes()).unwrap_or_else(|_| serde_json::json!({ "content": data }));
        Some(Self { event: event.to_owned(), data })
    }

    fn payload(&self) -> &Value {
        self.data.get("payload").filter(|p| p.is_object()).unwrap_or(&self.data)
    }

    /// The turn it belongs to, where it says so.
    pub fn turn_id(&self) -> Option<&str> {
        [&self.data, self.payload()].iter().find_map(|at| at.get("turn_id")?.as_str())
    }

    /// Its number in the thread.
    pub fn seq(&self) -> Option<u64> {
        self.data.get("seq").and_then(Value::as_u64)
    }

    /// Whether it is called `name`, by the stream or inside.
    fn is(&self, name: &str) -> bool {
        self.names().any(|n| n == name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        let inner = |at: &'static str| self.data.pointer(at).and_then(Value::as_str);
        [Some(self.event.as_str()), inner("/event"), inner("/payload/event")].into_iter().flatten()
    }

    /// Whether the turn is over with it.
    pub fn is_terminal(&self) -> bool {
        ["turn.completed", "turn.finished", "turn.done", "done"].iter().any(|name| self.is(name))
    }

    /// Id of the approval that is asked for.
    pub fn approval_id(&self) -> Option<&str> {
        if !self.is("approval.required") {
            return None;
        }
        let payload = self.payload();
        let ids = [
            payload.get("approval_id"),
            payload.get("id"),
            payload.pointer("/approval/id"),
            self.data.get("approval_id"),
        ];
        ids.into_iter().flatten().find_map(Value::as_str)
    }

    /// The failure that it reports, of a tool or of the turn.
    pub fn error(&self) -> Option<String> {
        if self.event != "item.failed" {
            return self.turn_error();
        }
        let payload = self.payload();
        let item = payload.get("item").unwrap_or(payload);
        first_text(item, &["detail", "summary", "error"]).or_else(|| Some("item failed".to_owned()))
    }

    /// The failure of the turn: a failed tool is none.
    pub fn turn_error(&self) -> Option<String> {
        let payload = self.payload();
        if self.event == "error" {
            return first_text(payload, &["message", "error"]).or_else(|| Some("DeepSeek error".to_owned()));
        }
        if !self.is_terminal() {
            return None;
        }
        let turn = payload.get("turn").unwrap_or(payload);
        if let Some(text) = first_text(turn, &["error"]) {
            return Some(text);
        }
        match turn.get("status").and_then(Value::as_str) {
            None | Some("completed") => None,
            Some(status) => Some(format!("DeepSeek turn {status}")),
        }
    }
}

fn first_text(at: &Value, names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| match at.get(name)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.clone()),
        Value::Object(error) => error.get("message")?.as_str().map(str::to_owned),
        _ => None,
    })
}

/// What a frame means.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    /// Block to show.
    pub kind: Option<BlockKind>,
    /// Words of the agent.
    pub text: Option<String>,
    /// Change of status.
    pub status: Option<Status>,
    /// A tool call has ended.
    pub tool_finished: bool,
    /// It marks reasoning in progress, of which at most one block in 4 s is shown.
    pub reasoning_delta: bool,
    /// For people.
    pub digest: Digest,
}

const TOOL_KINDS: [&str; 3] = ["tool_call", "command_execution", "file_change"];

/// Reads a frame of the turn.
pub fn meaning(frame: &Frame) -> Meaning {
    let payload = frame.payload();
    let kind = payload.get("kind").and_then(Value::as_str);
    let item_kind = payload.pointer("/item/kind").and_then(Value::as_str);
    let is_tool = item_kind.is_some_and(|k| TOOL_KINDS.contains(&k));
    match frame.event.as_str() {
        "message.delta" => words(payload.get("content")),
        "item.delta" if kind == Some("agent_message") => words(payload.get("delta")),
        "item.delta" if kind == Some("agent_reasoning") => {
            Meaning { kind: Some(BlockKind::Thinking), reasoning_delta: true, ..Meaning::default() }
        }
        "item.completed" if item_kind == Some("agent_reasoning") => {
            Meaning { kind: Some(BlockKind::Thinking), ..Meaning::default() }
        }
        "tool.started" => tool_started(payload),
        "item.started" if is_tool || payload.get("tool").is_some() => tool_started(payload),
        "tool.completed" => tool_finished(payload, false),
        "item.completed" | "item.failed" if is_tool => tool_finished(payload, frame.event == "item.failed"),
        "status" => Meaning { kind: Some(BlockKind::System), ..Meaning::default() },
        "error" => Meaning { kind: Some(BlockKind::Other), ..Meaning::default() },
        _ if frame.is_terminal() => {
            Meaning { kind: Some(BlockKind::Other), status: Some(Status::stopped()), ..Meaning::default() }
        }
        _ if frame.is("turn.started") => Meaning {
            kind: Some(BlockKind::System),
            status: Some(Status::thinking(Phase::Started, "Thinking")),
            ..Meaning::default()
        },
        _ => Meaning::default(),
    }
}

fn words(text: Option<&Value>) -> Meaning {
    let text = text.and_then(Value::as_str).map(str::to_owned);
    let digest = Digest { text: text.clone(), ..Digest::default() };
    Meaning { kind: Some(BlockKind::AssistantText), text, digest, ..Meaning::default() }
}

fn tool_started(payload: &Value) -> Meaning {
    let name = tool_name(payload);
    Meaning {
        kind: Some(BlockKind::ToolUse),
        status: Some(Status::thinking(Phase::Updated, name.clone())),
        digest: Digest { tool: Some(name), summary: summary(payload), ..Digest::default() },
        ..Meaning::default()
    }
}

fn tool_finished(payload: &Value, failed: bool) -> Meaning {
    Meaning {
        kind: Some(BlockKind::ToolResult),
        tool_finished: true,
        digest: Digest { tool: Some(tool_name(payload)), summary: summary(payload), failed, ..Digest::default() },
        ..Meaning::default()
    }
}

fn summary(payload: &Value) -> Option<String> {
    let item = payload.get("item")?;
    let text = first_text(item, &["summary", "detail"])?;
    let line = crate::text::head(&text, 800).split_whitespace().collect::<Vec<_>>().join(" ");
    Some(crate::text::clip(&line, 200))
}

/// The tool's name: given, or the first word of an item's description where it reads like one.
fn tool_name(payload: &Value) -> String {
    let given = [payload.get("name"), payload.pointer("/tool/name"), payload.pointer("/payload/tool/name")];
    let given = given.into_iter().flatten().find_map(Value::as_str).map(str::trim).filter(|n| !n.is_empty());
    let described = || {
        let item = payload.get("item")?;
        ["summary", "detail"].iter().find_map(|name| name_in_description(item.get(name)?.as_str()?))
    };
    let name = given.or_else(described).unwrap_or("tool");
    crate::text::head(name, 80).to_owned()
}

fn name_in_description(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let end = text.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '-' | '.')))?;
    let (name, rest) = text.split_at(end);
    let next = rest.split_whitespace().next().unwrap_or_default();
    let verb = next.trim_end_matches(|c: char| !c.is_alphanumeric());
    let fits = rest.starts_with(':') || matches!(verb, "started" | "completed" | "failed" | "returned");
    (fits && !name.is_empty()).then_some(name)
}

/// Cuts a byte stream into frames.
#[derive(Debug, Default)]
pub struct Splitter {
    buffer: Vec<u8>,
    /// Up to here no empty line was found.
    searched: usize,
}

/// A frame was larger than [`FRAME_LIMIT`].
#[derive(Debug, PartialEq, Eq)]
pub struct FrameTooLarge;

impl Splitter {
    /// More bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), FrameTooLarge> {
        if self.buffer.len() + bytes.len() > FRAME_LIMIT {
            return Err(FrameTooLarge);
        }
        self.buffer.extend(bytes.iter().filter(|b| **b != b'\r'));
        Ok(())
    }

    /// The next frame that is complete and has data.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let from = self.searched.saturating_sub(1);
            let Some(at) = self.buffer[from..].windows(2).position(|w| w == b"\n\n") else {
                self.searched = self.buffer.len();
                return None;
            };
            let end = from + at;
            let text = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
            self.buffer.drain(..end + 2);
            self.searched = 0;
            if let Some(frame) = Frame::parse(&text) {
                return Some(frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn frames_are_found_however_the_stream_is_cut() {
        let stream = "event: a\r\ndata: {\"n\":1}\r\n\r\n: ping\n\nevent: b\ndata: {\"n\":\ndata: 2}\n\ndata: x";
        for size in 1..stream.len() {
            let mut splitter = Splitter::default();
            let mut frames = Vec::new();
            for chunk in stream.as_bytes().chunks(size) {
                splitter.push(chunk).unwrap();
                frames.extend(std::iter::from_fn(|| splitter.next_frame()));
            }
            let read: Vec<_> = frames.iter().map(|f| (f.event.as_str(), &f.data["n"])).collect();
            assert_eq!(read, [("a", &json!(1)), ("b", &json!(2))], "chunks of {size}");
        }
    }

    #[test]
    fn a_failed_tool_is_not_a_failed_turn() {
        let frame =
            Frame { event: "item.failed".into(), data: json!({"payload":{"item":{"kind":"tool_call","detail":"d"}}}) };
        assert_eq!(frame.error().as_deref(), Some("d"));
        assert_eq!(frame.turn_error(), None);
        assert!(meaning(&frame).digest.failed);
    }

    #[test]
    fn names_are_read_from_descriptions() {
        assert_eq!(name_in_description("shell: ls -l"), Some("shell"));
        assert_eq!(name_in_description("read_file completed."), Some("read_file"));
        assert_eq!(name_in_description("Running the tests"), None);
        assert_eq!(name_in_description(""), None);
    }

    #[test]
    fn an_embedded_name_counts() {
        let frame = Frame { event: "message".into(), data: json!({"payload":{"event":"turn.done"}}) };
        assert!(frame.is_terminal());
        assert_eq!(meaning(&frame).kind, Some(BlockKind::Other));
    }
}
