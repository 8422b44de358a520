//! `bellhop approve`: the answer to a tool call that waits for permission.

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::say;
use super::{Context, connect};
use crate::serve::wire::{AnswerApproval, Decision};

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let decision = if args.flag("deny") { Decision::Deny } else { Decision::Allow };
    let reason = args.text("reason");
    if decision == Decision::Allow && reason.is_some() {
        return Err(Failure::usage("option --reason belongs to --deny"));
    }
    let id = args.operands.first().map_or("", String::as_str);
    connect::daemon(&context.home)?.answer_approval(id, &AnswerApproval { decision, reason })?;
    say(if decision == Decision::Allow { "allowed" } else { "denied" })?;
    Ok(Exit::Ok)
}
