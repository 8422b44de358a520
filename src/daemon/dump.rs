//! The journal line by line, for people and for programs.

use std::io;
use std::path::Path;

use crate::cli::host::Dumped;
use crate::engine::journal::{self, Line, Record, Stamped};
use crate::message::Inbound;
use crate::time;
use crate::{redact, text};

/// Hands out every line in order, until `each` answers false. A home without a journal has none.
pub(super) fn dump(dir: &Path, raw: bool, each: &mut dyn FnMut(Dumped) -> bool) -> io::Result<()> {
    let lines = match journal::dump(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for line in lines {
        let shown = match line {
            Ok(line) if raw => Dumped::Line(line.raw),
            Ok(journal::Dumped { line: Line::Known(stamped), .. }) => Dumped::Line(readable(&stamped)),
            Ok(journal::Dumped { line: Line::Unknown(line), .. }) => {
                Dumped::Line(format!("(of another version) {}", text::preview(&redact::text(&line))))
            }
            Err(bad) => Dumped::Bad(bad.to_string()),
        };
        if !each(shown) {
            break;
        }
    }
    Ok(())
}

/// `<time> <kind> <what>`; texts as previews.
fn readable(Stamped { t, record }: &Stamped) -> String {
    let when = time::rfc3339(*t);
    let (kind, what) = described(record);
    format!("{when} {kind:<11} {what}").trim_end().to_owned()
}

fn described(record: &Record) -> (&'static str, String) {
    match record {
        Record::Base {} => ("base", String::new()),
        Record::Boot { pid, version } => ("boot", format!("pid={pid} version={version}")),
        Record::Accepted { e, ids, q, msg, past, .. } => {
            let attempts = past.as_ref().map_or_else(String::new, |p| format!(" attempts={}", p.attempts));
            ("accepted", format!("{e} queue={q} ids={}{attempts} text={}", ids.join(","), preview(msg)))
        }
        Record::Started { e, turn, attempt, rt } => {
            ("started", format!("{} turn={turn} attempt={attempt} runtime={rt}", e.join(",")))
        }
        Record::Spawned { turn, pid, .. } => ("spawned", format!("turn={turn} pid={pid}")),
        Record::Session { turn, id } => ("session", format!("turn={turn} session={id}")),
        Record::Effects { turn } => ("effects", format!("turn={turn}")),
        Record::Result { turn, out } => {
            let text = |o: &crate::message::Outbound| format!("{:?}", text::preview(&redact::text(&o.text)));
            let replies: Vec<_> = out.replies.iter().map(|o| format!("{} {}", o.id, text(o))).collect();
            ("result", format!("turn={turn} why={} replies=[{}]", out.why, replies.join(", ")))
        }
        Record::Say { turn, out, .. } => {
            let text = text::preview(&redact::text(&out.text));
            ("say", format!("turn={turn} {} to={} {text:?}", out.id, out.conversation_id))
        }
        Record::Sent { out, provider, .. } => ("sent", format!("{out} as={}", provider.as_deref().unwrap_or("-"))),
        Record::Unsent { out, why, .. } => ("unsent", format!("{out} why={why:?}")),
        Record::Interrupted { turn } => ("interrupted", format!("turn={turn}")),
        Record::Done { e, why } => ("done", format!("{} why={why}", e.join(","))),
        Record::Acked { e } => ("acked", e.join(",")),
        Record::Seen { ch, keys } => ("seen", format!("channel={ch} ids={}", keys.len())),
        Record::Hold { e, why } => ("hold", format!("{e} {}", why.as_deref().unwrap_or_default())),
        Record::Release { e } => ("release", e.clone()),
        Record::Parked { e, until, why } => ("parked", format!("{e} until={until} why={why:?}")),
        Record::Deferred { e, on, why, until } => {
            ("deferred", format!("{} on={on} why={why} until={until}", e.join(",")))
        }
        Record::Dead { e, q, msg, why, .. } => ("dead", format!("{e} queue={q} why={why:?} text={}", preview(msg))),
        Record::Buried { e } => ("buried", e.clone()),
        Record::Note { key, value } => ("note", format!("{key} {}", text::preview(&redact::text(&value.to_string())))),
        Record::Forget { key } => ("forget", key.clone()),
    }
}

fn preview(message: &Inbound) -> String {
    format!("{:?}", text::preview(&redact::text(&message.text)))
}
