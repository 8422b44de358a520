//! Stopping children: whatever they do, nothing of them is left. No test asserts a time; where the length of
//! a step matters, only the step under test is short.

mod support;

use std::os::unix::process::CommandExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::ProcessId;
use bellhop::runtime::process::{Driven, Ended, Process, Spec, Stdin, StopCause, sweep_turn, sweep_turns};
use support::child::{Notes, adopt_orphans, ended, eventually, identity, limits, marked, script, token, unique};

/// Drives a script, cancels it at its line `ready`, and makes sure that nothing is left.
fn cancel_when_ready(text: &str) -> Ended {
    stop_when_ready(script(text), &mut Notes::default())
}

fn stop_when_ready(spec: Spec, notes: &mut Notes<'_>) -> Ended {
    adopt_orphans();
    let turn = spec.turn_id.clone();
    let cancel = token();
    let setter = cancel.clone();
    notes.on_event = Some(Box::new(move |event, _| {
        if event == "ready" {
            setter.cancel(CancelReason::User);
        }
    }));
    let mut process = Process::spawn(spec).unwrap();
    let end = ended(process.drive(&cancel, notes));
    assert_eq!(end.stopped, Some(StopCause::Cancelled));
    assert!(!end.given_up);
    eventually("nothing is left", || marked(&turn).is_empty());
    assert!(!Process::pid_lives(process.id()));
    end
}

#[test]
fn a_polite_child_gets_sigint() {
    let end = cancel_when_ready("echo ready; exec sleep 300");
    assert_eq!(end.signal, Some(2));
    let end = cancel_when_ready("trap 'echo bye; exit 7' INT; echo ready; while :; do sleep 0.01; done");
    assert_eq!(end.exit_code, Some(7));
}

#[test]
fn a_child_that_ignores_sigint_gets_sigterm() {
    let spec = Spec { stop: limits(100, 60_000), ..script("trap '' INT; echo ready; exec sleep 300") };
    let end = stop_when_ready(spec, &mut Notes::default());
    assert_eq!(end.signal, Some(15));
}

#[test]
fn a_child_that_ignores_both_is_killed() {
    let text = "trap '' INT TERM HUP; echo ready; while :; do sleep 0.1; done";
    let end = stop_when_ready(Spec { stop: limits(50, 100), ..script(text) }, &mut Notes::default());
    assert_eq!(end.signal, Some(9));
}

#[test]
fn a_stopped_child_is_killed() {
    // It stops itself as soon as it is asked to end, and would deal with the rest when it goes on.
    let text = "trap 'kill -STOP $$' INT; trap '' TERM; echo ready; while :; do sleep 0.01; done";
    let end = stop_when_ready(Spec { stop: limits(50, 500), ..script(text) }, &mut Notes::default());
    assert_eq!(end.signal, Some(9));
}

#[test]
fn a_handler_can_ask_the_child_itself() {
    let mut notes = Notes { interrupts_itself: true, ..Notes::default() };
    let spec = Spec { stop: limits(100, 60_000), ..script("echo ready; exec sleep 300") };
    let end = stop_when_ready(spec, &mut notes);
    assert_eq!(notes.interrupts, 1);
    // No SIGINT, the next step came.
    assert_eq!(end.signal, Some(15));
}

#[test]
fn lines_after_the_stop_are_told_apart() {
    let mut notes = Notes::default();
    stop_when_ready(script("trap 'echo session; exit 0' INT; echo ready; while :; do sleep 0.01; done"), &mut notes);
    assert_eq!(notes.lines, ["ready"]);
    assert_eq!(notes.after_stop, ["session"]);
}

#[test]
fn cancelling_beats_a_flood_of_output() {
    let mut notes = Notes::default();
    stop_when_ready(script("echo ready; exec yes"), &mut notes);
    assert_eq!(notes.lines, ["ready"]);
}

#[test]
fn a_child_that_closes_its_output_still_runs_until_it_is_cancelled() {
    adopt_orphans();
    let cancel = token();
    let setter = cancel.clone();
    let mut notes = Notes::doing(move |event, io| match event {
        "ready" => io.wake_at(Some(Instant::now() + Duration::from_millis(200))),
        _ => drop(setter.cancel(CancelReason::Timeout)),
    });
    let mut process = Process::spawn(script("echo ready; exec >&- 2>&-; exec sleep 300")).unwrap();
    let end = ended(process.drive(&cancel, &mut notes));
    assert_eq!((notes.ticks, end.stopped, end.signal), (1, Some(StopCause::Cancelled), Some(2)));
}

#[test]
fn cancelled_before_the_first_byte() {
    let cancel = token();
    cancel.cancel(CancelReason::Superseded);
    let spec = script("exec sleep 300");
    let turn = spec.turn_id.clone();
    let end = ended(Process::spawn(spec).unwrap().drive(&cancel, &mut Notes::default()));
    assert_eq!(end.stopped, Some(StopCause::Cancelled));
    assert!(marked(&turn).is_empty());
}

#[test]
fn cancelled_from_another_thread() {
    let cancel = token();
    let setter = cancel.clone();
    let mut process = Process::spawn(script("exec sleep 300")).unwrap();
    let thread = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        setter.cancel(CancelReason::Shutdown)
    });
    let end = ended(process.drive(&cancel, &mut Notes::default()));
    assert_eq!(end.stopped, Some(StopCause::Cancelled));
    assert!(thread.join().unwrap());
}

#[test]
fn the_handler_stops_a_child_in_the_middle_of_its_output() {
    let mut notes = Notes::doing(|line, io| {
        if line == "2" {
            io.stop();
            io.pause();
        }
    });
    let mut process = Process::spawn(script("printf '1\\n2\\n3\\n4\\n'; exec sleep 300")).unwrap();
    let end = ended(process.drive(&token(), &mut notes));
    assert_eq!(end.stopped, Some(StopCause::Handler));
    assert_eq!(notes.lines, ["1", "2"]);
    assert_eq!(notes.after_stop, ["3", "4"]);
}

#[test]
fn tools_that_hide_are_swept() {
    let tools = [
        // In a session of its own, holding the pipes.
        "setsid sleep 300 & echo ready; wait",
        // The same without the pipes, deaf to everything polite.
        "setsid nohup sh -c 'trap \"\" INT TERM HUP; while :; do sleep 1; done' >/dev/null 2>&1 & echo ready; wait",
        // Forked twice: a child of init, were we not the subreaper.
        "( ( setsid sleep 300 & ) & ); echo ready; exec sleep 300",
        // A tree, whose middle has gone.
        "( setsid sh -c 'sh -c \"sleep 300 & sleep 300\" & sleep 300' & ); echo ready; exec sleep 300",
        // In the group of the CLI.
        "sleep 300 & sleep 300 & echo ready; wait",
    ];
    for text in tools {
        cancel_when_ready(text);
    }
}

#[test]
fn tools_with_a_clean_environment_are_swept() {
    let texts = ["setsid env -i sleep 300 & echo $!; echo ready; wait", "env -i sleep 300 & echo $!; echo ready; wait"];
    for text in texts {
        let mut notes = Notes::default();
        stop_when_ready(script(text), &mut notes);
        let pid: i32 = notes.lines[0].parse().unwrap();
        eventually("it is gone", || identity(pid).is_none_or(|id| !Process::pid_lives(id)));
    }
}

#[test]
fn fifty_tools_are_swept() {
    let end = cancel_when_ready("i=0; while [ $i -lt 50 ]; do setsid sleep 300 & i=$((i+1)); done; echo ready; wait");
    assert_eq!(end.signal, Some(2));
}

#[test]
fn a_tool_that_keeps_forking_is_swept() {
    // Ends by itself after 400, should the test fail.
    let text = "setsid sh -c 'i=0; while [ $i -lt 400 ]; do sleep 60 & i=$((i+1)); done; wait' & echo ready; wait";
    cancel_when_ready(text);
}

#[test]
fn a_tool_that_moves_from_process_to_process_is_swept() {
    // Each generation starts the next one and ends; after 2 000 it stops by itself.
    let text = "cat > \"$0\" <<'EOF'\n[ $1 -lt 2000 ] && { setsid sh \"$0\" $(($1+1)) & }\nsleep 0.01\nEOF\n\
                setsid sh \"$0\" 0 & echo ready; wait";
    let file = std::env::temp_dir().join(unique("bellhop-mover"));
    let mut spec = script(text);
    spec.args.push(file.clone().into());
    stop_when_ready(spec, &mut Notes::default());
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_paused_child_is_killed_when_it_is_dropped() {
    adopt_orphans();
    let spec = Spec { stdin: Stdin::Pipe, ..script("setsid sleep 300 & trap '' INT TERM; echo ready; cat; wait") };
    let turn = spec.turn_id.clone();
    let mut process = Process::spawn(spec).unwrap();
    let id = process.id();
    assert_eq!(process.drive(&token(), &mut Notes::doing(|_, io| io.pause())), Driven::Paused);
    eventually("the child and its tool run", || marked(&turn).len() >= 2);
    drop(process);
    eventually("nothing is left", || marked(&turn).is_empty());
    assert!(identity(id.pid) != Some(id), "it is reaped");
}

#[test]
fn a_handler_that_panics_leaves_nothing() {
    adopt_orphans();
    let spec = script("setsid sleep 300 & echo ready; wait");
    let turn = spec.turn_id.clone();
    let mut process = Process::spawn(spec).unwrap();
    let mut notes = Notes::doing(|_, _| std::panic::resume_unwind(Box::new("a bug in a handler")));
    assert!(catch_unwind(AssertUnwindSafe(|| process.drive(&token(), &mut notes))).is_err());
    drop(process);
    eventually("nothing is left", || marked(&turn).is_empty());
}

#[test]
fn a_child_cancelled_while_it_should_end_by_itself_is_swept() {
    adopt_orphans();
    let text = "trap '' INT TERM; setsid sleep 300 & echo ready; while :; do sleep 0.1; done";
    let spec = Spec { stop: limits(300, 600), ..script(text) };
    let turn = spec.turn_id.clone();
    let cancel: CancelToken = token();
    let setter = cancel.clone();
    let mut notes = Notes::doing(move |_, io| {
        io.end_within(Duration::ZERO);
        let setter = setter.clone();
        std::thread::spawn(move || setter.cancel(CancelReason::User));
    });
    let end = ended(Process::spawn(spec).unwrap().drive(&cancel, &mut notes));
    assert_eq!(end.stopped, Some(StopCause::Cancelled));
    eventually("nothing is left", || marked(&turn).is_empty());
}

/// A process that an earlier life of the daemon started, and its tool.
fn from_an_earlier_life(turn: &str) -> (std::process::Child, ProcessId) {
    let mut command = Command::new("sh");
    command.args(["-c", "setsid sleep 300 & exec env -u BELLHOP_TURN sleep 300"]).env("BELLHOP_TURN", turn);
    let child = command.process_group(0).spawn().unwrap();
    let id = identity(child.id().cast_signed()).unwrap();
    let cmdline = format!("/proc/{}/cmdline", id.pid);
    eventually("both sleep", || std::fs::read(&cmdline).is_ok_and(|line| line.starts_with(b"sleep")));
    eventually("the tool is marked", || marked(turn).len() == 1);
    (child, id)
}

#[test]
fn what_an_earlier_life_left_is_swept() {
    let turn = unique("turn");
    let (mut child, id) = from_an_earlier_life(&turn);
    let wrong = ProcessId { start: id.start + 1, ..id };
    assert_eq!(sweep_turn(&unique("other"), Some(wrong)), 0, "another process with its pid");
    assert!(Process::pid_lives(id));
    assert_eq!(sweep_turn(&turn, Some(wrong)), 1, "the tool by its mark");
    assert!(Process::pid_lives(id));
    assert_eq!(sweep_turn(&turn, Some(id)), 1, "the unmarked group by its leader");
    let _ = child.wait();
    assert!(!Process::pid_lives(id));
    assert_eq!(sweep_turn(&turn, Some(id)), 0);
}

#[test]
fn many_turns_are_swept_at_once_and_others_are_left_alone() {
    let turns: Vec<String> = (0..3).map(|_| unique("turn")).collect();
    let mut lives: Vec<_> = turns.iter().map(|turn| from_an_earlier_life(turn)).collect();
    assert_eq!(sweep_turns(&[(&turns[0], Some(lives[0].1)), (&turns[1], Some(lives[1].1)), ("", None)]), 4);
    assert!(marked(&turns[0]).is_empty() && marked(&turns[1]).is_empty());
    assert_eq!(marked(&turns[2]).len(), 1);
    assert!(Process::pid_lives(lives[2].1));
    assert_eq!(sweep_turn(&turns[2], Some(lives[2].1)), 2);
    for (child, _) in &mut lives {
        // The reaper of another test may have been first.
        let _ = child.wait();
    }
    assert_eq!(sweep_turns(&[]), 0);
}
