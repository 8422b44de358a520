//! `bellhop send`: one message, its reply, an exit code.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select_biased};
use serde::Serialize;

use super::Context;
use super::args::Parsed;
use super::connect;
use super::exit::Exit;
use super::failure::Failure;
use super::message::{exit_of, from_options, standing_answer, trouble, unseen, words};
use super::output::{complain, neutral, one_line, say, say_json};
use super::signals;
use crate::engine::ports::{TurnFailure, TurnReport, TurnStatus, Usage};
use crate::serve::client::{Client, ClientError};
use crate::serve::wire::{Accepted, AnswerApproval, Event, Submit};
use crate::thread;

/// After the time limit of `--timeout` the engine's own report is waited for so long before the message is
/// cancelled from here (it may still wait for its turn).
const HEAD_START: Duration = Duration::from_millis(500);

/// How long the end of a cancelled turn is waited for: longer than the engine takes to stop a process.
const STOPPING: Duration = Duration::from_secs(20);

/// What `--json` prints. Every field is always there.
#[derive(Serialize)]
struct Answer<'a> {
    id: &'a str,
    agent: &'a str,
    conversation: &'a str,
    runtime: Option<&'a str>,
    session_id: Option<&'a str>,
    status: TurnStatus,
    reply: Option<&'a str>,
    error: Option<&'a TurnFailure>,
    blocks: u64,
    ms: u64,
    usage: Option<Usage>,
    cost_usd: Option<f64>,
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let mut message = from_options(args)?;
    let timeout = args.number("timeout").map(Duration::from_secs);
    if timeout.is_some_and(|t| t.is_zero()) {
        return Err(Failure::usage("option --timeout: expected at least 1 second"));
    }
    message.timeout_ms = timeout.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
    message.text = words(&args.operands)?;
    if message.text.trim().is_empty() && message.files.is_empty() {
        return Err(Failure::usage("the message is empty"));
    }
    if args.flag("no-wait") {
        let accepted = connect::daemon(&context.home)?.submit(&message)?;
        if args.flag("json") {
            say_json(&accepted)?;
        } else {
            say(&accepted.id)?;
        }
        return Ok(Exit::Ok);
    }
    let signals = signals::channel()?;
    let connection = connect::daemon_or_engine(&context.home, context.host, || context.config())?;
    let sent = converse(&connection.client, &message, timeout, standing_answer(args), &signals);
    // Whoever is impatient from here on must not end an engine of our own before what runs in it.
    drop(signals);
    drop(connection);
    let (accepted, outcome) = sent?;
    finish(&accepted, outcome, args.flag("json"))
}

/// How waiting ended.
enum Outcome {
    /// The turn is over.
    Report(Box<TurnReport>),
    /// The time limit ran out and no report came.
    TimedOut,
    /// A person has had enough, and no report came.
    Left,
}

fn converse(
    client: &Client,
    message: &Submit,
    timeout: Option<Duration>,
    answer: Option<AnswerApproval>,
    signals: &Receiver<i32>,
) -> Result<(Accepted, Outcome), Failure> {
    let accepted = client.submit(message)?;
    let (sender, reports) = bounded(1);
    let (watcher, id) = (client.clone(), accepted.id.clone());
    // The thread ends with the stream; the process does not wait for it.
    thread::spawn("watch", move || watch(&watcher, &id, answer.as_ref(), &sender))?;
    let mut deadline = timeout.map(|t| Instant::now() + t + HEAD_START);
    let mut gone = None;
    loop {
        let time_is_up = deadline.map_or_else(crossbeam_channel::never, crossbeam_channel::at);
        select_biased! {
            recv(reports) -> report => return match report {
                Ok(Ok(mut report)) => {
                    // Cancelled from here, while it waited for its turn: what has ended it is the time limit.
                    if gone == Some(true) && report.status == TurnStatus::Cancelled {
                        report.status = TurnStatus::Timeout;
                    }
                    Ok((accepted, Outcome::Report(report)))
                }
                Ok(Err(error)) => Err(unseen(error, &accepted.conversation)),
                Err(_) => Err(Failure::new("the daemon's account of the turn ended early")),
            },
            recv(signals) -> _ => match gone {
                None => {
                    let _ = client.cancel(&accepted.id);
                    gone = Some(false);
                    deadline = Some(Instant::now() + STOPPING);
                }
                Some(_) => return Ok((accepted, Outcome::Left)),
            },
            recv(time_is_up) -> _ => match gone {
                None => {
                    let _ = client.cancel(&accepted.id);
                    gone = Some(true);
                    deadline = Some(Instant::now() + STOPPING);
                }
                Some(true) => return Ok((accepted, Outcome::TimedOut)),
                Some(false) => return Ok((accepted, Outcome::Left)),
            },
        }
    }
}

/// Sends the report, or why there is none. Questions about tool calls get the standing answer, if there is one.
fn watch(
    client: &Client,
    id: &str,
    answer: Option<&AnswerApproval>,
    to: &Sender<Result<Box<TurnReport>, ClientError>>,
) {
    let events = match client.events(id) {
        Ok(events) => events,
        Err(error) => return drop(to.send(Err(error))),
    };
    for event in events {
        match event {
            Ok(Event::Finished(report)) => return drop(to.send(Ok(report))),
            Ok(Event::Approval(question)) => match answer {
                Some(answer) => drop(client.answer_approval(&question.id, answer)),
                None => complain(&one_line(
                    &format!(
                        "waits for permission: {}: {}; bellhop approve {}",
                        question.tool, question.summary, question.id
                    ),
                    500,
                )),
            },
            Ok(_) => {}
            Err(error) => return drop(to.send(Err(error))),
        }
    }
}

fn finish(accepted: &Accepted, outcome: Outcome, json: bool) -> Result<Exit, Failure> {
    let (report, exit) = match outcome {
        Outcome::Report(report) => {
            let exit = exit_of(&report);
            (Some(report), exit)
        }
        Outcome::TimedOut => (None, Exit::Timeout),
        Outcome::Left => (None, Exit::Failed),
    };
    if json {
        say_json(&answer(accepted, report.as_deref(), exit))?;
        return Ok(exit);
    }
    let Some(report) = report else {
        complain(if exit == Exit::Timeout { "no reply within the time limit" } else { "interrupted" });
        return Ok(exit);
    };
    if let Some(reply) = report.reply.as_deref().filter(|r| !r.is_empty() && report.status == TurnStatus::Ok) {
        // Another program gets the reply as it is; a terminal gets nothing that could steer it.
        if io::stdout().is_terminal() { say(&neutral(reply))? } else { say(reply)? }
    }
    if let Some(trouble) = trouble(&report) {
        complain(&one_line(&trouble, 2_000));
    }
    Ok(exit)
}

fn answer<'a>(accepted: &'a Accepted, report: Option<&'a TurnReport>, exit: Exit) -> Answer<'a> {
    let unknown = if exit == Exit::Timeout { TurnStatus::Timeout } else { TurnStatus::Cancelled };
    Answer {
        id: &accepted.id,
        agent: report.map_or(&accepted.agent, |r| &r.agent),
        conversation: report.map_or(&accepted.conversation, |r| &r.conversation),
        runtime: report.map(|r| r.runtime.as_str()),
        session_id: report.and_then(|r| r.session_id.as_deref()),
        status: report.map_or(unknown, |r| r.status),
        reply: report.and_then(|r| r.reply.as_deref()),
        error: report.and_then(|r| r.error.as_ref()),
        blocks: report.map_or(0, |r| r.blocks),
        ms: report.map_or(0, |r| r.ms),
        usage: report.and_then(|r| r.usage),
        cost_usd: report.and_then(|r| r.cost_usd),
    }
}
