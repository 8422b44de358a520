//! `GET /metrics`: the daemon in the text format of Prometheus (version 0.0.4).
//!
//! Names and labels are stable; a family without samples is left out. Labels hold ids of runtimes and channels, no
//! names of people and no texts.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use super::meters::{Histogram, Meters, OfRuntime, TURN_SECONDS, WAIT_SECONDS};
use crate::channel::manager::ChannelStatus;
use crate::engine::EngineStatus;
use crate::engine::journal::JournalState;

/// Clock ticks per second in `/proc`: the same on every Linux that bellhop runs on.
const TICKS: f64 = 100.0;

type Labels<'a> = &'a [(&'a str, &'a str)];

/// The page.
pub(super) fn page(
    status: &EngineStatus,
    channels: &BTreeMap<String, ChannelStatus>,
    meters: &Meters,
    started_at: i64,
) -> String {
    let mut page = Page::default();
    page.family("bellhop_build_info", "gauge", "The program.");
    page.sample("bellhop_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    turns(&mut page, &meters.read());
    page.family("bellhop_wait_seconds", "histogram", "Time from the receipt of a message to the start of its turn.");
    page.histogram("bellhop_wait_seconds", &[], &WAIT_SECONDS, &meters.waited());
    engine(&mut page, status);
    page.family("bellhop_channel_up", "gauge", "Whether a channel reaches its far side.");
    for (id, channel) in channels {
        let labels = [("channel", id.as_str()), ("kind", channel.provider.as_str())];
        page.sample("bellhop_channel_up", &labels, flag(channel.running && channel.connected));
    }
    page.family(
        "bellhop_channel_reconnects",
        "gauge",
        "How often a channel was started again, or has tried to connect since it last did.",
    );
    for (id, channel) in channels {
        page.sample("bellhop_channel_reconnects", &[("channel", id)], channel.reconnect_attempts as f64);
    }
    process(&mut page, started_at);
    page.out
}

fn turns(page: &mut Page, by_runtime: &BTreeMap<String, OfRuntime>) {
    page.family("bellhop_turns_total", "counter", "Messages and turns that are over, by runtime and outcome.");
    for (runtime, of) in by_runtime {
        for (outcome, count) in &of.turns {
            page.sample("bellhop_turns_total", &[("runtime", runtime), ("outcome", outcome)], *count as f64);
        }
    }
    page.family("bellhop_turn_seconds", "histogram", "Time of the runtime of a turn, its retries included.");
    for (runtime, of) in by_runtime {
        page.histogram("bellhop_turn_seconds", &[("runtime", runtime)], &TURN_SECONDS, &of.seconds);
    }
    page.family("bellhop_tokens_total", "counter", "Tokens, as far as runtimes tell; input without what was cached.");
    for (runtime, of) in by_runtime {
        for (kind, count) in [("cached", of.cached), ("input", of.input), ("output", of.output)] {
            page.sample("bellhop_tokens_total", &[("runtime", runtime), ("kind", kind)], count as f64);
        }
    }
    page.family("bellhop_cost_usd_total", "counter", "Cost in US dollars, as far as runtimes tell.");
    for (runtime, of) in by_runtime {
        page.sample("bellhop_cost_usd_total", &[("runtime", runtime)], of.cost_usd);
    }
}

fn engine(page: &mut Page, status: &EngineStatus) {
    let journal = &status.journal;
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let writable = journal.state == JournalState::Open;
    let gauges: [(&str, &str, f64); 13] = [
        ("bellhop_turns_running", "Turns that run.", status.turns.len() as f64),
        ("bellhop_turns_silent", "Running turns without a sign of life for long.", silent(status) as f64),
        ("bellhop_queue_messages", "Messages that wait for their turn.", status.waiting as f64),
        ("bellhop_queue_conversations", "Conversations in which something waits.", status.waiting_conversations as f64),
        ("bellhop_queue_held", "Waiting messages that somebody has set aside.", status.held as f64),
        ("bellhop_queue_dead", "Messages that were given up and are kept.", status.dead as f64),
        (
            "bellhop_queue_oldest_seconds",
            "Age of the oldest waiting message that is neither held nor parked.",
            seconds(status.oldest_waiting_ms.unwrap_or(0)),
        ),
        ("bellhop_outbox_replies", "Replies that are not delivered yet.", status.replies as f64),
        ("bellhop_approvals_waiting", "Tool calls that wait for permission.", status.approvals.len() as f64),
        ("bellhop_runtimes_stalled", "Runtimes that cannot work for a while.", status.stalled.len() as f64),
        ("bellhop_journal_writable", "Whether messages are taken.", flag(writable)),
        ("bellhop_journal_live_bytes", "About how much of the journal is needed.", journal.live_bytes as f64),
        ("bellhop_journal_entries", "Messages in the journal.", journal.entries as f64),
    ];
    for (name, help, value) in gauges {
        page.family(name, "gauge", help);
        page.sample(name, &[], value);
    }
    for (name, help, value) in [
        ("bellhop_journal_records_total", "Records appended to the journal.", journal.records),
        ("bellhop_journal_syncs_total", "Syncs of the journal.", journal.fsyncs),
    ] {
        page.family(name, "counter", help);
        page.sample(name, &[], value as f64);
    }
}

fn silent(status: &EngineStatus) -> usize {
    status.turns.iter().filter(|turn| turn.silent).count()
}

/// What the system says about the process; what it does not say is left out.
fn process(page: &mut Page, started_at: i64) {
    let read = |file: &str| fs::read_to_string(format!("/proc/self/{file}")).unwrap_or_default();
    let status = read("status");
    let of_status = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse::<f64>().ok())
    };
    // The name in parentheses may hold anything; user and system time are 12 and 13 fields after it.
    let stat = read("stat");
    let ticks = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
    let cpu = ticks.map(|fields| fields.filter_map(|n| n.parse::<f64>().ok()).sum::<f64>() / TICKS);
    let descriptors = fs::read_dir("/proc/self/fd").ok().map(|dir| dir.count() as f64);
    for (name, kind, help, value) in [
        ("bellhop_children", "gauge", "Child processes.", children()),
        ("process_resident_memory_bytes", "gauge", "Resident memory.", of_status("VmRSS:").map(|kib| kib * 1_024.0)),
        ("process_threads", "gauge", "Threads.", of_status("Threads:")),
        ("process_open_fds", "gauge", "Open file descriptors.", descriptors),
        ("process_cpu_seconds_total", "counter", "User and system time.", cpu),
        ("process_start_time_seconds", "gauge", "When it began, in Unix time.", Some(started_at as f64 / 1_000.0)),
    ] {
        if let Some(value) = value {
            page.family(name, kind, help);
            page.sample(name, &[], value);
        }
    }
}

/// Children of every thread of this process.
fn children() -> Option<f64> {
    let mut count = 0;
    for thread in fs::read_dir("/proc/self/task").ok()?.flatten() {
        // A thread may be gone by now.
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        count += list.split_whitespace().count();
    }
    Some(count as f64)
}

fn flag(set: bool) -> f64 {
    f64::from(u8::from(set))
}

/// The page as it is written: a family's head comes with its first sample.
#[derive(Default)]
struct Page {
    out: String,
    head: String,
}

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.head = format!("# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        let head = std::mem::take(&mut self.head);
        self.out.push_str(&head);
        self.out.push_str(name);
        for (n, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let before = if n == 0 { '{' } else { ',' };
            let _ = write!(self.out, "{before}{label}=\"{text}\"");
        }
        let _ = writeln!(self.out, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: Labels<'_>, bounds: &[f64], histogram: &Histogram) {
        if histogram.count == 0 {
            return;
        }
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in bounds.iter().zip(&histogram.counts) {
            below += count;
            self.sample(&bucket, &[labels, &[("le", &bound.to_string())]].concat(), below as f64);
        }
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), histogram.count as f64);
        self.sample(&format!("{name}_sum"), labels, histogram.sum);
        self.sample(&format!("{name}_count"), labels, histogram.count as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_quoted_and_a_family_without_samples_is_left_out() {
        let mut page = Page::default();
        page.family("empty", "gauge", "Nothing.");
        page.family("full", "gauge", "Something.");
        page.sample("full", &[("a", "x\"\\\n"), ("b", "")], 0.5);
        page.sample("full", &[], 2.0);
        assert_eq!(
            page.out,
            "# HELP full Something.\n# TYPE full gauge\nfull{a=\"x\\\"\\\\\\n\",b=\"\"} 0.5\nfull 2\n"
        );
    }

    #[test]
    fn buckets_add_up() {
        let mut page = Page::default();
        let histogram = Histogram { counts: vec![1, 0, 2], count: 4, sum: 9.5 };
        page.histogram("h", &[("runtime", "r")], &[1.0, 2.0, 3.5], &histogram);
        let values: Vec<&str> = page.out.lines().filter_map(|l| l.rsplit_once(' ')).map(|(_, v)| v).collect();
        assert_eq!(values, ["1", "1", "3", "4", "9.5", "4"]);
    }
}
