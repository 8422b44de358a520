//! `echo`: built in, answers with the prompt. For trying out everything but an agent.

use serde_json::json;

use crate::engine::cancel::CancelToken;
use crate::engine::ports::{RunRequest, RunResult, RunSink, Runtime, Thrown, Usage};
use crate::message::{Block, BlockKind, Phase, Status};
use crate::runtime::digest;
use crate::runtime::ndjson::aborted;
use crate::runtime::outcome::{MAX_TEXT, cap};

/// Registered id.
pub const ID: &str = "echo";

/// Said first by an echo that stands in for an agent.
pub const NO_AGENT: &str = "No agent CLI was found on this machine, so bellhop only repeats what you say: install \
                            one (Claude Code with `npm install -g @anthropic-ai/claude-code`, for example), run it \
                            once to log in, and start bellhop again.";

/// The built-in runtime.
#[derive(Clone, Copy, Debug, Default)]
pub struct Echo {
    /// It was chosen because nothing better was found, and says so.
    pub stands_in: bool,
}

impl Runtime for Echo {
    fn id(&self) -> &str {
        ID
    }

    fn run(&self, request: &RunRequest, cancel: &CancelToken, sink: &mut dyn RunSink) -> Result<RunResult, Thrown> {
        if cancel.is_cancelled() {
            return Ok(aborted(request, format!("{ID} aborted before spawn")));
        }
        let resumed = request.session.as_ref().map(|s| s.id.clone()).filter(|id| !id.is_empty());
        let session = resumed.unwrap_or_else(|| format!("echo-{}", request.turn_id));
        sink.session(&session);
        sink.status(Status::thinking(Phase::Started, "Starting session"));
        let said = cap(&request.text, MAX_TEXT);
        let text = if self.stands_in { format!("{NO_AGENT}\n\n{said}") } else { said.to_owned() };
        sink.status(Status::stopped());
        let raw = json!({"type": "assistant", "text": text});
        sink.block(Block { kind: BlockKind::AssistantText, seq: 1, raw, digest: digest::words(&text) });
        // A sink may cancel when it sees a block.
        if cancel.is_cancelled() {
            return Ok(RunResult { new_session_id: session, ..aborted(request, format!("{ID} aborted")) });
        }
        Ok(RunResult { text, new_session_id: session, usage: Some(Usage::default()), ..RunResult::default() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::cancel::CancelReason;
    use crate::engine::ports::ResumedSession;
    use crate::runtime::testing::{Recorder, request};

    #[test]
    fn it_answers_with_the_prompt_in_a_session() {
        let token = CancelToken::new().unwrap();
        let mut sink = Recorder::default();
        let mut request = request("hello");
        let result = Echo::default().run(&request, &token, &mut sink).unwrap();
        assert_eq!(result.text, "hello");
        assert_eq!(sink.sessions, std::slice::from_ref(&result.new_session_id));
        assert_eq!(sink.blocks[0].digest.text.as_deref(), Some("hello"));
        request.session = Some(ResumedSession { id: "old".into(), ..ResumedSession::default() });
        assert_eq!(Echo::default().run(&request, &token, &mut sink).unwrap().new_session_id, "old");
    }

    #[test]
    fn only_a_stand_in_says_so() {
        let token = CancelToken::new().unwrap();
        let echo = Echo { stands_in: true };
        let text = echo.run(&request("hello"), &token, &mut Recorder::default()).unwrap().text;
        assert!(text.starts_with(NO_AGENT) && text.ends_with("\n\nhello"));
    }

    #[test]
    fn it_can_be_cancelled() {
        let token = CancelToken::new().unwrap();
        let mut sink = Recorder { cancel_at: Some((1, token.clone())), ..Recorder::default() };
        let result = Echo::default().run(&request("hello"), &token, &mut sink).unwrap();
        assert_eq!(result.error.unwrap().message, "echo aborted");
        assert_eq!(token.reason(), Some(CancelReason::User));
        let result = Echo::default().run(&request("hello"), &token, &mut sink).unwrap();
        assert_eq!(result.error.unwrap().message, "echo aborted before spawn");
    }
}
