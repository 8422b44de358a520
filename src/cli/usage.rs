//! `bellhop usage`: what turns have cost.
//!
//! Reads the files that the daemon writes, so that it works beside a running one and without.

use serde::Serialize;
use serde_json::{Map, Value};

use super::Context;
use super::args::Parsed;
use super::exit::Exit;
use super::failure::Failure;
use super::output::{one_line, say, say_json, span, table};
use crate::json;
use crate::time;
use crate::usage::{Files, Spending, Sum, Totals, TurnUsage};

/// Turns that are listed.
const TURNS: usize = 50;

/// A sum as it is shown.
#[derive(Serialize)]
struct Shown {
    turns: u64,
    failed: u64,
    ms: u64,
    /// All of them, those from the cache included; `None` when no turn told its tokens.
    input_tokens: Option<u64>,
    cached_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cost_usd: Option<f64>,
}

impl From<&Sum> for Shown {
    fn from(sum: &Sum) -> Self {
        let told = |tokens: u64| (sum.counted > 0).then_some(tokens);
        Self {
            turns: sum.turns,
            failed: sum.failed,
            ms: sum.ms,
            input_tokens: told(sum.hit.saturating_add(sum.miss)),
            cached_tokens: told(sum.hit),
            output_tokens: told(sum.output),
            cost_usd: sum.cost_usd,
        }
    }
}

/// One row: its names, in the order of the columns, and its sum.
struct Row {
    names: Vec<String>,
    sum: Sum,
}

/// Runs the command.
pub fn run(args: &Parsed, context: &Context<'_>) -> Result<Exit, Failure> {
    let (mut totals, mut lines) = Files::at(context.home.usage()).read().map_err(|e| Failure::new(e.to_string()))?;
    if let Some(agent) = args.text("agent") {
        totals.days.retain(|s| s.agent == agent);
        totals.conversations.retain(|s| s.agent == agent);
        lines.retain(|l| l.agent == agent);
    }
    let by = args.text("by").unwrap_or_else(|| "day".to_owned());
    let (columns, rows) = rows(&by, &totals, &lines);
    let all = totals.all();
    if args.flag("json") {
        say_json(&document(&by, columns, &rows, &all)?)?;
    } else {
        say(&text(columns, &rows, &all))?;
    }
    Ok(Exit::Ok)
}

/// The columns of names, and the rows.
fn rows(by: &str, totals: &Totals, lines: &[TurnUsage]) -> (&'static [&'static str], Vec<Row>) {
    let sums = |of_these: &[Spending], name: &dyn Fn(&Spending) -> String| -> Vec<Row> {
        let sums = Totals::by(of_these, name);
        sums.into_iter().map(|(name, (_, sum))| Row { names: vec![name], sum }).collect()
    };
    match by {
        "agent" => (&["agent"], sums(&totals.days, &|s| s.agent.clone())),
        "runtime" => (&["runtime"], sums(&totals.days, &|s| s.runtime.clone())),
        "conversation" => {
            let mut latest: Vec<&Spending> = totals.conversations.iter().collect();
            crate::sort::sort_by_key(&mut latest, |s| (s.name.is_empty(), std::cmp::Reverse(s.last)));
            let row = |s: &Spending| Row { names: vec![s.agent.clone(), s.name.clone()], sum: s.sum };
            (&["agent", "conversation"], latest.into_iter().map(row).collect())
        }
        "turn" => {
            let row = |l: &TurnUsage| Row {
                names: vec![
                    time::rfc3339(l.at),
                    l.agent.clone(),
                    l.conversation.clone(),
                    l.runtime.clone(),
                    l.turn.clone(),
                ],
                sum: l.sum,
            };
            let latest = lines.iter().rev().take(TURNS).rev();
            (&["time", "agent", "conversation", "runtime", "turn"], latest.map(row).collect())
        }
        _ => (&["day"], sums(&totals.days, &|s| s.name.clone())),
    }
}

fn document(by: &str, columns: &[&str], rows: &[Row], all: &Sum) -> Result<Value, Failure> {
    let sum = |sum: &Sum| match json::to_value(&Shown::from(sum)) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => Ok(Map::new()),
        Err(e) => Err(Failure::new(e.to_string())),
    };
    let row = |row: &Row| -> Result<Value, Failure> {
        let names = columns.iter().zip(&row.names).map(|(column, name)| {
            // What is not kept apart has no name.
            let name = if name.is_empty() { Value::Null } else { name.as_str().into() };
            ((*column).to_owned(), name)
        });
        Ok(Value::Object(names.chain(sum(&row.sum)?).collect()))
    };
    let rows = rows.iter().map(row).collect::<Result<Vec<Value>, Failure>>()?;
    let members = [("by", by.into()), ("rows", rows.into()), ("total", Value::Object(sum(all)?))];
    Ok(Value::Object(members.into_iter().map(|(name, value): (&str, Value)| (name.to_owned(), value)).collect()))
}

fn text(columns: &[&str], rows: &[Row], all: &Sum) -> String {
    if rows.is_empty() {
        return "nothing has been spent yet".to_owned();
    }
    let heads = ["TURNS", "FAILED", "TIME", "INPUT", "CACHED", "OUTPUT", "COST"].map(str::to_owned);
    let mut cells = vec![columns.iter().map(|c| c.to_uppercase()).chain(heads).collect::<Vec<String>>()];
    for Row { names, sum } in rows {
        let names = names.iter().map(|name| if name.is_empty() { "(older)".to_owned() } else { one_line(name, 40) });
        cells.push(names.chain(figures(sum)).collect());
    }
    let mut total = vec![String::new(); columns.len()];
    "total".clone_into(&mut total[0]);
    cells.push(total.into_iter().chain(figures(all)).collect());
    table("", &cells)
}

fn figures(sum: &Sum) -> [String; 7] {
    let shown = Shown::from(sum);
    let tokens = |tokens: Option<u64>| tokens.map_or_else(|| "-".to_owned(), |n| n.to_string());
    [
        shown.turns.to_string(),
        shown.failed.to_string(),
        span(shown.ms),
        tokens(shown.input_tokens),
        tokens(shown.cached_tokens),
        tokens(shown.output_tokens),
        shown.cost_usd.map_or_else(|| "-".to_owned(), |cost| format!("${cost:.4}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn totals() -> Totals {
        let spending = |name: &str, agent: &str, last: i64, sum: Sum| Spending {
            name: name.into(),
            agent: agent.into(),
            runtime: "codex".into(),
            last,
            sum,
        };
        let told = Sum { turns: 2, ms: 1_500, counted: 1, hit: 10, miss: 5, output: 3, ..Sum::default() };
        let untold = Sum { turns: 1, failed: 1, cost_usd: Some(0.25), ..Sum::default() };
        Totals {
            days: vec![spending("2026-01-02", "b", 2, untold), spending("2026-01-01", "a", 1, told)],
            conversations: vec![spending("", "a", 9, told), spending("c\u{1b}", "b", 2, untold)],
            ..Totals::default()
        }
    }

    #[test]
    fn what_is_not_told_is_not_shown_as_nothing() {
        let totals = totals();
        let (columns, rows) = rows("day", &totals, &[]);
        assert_eq!(
            text(columns, &rows, &totals.all()),
            "DAY         TURNS  FAILED  TIME   INPUT  CACHED  OUTPUT  COST\n\
             2026-01-01  2      0       1.5 s  15     10      3       -\n\
             2026-01-02  1      1       0 ms   -      -       -       $0.2500\n\
             total       3      1       1.5 s  15     10      3       $0.2500\n"
        );
    }

    #[test]
    fn documents_name_their_rows() {
        let totals = totals();
        let (columns, rows) = rows("conversation", &totals, &[]);
        let document = document("conversation", columns, &rows, &totals.all()).unwrap();
        assert_eq!(document["rows"][0]["conversation"], "c\u{1b}");
        assert_eq!(document["rows"][1]["conversation"], Value::Null);
        assert_eq!(document["rows"][1]["input_tokens"], 15);
        assert_eq!((document["total"]["turns"].as_u64(), document["by"].as_str()), (Some(3), Some("conversation")));
        assert!(text(columns, &rows, &totals.all()).contains("^["));
    }
}
