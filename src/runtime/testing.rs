//! Shared by the unit tests of the adapters.

use std::time::Duration;

use crate::engine::cancel::{CancelReason, CancelToken};
use crate::engine::ports::{Approval, ApprovalRequest, ProcessId, RunRequest, RunSink, Thrown};
use crate::message::{Block, Budget, ConversationKind, Status, TrustLevel};
use crate::runtime::process::Ended;

/// A request with these words.
pub(crate) fn request(text: &str) -> RunRequest {
    RunRequest {
        turn_id: "turn_1".into(),
        message_id: "m_1".into(),
        room_id: "rm_1".into(),
        topic_id: None,
        channel: "ag_1".into(),
        conversation_kind: ConversationKind::Group,
        agent: "ag_1".into(),
        text: text.into(),
        session: None,
        cwd: std::env::temp_dir(),
        hub_url: None,
        wait_file: None,
        extra_args: Vec::new(),
        trust: TrustLevel::Trusted,
        from_owner: false,
        system_context: None,
        system_rules: Vec::new(),
        budget: Budget::default(),
        gateway: None,
        hermes_profile: None,
        env: Vec::new(),
        attachments: Vec::new(),
    }
}

/// The end of a process that nobody stopped.
pub(crate) fn ended(exit_code: Option<i32>, signal: Option<i32>, stderr: &str) -> Ended {
    Ended {
        exit_code,
        signal,
        stopped: None,
        given_up: false,
        stderr_tail: stderr.into(),
        stdout_tail: String::new(),
        skipped_lines: 0,
        duration: Duration::from_millis(1),
    }
}

/// Keeps what a run reports, and may cancel it at a block.
#[derive(Default)]
pub(crate) struct Recorder {
    pub(crate) sessions: Vec<String>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) cancel_at: Option<(usize, CancelToken)>,
}

impl RunSink for Recorder {
    fn begin(&mut self) -> Result<(), Thrown> {
        Ok(())
    }

    fn spawned(&mut self, _: ProcessId) {}

    fn session(&mut self, id: &str) {
        self.sessions.push(id.into());
    }

    fn block(&mut self, block: Block) {
        self.blocks.push(block);
        if let Some((count, token)) = &self.cancel_at
            && self.blocks.len() >= *count
        {
            token.cancel(CancelReason::User);
        }
    }

    fn status(&mut self, _: Status) {}

    fn approval(&mut self, _: ApprovalRequest) -> Option<Approval> {
        None
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        None
    }
}
