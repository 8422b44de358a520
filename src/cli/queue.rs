//! `bellhop queue`: what waits, and doing something about it.
//!
//! A running daemon is asked; without one the journal is read, and nothing can be changed.

use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{ago, neutral, one_line, say, say_json, span, table};
use super::{Context, connect};
use crate::serve::wire::{Queue, QueueAction, QueueItem, QueueShape};
use crate::time;

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    context.home.check()?;
    match args.verb_name() {
        "show" => show(args, context),
        "dead" => list(args, context, true),
        verb => match QueueAction::parse(verb) {
            Some(action) => change(args, context, action),
            None => list(args, context, false),
        },
    }
}

fn list(args: &Parsed, context: &Context<'_>, dead: bool) -> Result<Exit, Failure> {
    let queue = match connect::daemon_if_any(&context.home)? {
        Some(client) if dead => client.dead_letters()?,
        Some(client) => client.queue()?,
        None => {
            let stored = stored(context)?;
            if dead { stored.dead } else { stored.queue }
        }
    };
    if args.flag("json") {
        say_json(&queue)?;
    } else {
        say(&listing(&queue, dead))?;
    }
    Ok(Exit::Ok)
}

fn show(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let id = id_of(args);
    let item = match connect::daemon_if_any(&context.home)? {
        Some(client) => client.queue_item(id)?,
        None => {
            let messages = stored(context)?.messages;
            let found = messages.into_iter().find(|m| m.id == id || m.message_ids.iter().any(|known| known == id));
            found.ok_or_else(|| Failure::usage(format!("nothing in the queue has the id {id:?}")))?
        }
    };
    if args.flag("json") {
        say_json(&item)?;
    } else {
        say(&account(&item))?;
    }
    Ok(Exit::Ok)
}

fn change(args: &Parsed, context: &Context<'_>, action: QueueAction) -> Result<Exit, Failure> {
    let changed = connect::daemon(&context.home)?.change_queue(id_of(args), action)?;
    if args.flag("json") {
        say_json(&changed)?;
        return Ok(Exit::Ok);
    }
    say(match action {
        QueueAction::Hold => "held",
        QueueAction::Release => "released",
        QueueAction::Requeue => "on its way again",
        QueueAction::Drop => "dropped",
    })?;
    Ok(Exit::Ok)
}

fn id_of(args: &Parsed) -> &str {
    args.operands.first().map_or("", String::as_str)
}

fn stored(context: &Context<'_>) -> Result<super::host::StoredQueue, Failure> {
    context.host.stored_queue(&context.home).map_err(|e| Failure::new(format!("the journal cannot be read: {e}")))
}

/// The queue for people: ages by conversation, then the messages.
fn listing(queue: &Queue, dead: bool) -> String {
    let mut out = String::new();
    if !queue.live {
        out.push_str("no daemon runs; this is what its journal says\n");
    }
    if queue.messages.is_empty() {
        out.push_str(if dead { "nothing was given up\n" } else { "the queue is empty\n" });
    } else {
        out.push_str(&ages(&queue.age_minutes, &queue.conversations));
        out.push('\n');
        let head = ["ID", "STATE", "AGE", "TRIES", "CONVERSATION", "TEXT", ""];
        let mut rows = vec![head.map(ToOwned::to_owned).to_vec()];
        rows.extend(queue.messages.iter().map(row));
        out.push_str(&table("", &rows));
    }
    if queue.more > 0 {
        out.push_str(&format!("and {} more\n", queue.more));
    }
    if !dead && queue.dead > 0 {
        out.push_str(&format!("{} were given up; see: bellhop queue dead\n", queue.dead));
    }
    out
}

fn row(item: &QueueItem) -> Vec<String> {
    let age = ago(item.since);
    vec![
        one_line(&item.id, 40),
        item.state.word().to_owned(),
        age.strip_suffix(" ago").unwrap_or(&age).to_owned(),
        item.attempts.to_string(),
        one_line(&item.conversation, 40),
        one_line(&item.text, 40),
        one_line(&reason(item), 60),
    ]
}

fn reason(item: &QueueItem) -> String {
    let why = item.why.clone().unwrap_or_default();
    let Some(until) = item.until else { return why };
    let left = until.saturating_sub(time::now_ms());
    match u64::try_from(left) {
        Ok(left) if left > 0 => format!("{why}, next try in {}", span(left)),
        _ => format!("{why}, next try now"),
    }
}

/// Counts by conversation and age: who is stuck, and since when.
fn ages(minutes: &[u64], shapes: &[QueueShape]) -> String {
    let mut head = vec!["CONVERSATION".to_owned(), "ALL".to_owned()];
    head.extend(minutes.iter().map(|m| format!("<{}", short(*m))));
    head.extend(minutes.last().map(|m| format!("{}+", short(*m))));
    let mut totals = vec![0; minutes.len() + 1];
    let mut rows = vec![head];
    for shape in shapes {
        shape.ages.iter().zip(&mut totals).for_each(|(n, total)| *total += n);
    }
    let all = shapes.iter().map(|s| s.total).sum();
    let line = |name: String, total: u64, ages: &[u64]| {
        [name, total.to_string()].into_iter().chain(ages.iter().map(u64::to_string)).collect::<Vec<_>>()
    };
    rows.push(line("all".into(), all, &totals));
    rows.extend(shapes.iter().take(20).map(|s| line(one_line(&s.queue, 60), s.total, &s.ages)));
    table("", &rows)
}

fn short(minutes: u64) -> String {
    match minutes {
        0..60 => format!("{minutes}m"),
        60..1_440 => format!("{}h", minutes / 60),
        _ => format!("{}d", minutes / 1_440),
    }
}

/// One message for people.
fn account(item: &QueueItem) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{name}: {}\n", one_line(value, 500)));
        }
    };
    line("id", &item.id);
    line("state", item.state.word());
    line("reason", &reason(item));
    line("since", &ago(item.since));
    line("attempts", &item.attempts.to_string());
    line("turn", item.turn_id.as_deref().unwrap_or_default());
    line("channel", &item.channel);
    line("agent", &item.agent);
    line("conversation", &item.conversation);
    line("topic", item.thread.as_deref().unwrap_or_default());
    line("messages", &item.message_ids.join(", "));
    line("from", &item.sender);
    out.push('\n');
    out.push_str(&neutral(&item.text));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_a_table_of_conversations() {
        let shape = |queue: &str, ages: &[u64]| QueueShape {
            queue: queue.into(),
            total: ages.iter().sum(),
            ages: ages.to_vec(),
        };
        let shapes = [shape("local:a:b:", &[2, 0, 1]), shape("x\u{1b}:y", &[0, 4, 0])];
        assert_eq!(
            ages(&[5, 1_440], &shapes),
            "CONVERSATION  ALL  <5m  <1d  1d+\nall           7    2    4    1\nlocal:a:b:    3    2    0    1\nx^[:y         4    0    4    0\n"
        );
    }
}
