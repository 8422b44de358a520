//! `bellhop chat`: a conversation in the terminal.
//!
//! Three threads feed one loop: lines from standard input, signals, and for each message one that watches its
//! events. With a terminal, lines are handed over as they are typed, also while a turn runs; from a pipe, each
//! line waits for the end of the one before.

mod input;
mod spent;

use std::collections::VecDeque;
use std::io::{self, IsTerminal, Stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, after, bounded, never, select_biased};
use signal_hook::consts::SIGINT;

use self::input::{Line, TEXT_LIMIT, lines, pasted};
use self::spent::Spent;
use super::Context;
use super::args::Parsed;
use super::connect::{self, Connection};
use super::exit::Exit;
use super::failure::Failure;
use super::message::{attachment, exit_of, from_options, standing_answer, unseen};
use super::output;
use super::signals;
use super::status;
use super::terminal::{Abilities, Terminal};
use crate::config::{Home, load};
use crate::engine::ports::TurnStatus;
use crate::serve::client::{Client, ClientError};
use crate::serve::wire::{
    Accepted, AnswerApproval, Cancel, Decision, ErrorKind, Event, FILES_LIMIT, Question, ResetSessions, Submit,
};
use crate::thread;

/// A second interruption within this time leaves.
const TWICE: Duration = Duration::from_secs(2);

/// Lines read ahead, and events not yet shown. Both readers wait when it is full.
const AHEAD: usize = 256;

const HELP: &str = "\
/cancel     cancel what runs and waits in this conversation
/file PATH  send this file with the next message
/new        begin afresh with the next message
/reset      forget the session now
/usage      show tokens and cost of this chat so far
/status     show what the daemon does
/help       show this
/quit       leave (so does end of input)
A line that ends with \\ goes on in the next one. Control-C cancels the running turn.";

type Progress = (String, Result<Event, ClientError>);

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let template = from_options(args)?;
    let signals = signals::channel()?;
    let interactive = io::stdin().is_terminal();
    let stdout = io::stdout();
    let can = Abilities { colour: output::wants_colour(&stdout), live: interactive && output::is_live(&stdout) };
    let connection = connect::daemon_or_engine(&context.home, context.host, || context.config())?;
    let (sender, events) = bounded(AHEAD);
    let mut chat = Chat {
        client: connection.client.clone(),
        screen: Terminal::new(stdout, can),
        interactive,
        template,
        open: Vec::new(),
        shown: VecDeque::new(),
        sender,
        interrupted: None,
        standing: standing_answer(args),
        questions: VecDeque::new(),
        spent: Spent::default(),
        failed: false,
        echo_noted: false,
    };
    if interactive {
        chat.greet(&connection, &context.home)?;
    }
    let exit = chat.talk(&lines()?, &signals, &events);
    let left = chat.leave(&connection);
    // Whoever is impatient from here on must not end an engine of our own before what runs in it.
    drop(signals);
    let exit = exit?;
    left.map(|()| exit)
}

struct Chat {
    client: Client,
    screen: Terminal<Stdout>,
    interactive: bool,
    template: Submit,
    /// Messages whose end has not come.
    open: Vec<Open>,
    /// Turns whose progress is shown already under another message (several may share one).
    shown: VecDeque<(String, String)>,
    sender: Sender<Progress>,
    interrupted: Option<Instant>,
    /// How every tool call that waits for permission is answered.
    standing: Option<AnswerApproval>,
    /// Questions that the next lines answer, with their messages.
    questions: VecDeque<(String, Question)>,
    spent: Spent,
    failed: bool,
    echo_noted: bool,
}

struct Open {
    id: String,
    conversation: String,
    /// Its turn's progress is shown under another message.
    silent: bool,
}

/// What a typed line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Typed {
    Message(String),
    Cancel,
    File(String),
    New,
    Reset,
    Usage,
    Status,
    Help,
    Quit,
    Nothing,
}

impl Typed {
    /// Only the commands that there are are taken: any other text reaches the agent as it is.
    fn of(text: String) -> Self {
        match text.trim() {
            "" => Self::Nothing,
            "/cancel" => Self::Cancel,
            "/new" => Self::New,
            "/reset" => Self::Reset,
            "/usage" => Self::Usage,
            "/status" => Self::Status,
            "/help" => Self::Help,
            "/quit" | "/exit" => Self::Quit,
            "/file" => Self::File(String::new()),
            line => match line.strip_prefix("/file ").filter(|path| !path.contains('\n')) {
                Some(path) => Self::File(path.trim().to_owned()),
                None => Self::Message(text),
            },
        }
    }
}

impl Chat {
    fn greet(&mut self, connection: &Connection, home: &Home) -> Result<(), Failure> {
        let agent = self.template.agent.as_deref().unwrap_or("The agent");
        let place = self.place(home).map(|dir| format!(" works in {}", dir.display())).unwrap_or_default();
        let end = if connection.is_in_process() { " No daemon runs, so it ends with this chat." } else { "" };
        self.screen.remark(&output::neutral(&format!("{agent}{place}.{end} /help for help.")))?;
        Ok(())
    }

    /// Where the agent works, as far as can be told from here.
    fn place(&self, home: &Home) -> Option<PathBuf> {
        let named = self.template.agent.as_deref();
        let own = || {
            let agents = load::load(&home.config()).ok()?.local_agents;
            agents.into_iter().find(|agent| named.is_none_or(|name| agent.name == name))?.cwd
        };
        self.template.cwd.clone().or_else(own).or_else(|| self.template.typed_in.clone())
    }

    /// The loop: until end of input, `/quit`, or a second interruption.
    fn talk(
        &mut self,
        lines: &Receiver<Line>,
        signals: &Receiver<i32>,
        events: &Receiver<Progress>,
    ) -> Result<Exit, Failure> {
        let mut ended = false;
        let mut prompted = false;
        loop {
            if self.open.is_empty() {
                if ended {
                    return Ok(if self.failed && !self.interactive { Exit::Failed } else { Exit::Ok });
                }
                if self.interactive && !prompted {
                    self.screen.prompt()?;
                    prompted = true;
                }
            }
            // A pipe's next line waits until the message before it is answered.
            let may_read = !ended && (self.interactive || self.open.is_empty());
            let nothing = never();
            let input = if may_read { lines } else { &nothing };
            let tick = if self.screen.wants_ticks() { after(Duration::from_secs(1)) } else { never() };
            select_biased! {
                recv(signals) -> signal => {
                    if signal != Ok(SIGINT) || !self.interrupt()? {
                        return Ok(if self.interactive { Exit::Ok } else { Exit::Failed });
                    }
                    prompted = false;
                }
                recv(events) -> event => if let Ok((id, event)) = event {
                    self.event(&id, event)?;
                    prompted = false;
                },
                recv(input) -> line => match line {
                    Ok(Line::Text(text)) => {
                        prompted = false;
                        let text = if self.interactive { pasted(text, lines) } else { text };
                        self.screen.typed(&text)?;
                        if !self.line(text)? {
                            return Ok(Exit::Ok);
                        }
                    }
                    Ok(Line::TooLong) => {
                        self.failed = true;
                        self.screen.alarm(&format!("a line of more than {TEXT_LIMIT} bytes is not sent"))?;
                    }
                    Ok(Line::Unreadable(why)) => {
                        self.failed = true;
                        ended = true;
                        self.screen.alarm(&format!("standard input cannot be read: {why}"))?;
                    }
                    // A person who has ended the input has left; a pipe has asked all that it wants answered.
                    Err(_) if self.interactive => return Ok(Exit::Ok),
                    Err(_) => ended = true,
                },
                recv(tick) -> _ => self.screen.tick()?,
            }
        }
    }

    /// A line answers the oldest question, if there is one; commands stay commands. Whether the conversation goes on.
    fn line(&mut self, text: String) -> Result<bool, Failure> {
        let now = crate::engine::now_ms();
        self.questions.retain(|(_, question)| question.expires_at > now);
        let typed = Typed::of(text.clone());
        if !matches!(typed, Typed::Message(_) | Typed::Nothing) {
            return self.typed(typed);
        }
        let Some((_, question)) = self.questions.pop_front() else { return self.typed(typed) };
        let allow = allows(&text);
        let decision = if allow { Decision::Allow } else { Decision::Deny };
        match self.client.answer_approval(&question.id, &AnswerApproval { decision, reason: None }) {
            Ok(_) => self.screen.remark(if allow { "(allowed)" } else { "(denied)" })?,
            Err(error) if error.kind() == Some(ErrorKind::NotFound) => {
                self.screen.remark("(that question does not wait any more)")?;
            }
            Err(error) => self.screen.alarm(&error.to_string())?,
        }
        self.ask_next()?;
        Ok(true)
    }

    /// Shows that the next line answers a question.
    fn ask_next(&mut self) -> Result<(), Failure> {
        if let Some((_, question)) = self.questions.front() {
            let tool = output::one_line(&question.tool, 80);
            self.screen.ask(&format!("{tool}: allow? [y/N] "))?;
        }
        Ok(())
    }

    /// A tool call waits for permission.
    fn question(&mut self, id: &str, question: &Question) -> Result<(), Failure> {
        if let Some(answer) = &self.standing {
            // One that somebody else was faster with needs none.
            let _ = self.client.answer_approval(&question.id, answer);
        } else if self.interactive {
            self.questions.push_back((id.to_owned(), question.clone()));
            if self.questions.len() == 1 {
                self.ask_next()?;
            }
        } else {
            output::complain(&format!("nobody can be asked here; to answer: bellhop approve {}", question.id));
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), Failure> {
        let which = ResetSessions {
            conversation: self.template.conversation.clone(),
            agent: self.template.agent.clone(),
            ..ResetSessions::default()
        };
        if which.conversation.is_none() {
            // An agent's conversation with another one is named by the daemon.
            self.template.new = true;
            return Ok(self.screen.remark("(the next message begins afresh)")?);
        }
        match self.client.reset_sessions(&which) {
            Ok(done) if done.reset == 0 => self.screen.remark("(there is no session to forget)")?,
            Ok(_) => self.screen.remark("(the session is forgotten)")?,
            Err(error) => self.screen.alarm(&error.to_string())?,
        }
        Ok(())
    }

    fn cancel(&mut self) -> Result<(), Failure> {
        let which = Cancel { agent: self.template.agent.clone(), conversation: self.template.conversation.clone() };
        match self.client.cancel_conversation(&which) {
            Ok(done) if done.cancelled == 0 => self.screen.remark("(nothing to cancel)")?,
            Ok(_) => {}
            Err(error) => self.screen.alarm(&error.to_string())?,
        }
        Ok(())
    }

    fn file(&mut self, path: &str) -> Result<(), Failure> {
        if path.is_empty() {
            self.screen.alarm("/file needs a path")?;
        } else if self.template.files.len() >= FILES_LIMIT {
            self.screen.alarm(&format!("a message takes at most {FILES_LIMIT} files"))?;
        } else {
            match attachment(path) {
                Ok(file) => {
                    self.screen.remark(&format!("(with the next message: {})", output::neutral(path)))?;
                    self.template.files.push(file);
                }
                Err(error) => {
                    self.failed = true;
                    self.screen.alarm(error.message.trim_start_matches("--file: "))?;
                }
            }
        }
        Ok(())
    }

    /// Whether the conversation goes on.
    fn typed(&mut self, typed: Typed) -> Result<bool, Failure> {
        match typed {
            Typed::Nothing => {}
            Typed::Quit => return Ok(false),
            Typed::Help => self.screen.plain(HELP)?,
            Typed::Cancel => self.cancel()?,
            Typed::File(path) => self.file(&path)?,
            Typed::Reset => self.reset()?,
            Typed::Usage => self.screen.plain(&self.spent.text())?,
            Typed::New => {
                self.template.new = true;
                self.screen.remark("(the next message begins afresh)")?;
            }
            Typed::Status => match self.client.status() {
                Ok(status) => self.screen.plain(&status::text(&status))?,
                Err(error) => self.screen.alarm(&error.to_string())?,
            },
            Typed::Message(text) => {
                let message = Submit { text, ..self.template.clone() };
                match self.client.submit(&message) {
                    Ok(accepted) => {
                        self.template.new = false;
                        self.template.files.clear();
                        self.template.agent = Some(accepted.agent.clone());
                        self.follow(&accepted)?;
                    }
                    Err(error) => {
                        self.failed = true;
                        let gone = error.is_no_daemon() || matches!(error, ClientError::Lost(_));
                        if gone || !self.interactive {
                            return Err(error.into());
                        }
                        self.screen.alarm(&error.to_string())?;
                    }
                }
            }
        }
        Ok(true)
    }

    fn follow(&mut self, accepted: &Accepted) -> Result<(), Failure> {
        self.open.push(Open { id: accepted.id.clone(), conversation: accepted.conversation.clone(), silent: false });
        let (client, id, sender) = (self.client.clone(), accepted.id.clone(), self.sender.clone());
        thread::spawn("watch", move || match client.events(&id) {
            Err(error) => drop(sender.send((id, Err(error)))),
            Ok(events) => {
                for event in events {
                    if sender.send((id.clone(), event)).is_err() {
                        return;
                    }
                }
            }
        })?;
        Ok(())
    }

    fn event(&mut self, id: &str, event: Result<Event, ClientError>) -> Result<(), Failure> {
        let alone = self.open.len() == 1;
        let Some(at) = self.open.iter().position(|o| o.id == id) else { return Ok(()) };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                let open = self.open.remove(at);
                self.failed = true;
                return Err(unseen(error, &open.conversation));
            }
        };
        if let Event::Started(started) = &event {
            self.note_echo(&started.runtime)?;
            // Messages that became one turn all report it; the first to say so is the one that is shown.
            let owner = self.shown.iter().find(|(turn, _)| *turn == started.turn_id).map(|(_, owner)| owner.clone());
            if let Some(open) = self.open.get_mut(at) {
                open.silent = owner.as_ref().is_some_and(|o| o != id);
            }
            if owner.is_none() {
                self.shown.push_back((started.turn_id.clone(), id.to_owned()));
                self.shown.truncate(AHEAD);
            }
        }
        let silent = self.open.get(at).is_some_and(|o| o.silent);
        let Event::Finished(report) = &event else {
            if !silent {
                self.screen.event(&event)?;
                if let Event::Approval(question) = &event {
                    self.question(id, question)?;
                }
            }
            return Ok(());
        };
        self.questions.retain(|(message, _)| message != id);
        if !silent {
            self.spent.add(report);
        }
        self.open.remove(at);
        self.failed |= exit_of(report) != Exit::Ok;
        if report.status == TurnStatus::Cancelled && !alone {
            self.screen.remark("(superseded by the next message)")?;
        } else if !silent {
            self.screen.event(&event)?;
        }
        Ok(())
    }

    fn note_echo(&mut self, runtime: &str) -> Result<(), Failure> {
        let chosen = self.template.runtime.as_deref() == Some("echo");
        if runtime == "echo" && self.interactive && !chosen && !std::mem::replace(&mut self.echo_noted, true) {
            self.screen.remark("(echo only repeats what it is told; which agent CLIs there are: bellhop doctor)")?;
        }
        Ok(())
    }

    /// Cancels what runs; `false` when it is time to leave.
    fn interrupt(&mut self) -> Result<bool, Failure> {
        let again = self.interrupted.replace(Instant::now()).is_some_and(|t| t.elapsed() < TWICE);
        if again || !self.interactive {
            for open in &self.open {
                let _ = self.client.cancel(&open.id);
            }
            return Ok(false);
        }
        if self.open.is_empty() {
            self.screen.interrupted()?;
            self.screen.remark("(Control-C again leaves)")?;
            return Ok(true);
        }
        self.screen.interrupted()?;
        self.screen.remark("(cancelling; Control-C again leaves)")?;
        // Not on this thread: its answer must not keep a second interruption waiting.
        let (client, ids) = (self.client.clone(), self.open.iter().map(|o| o.id.clone()).collect::<Vec<_>>());
        thread::spawn("cancel", move || {
            for id in ids {
                let _ = client.cancel(&id);
            }
        })?;
        Ok(true)
    }

    /// A turn that still runs goes on in the daemon; an engine inside this process ends with it, and a turn
    /// that nobody waits for is not left to surprise the next start.
    fn leave(&mut self, connection: &Connection) -> Result<(), Failure> {
        // Before anything is written: the terminal may be what has gone.
        if connection.is_in_process() {
            for open in std::mem::take(&mut self.open) {
                let _ = self.client.cancel(&open.id);
            }
        }
        if self.interactive {
            self.screen.leave()?;
        }
        if !self.open.is_empty() {
            self.screen.remark("(the daemon goes on with what was asked)")?;
        }
        Ok(())
    }
}

/// Whether a line says yes.
fn allows(line: &str) -> bool {
    ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_commands_are_taken() {
        assert!(matches!(Typed::of(" /quit ".into()), Typed::Quit));
        assert_eq!(Typed::of("/rest".into()), Typed::Message("/rest".into()));
        assert_eq!(Typed::of("/file  a b ".into()), Typed::File("a b".into()));
        assert_eq!(Typed::of("/filet".into()), Typed::Message("/filet".into()));
        assert!(allows(" Y ") && allows("yes") && !allows("") && !allows("yesterday"));
        assert!(matches!(Typed::of("  ".into()), Typed::Nothing));
    }
}
