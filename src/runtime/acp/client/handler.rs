//! What the process of a turn tells: lines, the clock, decisions, and the wish to stop.

use std::time::Instant;

use super::{INITIALIZE_LIMIT, SESSION_LIMIT, State, Turn};
use crate::engine::ports::{Approval, ErrorClass};
use crate::runtime::acp::messages::SessionParams;
use crate::runtime::acp::rpc::{self, Incoming};
use crate::runtime::process::{Handler, Io};

impl Handler for Turn<'_> {
    fn line(&mut self, line: &str, io: &mut Io) {
        let incoming = rpc::read(line);
        self.trace.received(line, &incoming);
        match incoming {
            Incoming::Answer { id, outcome } if id == self.awaited => self.answered(outcome, io),
            Incoming::Request { id, method, params } => self.asked(id, &method, &params, io),
            Incoming::Notification { method, params } if method == "session/update" => self.updated(params),
            Incoming::Answer { .. } | Incoming::Notification { .. } | Incoming::Garbage => {}
        }
    }

    fn line_after_stop(&mut self, line: &str, io: &mut Io) {
        let incoming = rpc::read(line);
        self.trace.received(line, &incoming);
        match incoming {
            Incoming::Notification { method, params } if method == "session/update" => self.updated(params),
            Incoming::Answer { id, .. } if id == self.awaited => {
                self.state = State::Done;
                io.close_stdin();
            }
            Incoming::Request { id, method, params } => self.asked(id, &method, &params, io),
            _ => {}
        }
    }

    fn stderr_line(&mut self, line: &str, _: &mut Io) {
        self.trace.stderr(line);
    }

    fn tick(&mut self, io: &mut Io) {
        let now = Instant::now();
        if self.held_until <= now {
            self.held = None;
        }
        if self.deadline.is_none_or(|deadline| now < deadline) {
            self.set_alarm(io);
            return;
        }
        let limit = |limit: std::time::Duration| format!("within {} s", limit.as_secs());
        match self.state {
            State::Late => self.close(io),
            // An agent that hangs on an old session may still make a new one.
            State::Load => {
                log::warn!("acp.load_unanswered runtime={}", self.plan.runtime);
                self.open_new(io);
            }
            State::Mode => self.set_model(io),
            State::Model => self.prompt(io),
            State::Initialize => {
                let message = format!("{} did not answer initialize {}", self.plan.runtime, limit(INITIALIZE_LIMIT));
                self.fail(message, Some(ErrorClass::Protocol), io);
            }
            State::New => {
                let message = format!("{} did not answer session/new {}", self.plan.runtime, limit(SESSION_LIMIT));
                self.fail(message, Some(ErrorClass::Protocol), io);
            }
            State::Done => io.pause(),
            State::Start | State::Prompt => self.arm(None, io),
        }
    }

    fn woken(&mut self, io: &mut Io) {
        if self.state == State::Start {
            self.begin(io);
        }
        while let Some((question, approval)) = self.sink.decision() {
            let Some(at) = self.pending.iter().position(|p| p.question == question) else { continue };
            let pending = self.pending.swap_remove(at);
            self.decide(&pending.id, &pending.request, approval == Approval::Allow, io);
        }
    }

    fn interrupt(&mut self, io: &mut Io) -> bool {
        self.stopping = true;
        self.held = None;
        let Some(session) = self.session.clone().filter(|_| self.state == State::Prompt) else { return false };
        for pending in std::mem::take(&mut self.pending) {
            self.answer_cancelled(&pending.id, io);
        }
        let line = rpc::notification("session/cancel", SessionParams { session_id: &session });
        self.reply(line, io);
        true
    }

    fn busy(&self) -> bool {
        !self.pending.is_empty()
    }
}
