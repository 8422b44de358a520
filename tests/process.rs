//! Children: starting them, their output and input, and how they end by themselves. No test asserts a time.

mod support;

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bellhop::runtime::process::{Driven, Process, SpawnError, Spec, Stdin, StopCause, signal_name, sweep_turn};
use support::child::{Notes, adopt_orphans, ended, eventually, identity, marked, run, script, token, unique};

#[test]
fn output_and_exit_code() {
    let mut notes = Notes::default();
    let end = run(script("echo one; echo ' two '; echo; echo err >&2; printf last; exit 3"), &mut notes);
    assert_eq!(notes.lines, ["one", "two", "last"]);
    assert_eq!(notes.stderr, ["err"]);
    assert_eq!((end.exit_code, end.signal, end.stopped, end.given_up), (Some(3), None, None, false));
    assert_eq!(end.stdout_tail, "one\n two \n\nlast");
    assert_eq!(end.stderr_tail, "err\n");
    assert_eq!(end.skipped_lines, 0);
}

#[test]
fn what_is_kept_of_the_output_has_no_colours() {
    let end = run(script("printf '\\033[1mbold\\033[0m'; printf '\\033[31mred\\033[0m\\n' >&2"), &mut Notes::default());
    assert_eq!((end.stdout_tail.as_str(), end.stderr_tail.as_str()), ("bold", "red\n"));
}

#[test]
fn a_child_that_kills_itself() {
    let end = run(script("kill -TERM $$"), &mut Notes::default());
    assert_eq!((end.exit_code, end.signal), (None, Some(15)));
    assert_eq!(signal_name(15), "SIGTERM");
    assert_eq!(signal_name(4_000), "signal 4000");
}

#[test]
fn a_child_that_exits_at_once_without_output() {
    let mut notes = Notes::default();
    let end = run(script("exit 0"), &mut notes);
    assert_eq!((end.exit_code, end.stopped), (Some(0), None));
    assert!(notes.lines.is_empty());
}

#[test]
fn invalid_and_split_utf8() {
    let mut notes = Notes::default();
    run(script(r"printf 'a\377b\n'; printf '\342\202'; sleep 0.05; printf '\254\n'"), &mut notes);
    assert_eq!(notes.lines, ["a\u{fffd}b", "€"]);
}

#[test]
fn many_lines_in_order() {
    let mut notes = Notes::default();
    run(script("seq 1 50000"), &mut notes);
    assert_eq!(notes.lines.len(), 50_000);
    assert!(notes.lines.iter().enumerate().all(|(at, line)| line.parse() == Ok(at + 1)));
}

#[test]
fn a_line_of_a_hundred_megabytes_is_skipped_and_counted() {
    let mut notes = Notes::default();
    let end = run(script("echo before; head -c 100000000 /dev/zero | tr '\\0' x; echo; echo after"), &mut notes);
    assert_eq!(notes.lines, ["before", "after"]);
    assert_eq!(end.skipped_lines, 1);
    assert_eq!(end.stdout_tail.len(), 8_192);
}

#[test]
fn the_environment_is_exactly_what_was_given() {
    let mut spec = script("env");
    spec.env.push(("GIVEN".into(), "a=b".into()));
    let turn = spec.turn_id.clone();
    let mut notes = Notes::default();
    run(spec, &mut notes);
    // The shell adds these by itself.
    notes.lines.retain(|line| !["PWD=", "OLDPWD=", "SHLVL=", "_=", "PATH="].iter().any(|own| line.starts_with(own)));
    notes.lines.sort();
    assert_eq!(notes.lines, [format!("BELLHOP_TURN={turn}"), "GIVEN=a=b".into()]);
}

#[test]
fn the_child_leads_its_own_group_and_is_known_by_its_start() {
    let mut process = Process::spawn(script("ps -o pgid= -p $$ 2>/dev/null || cut -d' ' -f5 /proc/$$/stat")).unwrap();
    let id = process.id();
    assert_eq!(identity(id.pid), Some(id));
    let mut notes = Notes::default();
    ended(process.drive(&token(), &mut notes));
    assert_eq!(notes.lines, [id.pid.to_string()]);
    assert!(!Process::pid_lives(id));
}

#[test]
fn a_child_can_be_driven_by_another_thread() {
    let mut process = Process::spawn(script("echo x")).unwrap();
    let end = std::thread::spawn(move || ended(process.drive(&token(), &mut Notes::default()))).join().unwrap();
    assert_eq!(end.exit_code, Some(0));
}

#[test]
fn the_same_end_is_returned_again() {
    let mut process = Process::spawn(script("exit 4")).unwrap();
    let first = process.drive(&token(), &mut Notes::default());
    assert_eq!(process.drive(&token(), &mut Notes::default()), first);
}

fn refused(spec: Spec) -> SpawnError {
    match Process::spawn(spec) {
        Ok(_) => panic!("it was started"),
        Err(error) => error,
    }
}

#[test]
fn programs_that_cannot_be_started() {
    let dir = std::env::temp_dir().join(unique("bellhop-process"));
    fs::create_dir(&dir).unwrap();
    let plain = dir.join("plain");
    fs::write(&plain, "#!/bin/sh\n").unwrap();
    let orphaned = dir.join("orphaned");
    fs::write(&orphaned, "#!/does/not/exist\n").unwrap();
    let mut permissions = fs::metadata(&orphaned).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(&orphaned, permissions).unwrap();

    let program = |path: PathBuf| Spec { program: path, ..script("") };
    let path = |dir: &PathBuf| vec![(OsString::from("PATH"), dir.clone().into_os_string())];
    let cases = [
        (program("/does/not/exist".into()), "/does/not/exist does not exist"),
        (program("no-such-program".into()), "no-such-program was not found on the PATH"),
        (program(plain.clone()), "is not executable"),
        (program(dir.clone()), "is not a file"),
        (program(orphaned), "interpreter"),
        (Spec { env: path(&dir), ..program("plain".into()) }, "is not executable"),
        (Spec { env: path(&dir), ..program("sh".into()) }, "not found on the PATH"),
    ];
    for (spec, expected) in cases {
        let error = refused(spec);
        assert!(error.message.contains(expected), "{}", error.message);
        assert!(error.message.starts_with("fake "), "{}", error.message);
        assert!(error.not_found, "{}", error.message);
    }
    let error = refused(Spec { cwd: dir.join("gone"), ..script("") });
    assert!(error.message.contains("gone does not exist") && !error.not_found, "{}", error.message);
    let error = refused(Spec { cwd: plain, ..script("") });
    assert!(error.message.contains("not a directory") && !error.not_found, "{}", error.message);
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn programs_are_found_from_the_working_directory_and_on_the_childs_path() {
    let dir = std::env::temp_dir().join(unique("bellhop-process"));
    fs::create_dir_all(dir.join("bin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", dir.join("bin/shell")).unwrap();
    let on_path = Spec { program: "shell".into(), cwd: dir.clone(), ..script("echo path") };
    let on_path = Spec { env: vec![("PATH".into(), dir.join("bin").into())], ..on_path };
    let relative = Spec { program: "bin/shell".into(), cwd: dir.clone(), ..script("echo relative") };
    let default_path = Spec { env: Vec::new(), ..script("echo default") };
    for (spec, expected) in [(on_path, "path"), (relative, "relative"), (default_path, "default")] {
        let mut notes = Notes::default();
        run(spec, &mut notes);
        assert_eq!(notes.lines, [expected]);
    }
    fs::remove_dir_all(&dir).unwrap();
}

#[test]
fn strings_that_a_program_cannot_be_given() {
    let nul = || OsString::from_vec(b"a\0secret".to_vec());
    let cases = [
        (Spec { args: vec!["-c".into(), nul()], ..script("") }, "argument 2"),
        (Spec { env: vec![("KEY".into(), nul())], ..script("") }, "variable KEY"),
        (Spec { env: vec![("A=B".into(), "x".into())], ..script("") }, "\"A=B\""),
        (Spec { env: vec![(OsString::new(), "x".into())], ..script("") }, "\"\""),
        (Spec { turn_id: "a\0b".into(), ..script("") }, "turn id"),
        (Spec { cwd: PathBuf::from(nul()), ..script("") }, "NUL"),
        (Spec { args: vec!["-c".into(), "x".repeat(200_000).into()], ..script("") }, "argument list too long"),
    ];
    for (spec, expected) in cases {
        let error = refused(spec);
        assert!(error.message.contains(expected), "{}", error.message);
        assert!(!error.message.contains("secret"), "{}", error.message);
        assert!(!error.not_found);
    }
}

#[test]
fn a_megabyte_on_stdin_comes_back() {
    let mut notes = Notes::default();
    let text = "0123456789abcde\n".repeat(65_536);
    let end = run(Spec { stdin: Stdin::Bytes(text.into()), ..script("cat") }, &mut notes);
    assert_eq!(end.exit_code, Some(0));
    assert_eq!(notes.lines.len(), 65_536);
    assert!(notes.lines.iter().all(|line| line == "0123456789abcde"));
}

#[test]
fn a_child_that_does_not_read_its_stdin() {
    for text in ["echo done", "exec <&-; echo done", "sleep 0.1; echo done"] {
        let mut notes = Notes::default();
        let end = run(Spec { stdin: Stdin::Bytes(vec![b'x'; 1_000_000]), ..script(text) }, &mut notes);
        assert_eq!((end.exit_code, notes.lines), (Some(0), vec!["done".to_owned()]), "{text}");
    }
}

#[test]
fn empty_stdin_is_at_its_end() {
    for stdin in [Stdin::Null, Stdin::Bytes(Vec::new())] {
        let mut notes = Notes::default();
        run(Spec { stdin, ..script("cat; echo end") }, &mut notes);
        assert_eq!(notes.lines, ["end"]);
    }
}

#[test]
fn a_conversation_over_stdin() {
    let mut notes = Notes::doing(|line, io| match line {
        "ready" => io.write("a\n"),
        "got a" => {
            io.write("b\n");
            io.write("c");
            io.close_stdin();
            io.write("too late\n");
        }
        _ => {}
    });
    let text = "echo ready; while read l || [ -n \"$l\" ]; do echo got $l; l=; done; echo end";
    run(Spec { stdin: Stdin::Pipe, ..script(text) }, &mut notes);
    assert_eq!(notes.lines, ["ready", "got a", "got b", "got c", "end"]);
}

#[test]
fn pause_and_drive_again() {
    let text = "echo 1; echo 2; echo err >&2; read l; echo got $l";
    let mut process = Process::spawn(Spec { stdin: Stdin::Pipe, ..script(text) }).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let mut notes = Notes::doing(|_, io| io.pause());
        assert_eq!(process.drive(&token(), &mut notes), Driven::Paused);
        assert_eq!(notes.lines.len() + notes.stderr.len(), 1);
        seen.append(&mut notes.lines);
        seen.append(&mut notes.stderr);
    }
    seen.sort();
    assert_eq!(seen, ["1", "2", "err"]);
    // A wake-up is an event like any other; here it carries the second task.
    let cancel = token();
    cancel.wake();
    let mut notes = Notes::doing(|event, io| {
        if event == "(woken)" {
            io.write("task\n");
        }
    });
    let end = ended(process.drive(&cancel, &mut notes));
    assert_eq!((notes.lines.as_slice(), notes.wakes), (["got task".to_owned()].as_slice(), 1));
    assert_eq!((end.exit_code, end.stdout_tail.as_str()), (Some(0), "1\n2\ngot task\n"));
}

#[test]
fn ticks_come_when_asked_for() {
    let mut notes = Notes::doing(|event, io| match event {
        "ready" => io.wake_at(Some(Instant::now())),
        "(tick)" => io.close_stdin(),
        _ => {}
    });
    let end = run(Spec { stdin: Stdin::Pipe, ..script("echo ready; cat; echo end") }, &mut notes);
    assert_eq!((notes.ticks, end.exit_code), (1, Some(0)));
    assert_eq!(notes.lines, ["ready", "end"]);
}

#[test]
fn an_orphan_that_holds_the_pipes_does_not_hold_the_turn() {
    adopt_orphans();
    let spec = script("setsid sleep 300 & echo done; exit 3");
    let turn = spec.turn_id.clone();
    let mut process = Process::spawn(spec).unwrap();
    let mut notes = Notes::default();
    let end = ended(process.drive(&token(), &mut notes));
    assert_eq!(notes.lines, ["done"]);
    assert_eq!((end.exit_code, end.stopped), (Some(3), None));
    // A normal end leaves it alone, and says so.
    let left = process.leftovers();
    assert_eq!(left.len(), 1);
    assert_eq!(process.finish(), 1);
    assert_eq!(marked(&turn), left);
    assert_eq!(sweep_turn(&turn, None), 1);
    assert!(marked(&turn).is_empty());
}

#[test]
fn leftovers_are_killed_where_that_is_wanted() {
    adopt_orphans();
    let server = "sleep 300 >/dev/null 2>&1 & echo up; exec >/dev/null 2>&1; wait";
    let text = format!("setsid sh -c '{server}' & read line");
    let spec = Spec { kill_leftovers: true, stdin: Stdin::Pipe, ..script(&text) };
    let turn = spec.turn_id.clone();
    let mut process = Process::spawn(spec).unwrap();
    ended(process.drive(&token(), &mut Notes::doing(|_, io| io.write("done\n"))));
    assert_eq!(process.finish(), 2);
    assert!(marked(&turn).is_empty());
    assert_eq!(process.finish(), 0);
}

#[test]
fn a_child_without_leftovers_has_none() {
    adopt_orphans();
    let mut process = Process::spawn(script("sleep 0.01; (true); echo x")).unwrap();
    ended(process.drive(&token(), &mut Notes::default()));
    assert!(process.leftovers().is_empty());
}

#[test]
fn dead_orphans_do_not_stay_zombies() {
    adopt_orphans();
    let mut notes = Notes::default();
    run(script("setsid sleep 0.2 >/dev/null 2>&1 & echo $!"), &mut notes);
    let pid: i32 = notes.lines[0].parse().unwrap();
    eventually("the orphan is reaped", || identity(pid).is_none());
}

#[test]
fn a_child_that_should_end_by_itself_and_does_not() {
    adopt_orphans();
    let spec = script("setsid sleep 300 >/dev/null 2>&1 & echo result; exec sleep 300");
    let turn = spec.turn_id.clone();
    let mut process = Process::spawn(spec).unwrap();
    let mut notes = Notes::doing(|_, io| io.end_within(Duration::from_millis(20)));
    let end = ended(process.drive(&token(), &mut notes));
    assert_eq!((end.stopped, end.signal, notes.interrupts), (None, Some(2), 0));
    // What was started on purpose is still there.
    assert_eq!(process.finish(), 1);
    assert_eq!(sweep_turn(&turn, None), 1);
}

#[test]
fn a_child_that_ends_in_the_time_it_was_given() {
    let mut notes = Notes::doing(|_, io| io.end_within(Duration::from_mins(10)));
    let end = run(script("echo result; exit 5"), &mut notes);
    assert_eq!((end.stopped, end.exit_code), (None, Some(5)));
}

#[test]
fn the_idle_watchdog() {
    let spec = Spec { idle_limit: Some(Duration::from_millis(100)), ..script("echo x; exec sleep 300") };
    let end = run(spec, &mut Notes::default());
    assert_eq!((end.stopped, end.signal), (Some(StopCause::Idle), Some(2)));
}

#[test]
fn the_idle_watchdog_does_not_count_while_the_handler_is_busy() {
    let spec = Spec { idle_limit: Some(Duration::from_millis(50)), ..script("sleep 0.5; echo x") };
    let mut notes = Notes { busy: true, ..Notes::default() };
    let end = run(spec, &mut notes);
    assert_eq!((end.stopped, end.exit_code), (None, Some(0)));
    assert_eq!(notes.lines, ["x"]);
}
