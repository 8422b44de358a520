//! Shows what an agent does, on anything from a colour terminal to a pipe.
//!
//! A state machine from events to bytes, apart from `chat` so that it can be tested without a terminal. All
//! text that comes from an agent or a far side goes through [`neutral`] first.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use super::message::trouble;
use super::output::{neutral, one_line, span, width};
use crate::engine::ports::{TurnReport, TurnStatus, Usage};
use crate::message::{BlockKind, Phase, Status};
use crate::serve::wire::{BlockView, Event};

/// Longest summary of a tool call, in characters.
const SUMMARY: usize = 100;

/// Columns of a line typed behind the live one that still fit on the screen with it.
const LONGEST_TYPED: usize = 40;

/// What the far end of the output can do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// Colours may be used.
    pub colour: bool,
    /// A line may be overwritten.
    pub live: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ink {
    Plain,
    Dim,
    Tool,
    Bad,
}

/// The screen of one conversation.
pub struct Terminal<W> {
    out: W,
    can: Abilities,
    /// Whether the cursor stands behind words of the agent.
    in_text: bool,
    /// Whether any words of the running turn were shown.
    said: bool,
    /// What the line that is overwritten says, while there is one.
    marker: Option<String>,
    drawn: bool,
    since: Option<Instant>,
    tools: u64,
}

impl<W: Write> Terminal<W> {
    /// An empty screen.
    pub fn new(out: W, can: Abilities) -> Self {
        Self { out, can, in_text: false, said: false, marker: None, drawn: false, since: None, tools: 0 }
    }

    /// Shows an event of the conversation's message.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        match event {
            Event::Queued(queued) if queued.ahead > 0 => {
                self.line(Ink::Dim, &format!("(waits; {} before it)", queued.ahead))?;
            }
            Event::Queued(_) => {}
            Event::Started(started) => {
                self.since = Some(Instant::now());
                (self.said, self.tools) = (false, 0);
                if started.attempt > 1 {
                    self.line(Ink::Dim, "(was interrupted and goes on)")?;
                }
                self.mark(&format!("{} works", one_line(&started.runtime, 40)))?;
            }
            Event::Block(block) => self.block(block)?,
            Event::Status(status) => self.status(status)?,
            Event::Approval(request) => {
                let text = format!("waits for permission: {}: {}", request.tool, request.summary);
                self.line(Ink::Bad, &one_line(&text, SUMMARY * 2))?;
            }
            Event::Finished(report) => self.finished(report)?,
        }
        self.out.flush()
    }

    fn block(&mut self, block: &BlockView) -> io::Result<()> {
        match block.kind {
            BlockKind::AssistantText => {
                if let Some(text) = block.text.as_deref().filter(|t| !t.is_empty()) {
                    self.words(text)?;
                }
            }
            BlockKind::ToolUse => {
                self.tools += 1;
                let tool = one_line(block.tool.as_deref().unwrap_or("tool"), 40);
                let summary = one_line(block.summary.as_deref().unwrap_or(""), SUMMARY);
                let colon = if summary.is_empty() { "" } else { ": " };
                self.line(Ink::Tool, &format!("* {tool}{colon}{summary}"))?;
                self.mark(&format!("{tool} runs"))?;
            }
            BlockKind::ToolResult => {
                if block.failed {
                    let summary = one_line(block.summary.as_deref().unwrap_or("no reason given"), SUMMARY);
                    self.line(Ink::Bad, &format!("  failed: {summary}"))?;
                }
                self.mark("works")?;
            }
            BlockKind::Thinking => self.thinking(None)?,
            BlockKind::System | BlockKind::Other => {}
        }
        Ok(())
    }

    fn status(&mut self, status: &Status) -> io::Result<()> {
        match status {
            Status::Thinking { phase: Phase::Started | Phase::Updated, label } => self.thinking(label.as_deref()),
            Status::Thinking { phase: Phase::Stopped, .. } | Status::Typing { .. } => Ok(()),
        }
    }

    /// A marker only: what the agent thinks is not shown. Where there are no markers, a line tells of trouble
    /// that explains a long silence, and nothing else.
    fn thinking(&mut self, label: Option<&str>) -> io::Result<()> {
        let label = one_line(label.unwrap_or("thinks"), 60);
        if !self.can.live && is_trouble(&label) {
            self.line(Ink::Dim, &format!("({label})"))?;
        }
        if self.in_text {
            return Ok(());
        }
        self.mark(&label)
    }

    fn finished(&mut self, report: &TurnReport) -> io::Result<()> {
        // Runtimes that do not stream say everything at the end.
        if let Some(reply) = report.reply.as_deref().filter(|r| !self.said && !r.trim().is_empty()) {
            self.words(reply)?;
        }
        self.end_line()?;
        self.marker = None;
        if let Some(text) = trouble(report) {
            let ink = if report.status == TurnStatus::Cancelled { Ink::Dim } else { Ink::Bad };
            self.line(ink, &one_line(&text, 2_000))?;
        } else if report.status == TurnStatus::NoReply && !self.said {
            self.line(Ink::Dim, "(the agent chose not to reply)")?;
        }
        let mut facts = vec![span(report.ms)];
        if self.tools > 0 {
            facts.push(format!("{} tool call{}", self.tools, if self.tools == 1 { "" } else { "s" }));
        }
        // A turn that asked no model, such as an echo, has nothing to tell.
        if let Some(usage) = report.usage.filter(|u| *u != Usage::default()) {
            facts.push(format!("{} tokens in, {} out", usage.hit.saturating_add(usage.miss), usage.output));
        }
        if let Some(cost) = report.cost_usd.filter(|cost| *cost > 0.0) {
            facts.push(format!("${cost:.4}"));
        }
        self.since = None;
        self.line(Ink::Dim, &format!("-- {}", facts.join(", ")))
    }

    /// Words of the agent, one piece after the other.
    fn words(&mut self, text: &str) -> io::Result<()> {
        self.erase()?;
        self.marker = None;
        let text = neutral(text);
        self.out.write_all(text.as_bytes())?;
        self.in_text = !text.ends_with('\n');
        self.said = true;
        Ok(())
    }

    /// A remark of the program; never mixed with the agent's words on one line.
    pub fn remark(&mut self, text: &str) -> io::Result<()> {
        self.line(Ink::Dim, text)?;
        self.out.flush()
    }

    /// Something that went wrong.
    pub fn alarm(&mut self, text: &str) -> io::Result<()> {
        self.line(Ink::Bad, &neutral(text))?;
        self.out.flush()
    }

    /// Goes to the beginning of a line from behind the `^C` that the terminal shows for an interruption.
    pub fn interrupted(&mut self) -> io::Result<()> {
        if self.drawn {
            return self.erase();
        }
        self.in_text = false;
        self.out.write_all(b"\n")
    }

    /// Puts a line that was typed behind the live one, and with its end has left that behind, where it belongs.
    pub fn typed(&mut self, text: &str) -> io::Result<()> {
        // Longer ones may have wrapped, and nobody knows how many lines they take.
        if self.drawn && width(text) <= LONGEST_TYPED && !text.contains('\n') {
            write!(self.out, "\x1b[A\r\x1b[K> {}\n", neutral(text))?;
        }
        self.drawn = false;
        Ok(())
    }

    /// Shows that a message can be typed.
    pub fn prompt(&mut self) -> io::Result<()> {
        self.erase()?;
        self.end_line()?;
        self.out.write_all(b"> ")?;
        self.out.flush()
    }

    /// Shows a question that the next line answers.
    pub fn ask(&mut self, question: &str) -> io::Result<()> {
        self.end_line()?;
        // Nothing draws over it until something else happens.
        self.marker = None;
        self.ink(Ink::Tool, question)?;
        self.out.flush()
    }

    /// Leaves the terminal at the beginning of a line, behind a prompt or whatever else stands there.
    pub fn leave(&mut self) -> io::Result<()> {
        self.erase()?;
        self.in_text = false;
        self.out.write_all(b"\n")?;
        self.out.flush()
    }

    /// Draws the line anew that says what happens; to be called about once a second.
    pub fn tick(&mut self) -> io::Result<()> {
        if !self.can.live || self.in_text {
            return Ok(());
        }
        let (Some(marker), Some(since)) = (&self.marker, self.since) else { return Ok(()) };
        let text = format!("{marker} ... {}", elapsed(since.elapsed()));
        // It never wraps: only the line on which the cursor stands can be drawn anew.
        self.out.write_all(b"\r\x1b[K\x1b[?7l")?;
        self.drawn = true;
        self.ink(Ink::Dim, &text)?;
        self.out.write_all(b"\x1b[?7h")?;
        self.out.flush()
    }

    /// Whether a tick would show anything.
    pub fn wants_ticks(&self) -> bool {
        self.can.live && self.marker.is_some()
    }

    fn mark(&mut self, text: &str) -> io::Result<()> {
        self.marker = Some(text.to_owned());
        self.tick()
    }

    fn erase(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.drawn) {
            self.out.write_all(b"\r\x1b[K")?;
        }
        Ok(())
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.erase()?;
        if std::mem::take(&mut self.in_text) {
            self.out.write_all(b"\n")?;
        }
        Ok(())
    }

    fn line(&mut self, ink: Ink, text: &str) -> io::Result<()> {
        self.end_line()?;
        self.ink(ink, text)?;
        self.out.write_all(b"\n")
    }

    fn ink(&mut self, ink: Ink, text: &str) -> io::Result<()> {
        let code = match ink {
            Ink::Plain => "",
            Ink::Dim => "\x1b[2m",
            Ink::Tool => "\x1b[36m",
            Ink::Bad => "\x1b[31m",
        };
        if !self.can.colour || code.is_empty() {
            return self.out.write_all(text.as_bytes());
        }
        write!(self.out, "{code}{text}\x1b[0m")
    }

    /// Text of the program in the ordinary colour.
    pub fn plain(&mut self, text: &str) -> io::Result<()> {
        for line in text.lines() {
            self.line(Ink::Plain, line)?;
        }
        self.out.flush()
    }
}

/// Whether a status says that the service behind the agent has to be asked again.
fn is_trouble(label: &str) -> bool {
    label.starts_with("Retrying") || label.starts_with("Reconnecting")
}

fn elapsed(time: Duration) -> String {
    match time.as_secs() {
        s @ 0..60 => format!("{s} s"),
        s => format!("{} min {} s", s / 60, s % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::wire::{Queued, Started};

    fn block(kind: BlockKind, text: Option<&str>, tool: Option<&str>, summary: Option<&str>, failed: bool) -> Event {
        let own = |s: Option<&str>| s.map(ToOwned::to_owned);
        Event::Block(BlockView { seq: 1, kind, text: own(text), tool: own(tool), summary: own(summary), failed })
    }

    fn report(status: TurnStatus, reply: Option<&str>) -> Event {
        Event::Finished(Box::new(TurnReport {
            turn_id: "t".into(),
            message_ids: vec!["m".into()],
            channel: "local".into(),
            agent: "local".into(),
            conversation: "c".into(),
            runtime: "echo".into(),
            session_id: None,
            status,
            reply: reply.map(ToOwned::to_owned),
            error: None,
            blocks: 0,
            ms: 1_500,
            usage: None,
            cost_usd: Some(0.021),
            class: None,
        }))
    }

    fn shown(can: Abilities, events: &[Event]) -> String {
        let mut screen = Terminal::new(Vec::new(), can);
        for event in events {
            screen.event(event).unwrap();
        }
        String::from_utf8(screen.out).unwrap()
    }

    fn started() -> Event {
        Event::Started(Started { turn_id: "t".into(), runtime: "codex".into(), attempt: 1 })
    }

    #[test]
    fn a_turn_on_a_dumb_terminal() {
        let events = [
            Event::Queued(Queued { ahead: 1 }),
            started(),
            block(BlockKind::Thinking, None, None, None, false),
            block(BlockKind::Thinking, None, None, None, false),
            block(BlockKind::AssistantText, Some("I "), None, None, false),
            block(BlockKind::AssistantText, Some("look"), None, None, false),
            block(BlockKind::ToolUse, None, Some("Bash"), Some("ls -l"), false),
            block(BlockKind::ToolResult, None, None, Some("no such file"), true),
            block(BlockKind::AssistantText, Some("done\n"), None, None, false),
            report(TurnStatus::Ok, Some("done")),
        ];
        assert_eq!(
            shown(Abilities::default(), &events),
            "(waits; 1 before it)\nI look\n* Bash: ls -l\n  failed: no such file\ndone\n-- 1.5 s, 1 tool call, $0.0210\n"
        );
    }

    #[test]
    fn without_a_live_line_only_trouble_is_told() {
        let status = |label: &str| Event::Status(Status::thinking(Phase::Updated, label));
        let events = [
            started(),
            status("Starting session"),
            status("Retrying (529), attempt 1/10"),
            status("Bash"),
            report(TurnStatus::Ok, Some("hello")),
        ];
        let text = shown(Abilities::default(), &events);
        assert_eq!(text, "(Retrying (529), attempt 1/10)\nhello\n-- 1.5 s, $0.0210\n");
    }

    #[test]
    fn a_reply_that_was_not_streamed_is_shown_once() {
        let text = shown(Abilities::default(), &[started(), report(TurnStatus::Ok, Some("hello"))]);
        assert_eq!(text, "hello\n-- 1.5 s, $0.0210\n");
    }

    #[test]
    fn an_agent_cannot_steer_the_terminal() {
        let events = [
            started(),
            block(BlockKind::AssistantText, Some("\u{1b}]52;c;eA==\u{7}"), None, None, false),
            block(BlockKind::ToolUse, None, Some("x\u{1b}[2J"), Some("a\nb"), false),
        ];
        let text = shown(Abilities::default(), &events);
        assert!(!text.contains('\u{1b}') && !text.contains('\u{7}'), "{text:?}");
        assert!(text.contains("* x^[[2J: a b"), "{text:?}");
    }

    #[test]
    fn a_live_line_is_gone_before_words_come() {
        let can = Abilities { colour: false, live: true };
        let text = shown(can, &[started(), block(BlockKind::AssistantText, Some("hi"), None, None, false)]);
        assert_eq!(text, "\r\x1b[K\x1b[?7lcodex works ... 0 s\x1b[?7h\r\x1b[Khi");
    }

    #[test]
    fn a_line_typed_behind_the_live_one_takes_its_place() {
        let mut screen = Terminal::new(Vec::new(), Abilities { colour: false, live: true });
        screen.event(&started()).unwrap();
        screen.out.clear();
        screen.typed("/status").unwrap();
        screen.plain("fine").unwrap();
        assert_eq!(String::from_utf8(screen.out).unwrap(), "\x1b[A\r\x1b[K> /status\nfine\n");
    }

    #[test]
    fn no_colour_means_no_escape_at_all() {
        let text = shown(Abilities::default(), &[started(), report(TurnStatus::Timeout, None)]);
        assert_eq!(text, "the turn ran out of time\n-- 1.5 s, $0.0210\n");
        let coloured = shown(Abilities { colour: true, live: false }, &[report(TurnStatus::Timeout, None)]);
        assert!(coloured.starts_with("\x1b[31mthe turn ran out of time\x1b[0m\n"));
    }
}
