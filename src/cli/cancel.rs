//! `bellhop cancel`: ends turns, and messages that wait for one.

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::message::working_directory;
use super::output::say;
use super::{Context, connect};
use crate::config::paths::directory_conversation;
use crate::serve::wire::Cancel;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let (agent, conversation) = (args.text("agent"), args.text("conversation"));
    let client = connect::daemon(&context.home)?;
    let count = match args.operands.first() {
        Some(_) if agent.is_some() || conversation.is_some() => {
            return Err(Failure::usage("cancel takes an id or --agent and --conversation, not both"));
        }
        Some(id) => cancel_id(&client, id)?,
        None => match (agent, conversation) {
            (agent, Some(conversation)) => {
                client.cancel_conversation(&Cancel { agent, conversation: Some(conversation) })?.cancelled
            }
            (Some(agent), None) => {
                let mut count = 0;
                let turns = client.status()?.turns;
                for turn in turns.into_iter().filter(|t| t.agent == agent) {
                    let which = Cancel { agent: Some(turn.agent), conversation: Some(turn.conversation) };
                    count += client.cancel_conversation(&which)?.cancelled;
                }
                count
            }
            (None, None) => {
                let conversation = directory_conversation(&working_directory(None)?);
                client.cancel_conversation(&Cancel { agent: None, conversation: Some(conversation) })?.cancelled
            }
        },
    };
    say(&match count {
        0 => "nothing to cancel".to_owned(),
        1 => "1 message cancelled".to_owned(),
        n => format!("{n} messages cancelled"),
    })?;
    Ok(if count == 0 { Exit::Failed } else { Exit::Ok })
}

/// The id of a message, or that of a turn, which status shows.
fn cancel_id(client: &crate::serve::client::Client, id: &str) -> Result<u64, Failure> {
    match client.status()?.turns.into_iter().find(|t| t.turn_id == id) {
        Some(turn) => {
            let which = Cancel { agent: Some(turn.agent), conversation: Some(turn.conversation) };
            Ok(client.cancel_conversation(&which)?.cancelled)
        }
        None => Ok(client.cancel(id)?.cancelled),
    }
}
