//! A request for a run, and a sink that keeps what the run reports.

use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Approval, ApprovalRequest, ProcessId, RunRequest, RunSink, Thrown};
use bellhop::message::{Block, Budget, ConversationKind, Status, TrustLevel};

/// A message of a known party in a group.
pub fn request(text: &str) -> RunRequest {
    RunRequest {
        turn_id: format!("turn_{}_{:x}", std::process::id(), fresh_number()),
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

/// A number that no other call of this process gets.
pub fn fresh_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

/// Keeps everything; cancels the run at a block when told to.
#[derive(Default)]
pub struct Recorder {
    /// Processes that were started.
    pub spawned: Vec<ProcessId>,
    /// Those that had given their reply and went on.
    pub lingering: Vec<ProcessId>,
    /// Sessions that were announced.
    pub sessions: Vec<String>,
    /// Blocks in order.
    pub blocks: Vec<Block>,
    /// How often the run has asked whether it may begin.
    pub begun: usize,
    /// Answer that it may not.
    pub refuses: bool,
    /// Status events in order.
    pub statuses: Vec<Status>,
    /// Set this token when so many blocks have come.
    pub cancel_at: Option<(usize, CancelToken)>,
    /// What requests for permission are answered at once; without it they wait for [`Recorder::decisions`].
    pub approve: Option<Approval>,
    /// Decide so once the request waits, and wake this token.
    pub later: Option<(Approval, CancelToken)>,
    /// Requests for permission in order.
    pub questions: Vec<ApprovalRequest>,
    /// Processes of earlier turns that run this one.
    pub served_by: Vec<String>,
    /// What a session that had to start anew is told.
    pub recovery: Option<String>,
    /// Decisions that have come, in order.
    pub decisions: Vec<(String, Approval)>,
}

impl RunSink for Recorder {
    fn begin(&mut self) -> Result<(), Thrown> {
        self.begun += 1;
        if self.refuses { Err(Thrown::new("refused")) } else { Ok(()) }
    }

    fn spawned(&mut self, process: ProcessId) {
        self.spawned.push(process);
    }

    fn lingers(&mut self, process: ProcessId) {
        self.lingering.push(process);
    }

    fn session(&mut self, id: &str) {
        self.sessions.push(id.into());
    }

    fn block(&mut self, block: Block) {
        self.blocks.push(block);
        if let Some((count, token)) = &self.cancel_at
            && self.blocks.len() == *count
        {
            token.cancel(CancelReason::User);
        }
    }

    fn status(&mut self, status: Status) {
        self.statuses.push(status);
    }

    fn approval(&mut self, question: ApprovalRequest) -> Option<Approval> {
        if let Some((decision, token)) = &self.later {
            self.decisions.push((question.id.clone(), decision.clone()));
            token.wake();
        }
        self.questions.push(question);
        self.approve.clone()
    }

    fn recovery_text(&mut self) -> Option<String> {
        self.recovery.clone()
    }

    fn served_by(&mut self, name: &str) -> Option<String> {
        self.served_by.push(name.to_owned());
        Some(format!("pass of {name}"))
    }

    fn decision(&mut self) -> Option<(String, Approval)> {
        (!self.decisions.is_empty()).then(|| self.decisions.remove(0))
    }
}
