//! What is counted of a conversation holds over a restart.

mod support;

use bellhop::engine::now_ms;
use bellhop::engine::park::MarkerFile;
use bellhop::engine::ports::RunRequest;
use bellhop::message::{ConversationKind, Inbound};
use support::engine::{Build, Harness, answer, group, script};

fn media(room: &str, id: &str) -> Inbound {
    Inbound { media_only: true, ..group(room, id, "[image]") }
}

fn wish(request: &RunRequest, ms: i64) {
    let mut file = MarkerFile::new(1, None, now_ms());
    file.deadline_ms = now_ms() + ms;
    std::fs::write(request.wait_file.as_ref().unwrap(), serde_json::to_string(&file).unwrap()).unwrap();
}

fn idle(h: &Harness) {
    assert!(h.engine.wait_idle(support::engine::PATIENCE));
}

#[test]
fn files_that_were_dropped_before_a_restart_are_told_of_after_it() {
    let direct = |message: Inbound| {
        let mut message = message;
        message.conversation.kind = ConversationKind::Direct;
        message
    };
    let h = Harness::new("dropped-files");
    for n in 0..42 {
        h.accept(direct(media("rm_x", &format!("f{n}"))));
    }
    h.channel.settled.wait(2);
    let again = Harness::in_dir(h.stop(), Build::default());
    again.accept(direct(media("rm_x", "f42")));
    again.channel.settled.wait(1);
    again.handle(direct(group("rm_x", "t", "these")));
    let told = again.prompts.composed.all().pop().unwrap();
    assert_eq!((told.entries.len(), told.omitted), (41, 3));
    // Told once: neither the next message nor the next process hears of them again.
    again.handle(direct(group("rm_x", "u", "and this")));
    assert_eq!(again.prompts.composed.all().pop().unwrap().omitted, 0);
    let last = Harness::in_dir(again.stop(), Build::default());
    last.handle(direct(group("rm_x", "v", "and that")));
    assert_eq!(last.prompts.composed.all().pop().unwrap().omitted, 0);
}

#[test]
fn a_restart_gives_no_agent_its_waits_anew() {
    let waiting = || Build {
        script: script(|_, request, _, _| {
            wish(request, 1_000);
            Ok(answer("later", "s"))
        }),
        ..Build::default()
    };
    let h = Harness::build("waits", waiting());
    h.accept(group("rm_g", "m", "hello"));
    // The first run and the first wait are over, the second wait has begun.
    h.runtime.runs.wait(2);
    h.reports.reports.wait(2);
    idle(&h);
    let again = Harness::in_dir(h.stop(), waiting());
    assert_eq!(again.channel.settled.wait(1)[0].ids, ["m"]);
    assert_eq!(again.runtime.runs.len(), 2, "three waits, so four runs in all");
}
