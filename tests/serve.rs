//! The control socket, met by strict, clumsy and hostile clients over real sockets.

#[path = "support/fake_control.rs"]
#[allow(dead_code)]
mod fake_control;

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use bellhop::serve::client::{Client, ClientError, ClientLimits};
use bellhop::serve::follow::Follow;
use bellhop::serve::http::Limits;
use bellhop::serve::server::{Server, Settings};
use bellhop::serve::wire::*;
use fake_control::{Fake, Home, House, Tell, message, read_all, report, status};

fn house() -> House {
    House::open(Settings::default())
}

/// Time limits that a test can wait for, and a busy machine can keep.
fn impatient() -> Settings {
    let short = Duration::from_secs(1);
    let http = Limits { head_time: short, body_time: short, idle_time: short, write_time: short, ..Limits::default() };
    Settings { http, keep_alive: Duration::from_millis(100), ..Settings::default() }
}

fn client(house: &House) -> Client {
    let limits = ClientLimits { patience: Duration::from_secs(5), ..ClientLimits::default() };
    Client::with_limits(&house.socket(), limits).unwrap()
}

fn names(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::name).collect()
}

#[test]
fn the_client_and_the_server_understand_each_other() {
    let house = house();
    let client = client(&house);
    let hello = Submit { text: "hello".into(), id: Some("m-1".into()), new: true, ..Submit::default() };
    let accepted = client.submit(&hello).unwrap();
    assert_eq!((accepted.id.as_str(), accepted.duplicate), ("m-1", false));
    assert_eq!(house.fake.submitted.lock().unwrap()[0], hello);
    assert!(client.submit(&hello).unwrap().duplicate);
    assert!(client.submit(&Submit { id: None, ..hello }).unwrap().id.starts_with("m_"));

    assert_eq!(client.status().unwrap().pid, 7);
    assert_eq!(client.health().unwrap().status, Wellness::Well);
    *house.fake.health.lock().unwrap() =
        Health { status: Wellness::Down, reasons: vec!["disk full".into()], ..Health::default() };
    assert_eq!(client.health().unwrap().reasons, ["disk full"]);
    assert!(client.sessions().unwrap().sessions.is_empty());
    assert_eq!(client.message("a/b").unwrap(), MessageState::new("a/b", State::Unknown));
    assert_eq!(client.cancel("telegram:a/b %").unwrap().cancelled, 1);
    assert_eq!(client.cancel_conversation(&Cancel::default()).unwrap().cancelled, 2);
    assert_eq!(client.shutdown(&Shutdown { drain_seconds: Some(3) }).unwrap().drain_seconds, 3);
    let conflict = client.reset_sessions(&ResetSessions { key: Some("k".into()), ..ResetSessions::default() });
    assert_eq!(conflict.unwrap_err().kind(), Some(ErrorKind::Conflict));
    assert_eq!(*house.fake.asked.lock().unwrap(), ["cancel telegram:a/b %", "cancel None None", "reset Some(\"k\")"]);
}

#[test]
fn requests_that_make_no_sense_are_told_why() {
    let nested = |levels| format!(r#"{{"text":{}1{}}}"#, r#"{"a":"#.repeat(levels), "}".repeat(levels));
    let house = house();
    let cases = [
        ("GET", "/", "", 404, "there is no path"),
        ("GET", "/v2/status", "", 404, "there is no path"),
        ("GET", "/v1/status/", "", 404, "there is no path"),
        ("POST", "/v1/status", "", 405, "takes GET, not"),
        ("DELETE", "/v1/messages", "", 405, "takes POST, not"),
        ("GET", "/v1/status?verbose", "", 400, "no path takes one"),
        ("GET", "/v1/messages/%zz", "", 400, "percent"),
        ("GET", "/v1/messages/%00", "", 400, "control characters"),
        ("GET", "/v1/messages/nobody/events", "", 404, "is not known"),
        ("POST", "/v1/messages", "", 400, "neither text nor a file"),
        ("POST", "/v1/messages", "{", 400, "not JSON"),
        ("POST", "/v1/messages", &nested(126), 400, "expected a string"),
        ("POST", "/v1/messages", &nested(200), 400, "recursion limit"),
        ("POST", "/v1/messages", r#"{"text":1}"#, 400, "expected a string"),
        ("POST", "/v1/messages", r#"{"text":"x","speed":9}"#, 400, "unknown field `speed`"),
        ("POST", "/v1/messages", r#"{"text":"x","cwd":"here"}"#, 400, "absolute path"),
        ("POST", "/v1/messages", r#"{"text":"x","files":["/a","b"]}"#, 400, "absolute path"),
        ("POST", "/v1/messages", r#"{"text":"x","agent":""}"#, 400, "agent is"),
        ("POST", "/v1/messages", r#"{"text":"x","id":"local:1"}"#, 400, "only letters"),
        ("POST", "/v1/messages", r#"{"text":"x","timeout_ms":0}"#, 400, "timeout_ms"),
        ("POST", "/v1/messages", r#"{"text":"busy"}"#, 429, "50 messages wait"),
        ("POST", "/v1/messages/m/cancel", r#"{"now":true}"#, 400, "unknown field"),
        ("POST", "/v1/sessions/reset", "{}", 400, "exactly one"),
        ("POST", "/v1/sessions/reset", r#"{"all":true,"key":"k"}"#, 400, "exactly one"),
        ("POST", "/v1/shutdown", r#"{"drain_seconds":-1}"#, 400, "does not fit"),
    ];
    for (method, path, body, expected, words) in cases {
        let (status, answer) = house.ask(method, path, body);
        let error: ErrorAnswer = serde_json::from_str(&answer).expect(&answer);
        assert_eq!(status, expected, "{method} {path} {body}: {answer}");
        assert_eq!(error.error.kind.status(), expected);
        assert!(error.error.message.contains(words), "{method} {path} {body}: {answer}");
    }
    let form = "POST /v1/messages HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: text/plain\r\n\
        Content-Length: 2\r\n\r\n{}";
    assert_eq!(status(&house.raw(form.as_bytes())), 415);
    assert!(house.raw(b"PUT /health HTTP/1.0\r\n\r\n").contains("\r\nAllow: GET\r\n"));
    assert!(house.raw(b"HEAD /health HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(house.fake.submitted.lock().unwrap().is_empty());
}

#[test]
fn a_request_may_come_in_any_pieces() {
    let house = house();
    let mut stream = house.connect();
    let request = "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json; charset=UTF-8\r\n\
        Connection: close\r\nContent-Length: 12\r\n\r\n{\"text\":\"a\"}";
    for byte in request.bytes() {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(status(&read_all(&mut stream)), 202);
    assert_eq!(house.fake.submitted.lock().unwrap()[0].text, "a");
}

#[test]
fn pipelined_requests_are_answered_in_order_on_one_connection() {
    let house = house();
    let answer = house.raw(
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nPOST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n\
          GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let statuses: Vec<u16> = answer.split("HTTP/1.1 ").skip(1).filter_map(|a| a.get(..3)?.parse().ok()).collect();
    assert_eq!(statuses, [200, 200, 404, 200]);
}

#[test]
fn a_peer_that_asks_first_is_told_to_go_on() {
    let house = house();
    let mut stream = house.connect();
    let head = "POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\n\
        Expect: 100-continue\r\nContent-Length: 12\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut line = [0; 25];
    stream.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{\"text\":\"b\"}").unwrap();
    assert_eq!(status(&read_all(&mut stream)), 202);
}

#[test]
fn bad_heads_and_lengths_are_refused_and_the_connection_closed() {
    let house = house();
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(100));
    let big =
        format!("POST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n{}", "x".repeat(5_000_000));
    let cases: [(&[u8], u16); 9] = [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03garbage", 400),
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: \xff\r\n\r\n", 400),
        (long.as_bytes(), 431),
        (many.as_bytes(), 431),
        (big.as_bytes(), 413),
        (b"POST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: two\r\n\r\n{}", 400),
        (b"POST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
        (b"POST /v1/cancel HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 411),
    ];
    for (bytes, expected) in cases {
        let answer = house.raw(bytes);
        assert_eq!(status(&answer), expected, "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(60)]));
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
        assert!(answer.contains("\r\nConnection: close\r\n"));
    }
    assert_eq!(house.ask("GET", "/health", "").0, 200);
}

#[test]
fn half_closed_connections_get_their_answer() {
    let house = house();
    for (bytes, expected) in [
        ("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        ("GET /health HTTP/1.1\r\nHo", 400),
        ("POST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", 400),
        ("", 0),
    ] {
        let mut stream = house.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(status(&read_all(&mut stream)), expected, "{bytes:?}");
    }
    let message = message("half");
    house.follow.queued(&message);
    let mut stream = house.connect();
    stream.write_all(b"GET /v1/messages/half/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    house.follow.finished(&message, "bye");
    assert!(read_all(&mut stream).contains("event: finished"));
}

#[test]
fn slow_clients_are_not_waited_for() {
    let house = House::open(impatient());
    let cases = [
        ("", 0),
        ("GET /health HTTP/1.1\r\nHost: x\r\nX-", 408),
        ("POST /v1/cancel HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{", 408),
        ("GET /health HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ];
    std::thread::scope(|scope| {
        let house = &house;
        for (bytes, expected) in cases {
            scope.spawn(move || assert_eq!(status(&house.raw(bytes.as_bytes())), expected, "{bytes:?}"));
        }
    });
    // A byte now and then does not stretch the limit.
    let mut stream = house.connect();
    let mut trickled = 0;
    while trickled < 2000 && stream.write_all(b"G").is_ok() {
        trickled += 1;
        std::thread::sleep(Duration::from_millis(5));
    }
    assert!(trickled < 2000);
}

#[test]
fn connections_beyond_the_limit_are_told_so_at_once() {
    let house = house();
    let held: Vec<UnixStream> = (0..32)
        .map(|_| {
            let mut stream = house.connect();
            stream.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            // Once it is answered it has its place for sure.
            let mut first = [0; 12];
            stream.read_exact(&mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200");
            stream
        })
        .collect();
    for _ in 0..8 {
        assert_eq!(status(&house.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")), 503);
    }
    drop(held);
    // Places are free again once the threads have seen it.
    while house.ask("GET", "/health", "").0 != 200 {
        std::thread::yield_now();
    }
}

#[test]
fn event_streams_leave_room_for_requests() {
    let house = house();
    let message = message("m");
    house.follow.queued(&message);
    let client = client(&house);
    let mut held = Vec::new();
    for _ in 0..24 {
        let mut events = client.events("m").unwrap();
        events.next().unwrap().unwrap();
        held.push(events);
    }
    assert_eq!(house.ask("GET", "/v1/messages/m/events", "").0, 503);
    assert!(client.status().is_ok());
    // Who watches an accepted message has its end all the same, and its events once there is room.
    let late = client.events("m").unwrap();
    drop(held);
    house.follow.finished(&message, "done");
    let late: Vec<Event> = late.map(Result::unwrap).collect();
    assert_eq!(late.last().map(Event::name), Some("finished"), "{late:?}");
}

#[test]
fn a_stream_replays_from_the_beginning_or_from_where_it_was() {
    let house = house();
    let message = message("m");
    house.follow.queued(&message);
    house.follow.started(&message);
    house.follow.says(&message, 1, "one");
    let mut events = client(&house).events("m").unwrap();
    let mut seen: Vec<Event> = events.by_ref().take(3).map(Result::unwrap).collect();
    house.follow.says(&message, 2, "two");
    house.follow.finished(&message, "one two");
    seen.extend(events.map(Result::unwrap));
    assert_eq!(names(&seen), ["queued", "started", "block", "block", "finished"]);

    let whole = house.raw(b"GET /v1/messages/m/events HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, body) = whole.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("text/event-stream"), "{head}");
    let ids: Vec<&str> = body.lines().filter_map(|l| l.strip_prefix("id: ")).collect();
    assert_eq!(ids.len(), 5);
    assert!(ids.is_sorted());
    for (n, id) in ids.iter().enumerate() {
        let request = format!("GET /v1/messages/m/events HTTP/1.1\r\nHost: x\r\nLast-Event-ID: {id}\r\n\r\n");
        assert_eq!(house.raw(request.as_bytes()).matches("event: ").count(), 4 - n);
    }
    // Numbers of the future are of a daemon whose clock was ahead; words are nobody's.
    let ask =
        |id: &str| house.raw(format!("GET /v1/messages/m/events HTTP/1.0\r\nLast-Event-ID: {id}\r\n\r\n").as_bytes());
    assert_eq!(ask(&u64::MAX.to_string()).matches("event: ").count(), 5);
    assert_eq!(status(&ask("yesterday")), 400);
}

#[test]
fn a_message_that_only_the_journal_remembers_can_be_watched() {
    let house = House::open(impatient());
    *house.fake.states.lock().unwrap() = vec![
        MessageState::new("waits", State::Waiting),
        MessageState { report: Some(report("over", "bye")), ..MessageState::new("over", State::Done) },
        MessageState::new("past", State::Done),
    ];
    let client = client(&house);
    let over: Vec<Event> = client.events("over").unwrap().map(Result::unwrap).collect();
    assert_eq!(names(&over), ["finished"]);
    let past = client.events("past").unwrap_err();
    assert!(past.to_string().contains("no longer remembered"), "{past}");

    let events = client.events("waits").unwrap();
    house.follow.started(&message("waits"));
    house.follow.finished(&message("waits"), "");
    let seen: Vec<Event> = events.map(Result::unwrap).collect();
    assert_eq!(names(&seen), ["started", "finished"]);

    // Cancelled before its turn: no event tells the end, but the journal does.
    house.fake.states.lock().unwrap().push(MessageState::new("dropped", State::Waiting));
    let mut events = client.events("dropped").unwrap();
    house.follow.queued(&message("dropped"));
    events.next().unwrap().unwrap();
    house.fake.states.lock().unwrap().last_mut().unwrap().state = State::Done;
    let end = events.next().unwrap().unwrap_err();
    assert_eq!(end.kind(), Some(ErrorKind::NotFound), "{end}");
    assert!(events.next().is_none());
}

#[test]
fn a_subscriber_that_never_reads_holds_nobody_up() {
    let house = House::open(impatient());
    let message = message("m");
    house.follow.queued(&message);
    let mut deaf = house.connect();
    deaf.write_all(b"GET /v1/messages/m/events HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 15];
    deaf.read_exact(&mut first).unwrap();
    // More than any socket buffer holds: with a subscriber in the way this would never end.
    let text = "x".repeat(10_000);
    for seq in 1..=2_000 {
        house.follow.says(&message, seq, &text);
    }
    house.follow.finished(&message, "done");
    let seen: Vec<Event> = client(&house).events("m").unwrap().map(Result::unwrap).collect();
    assert_eq!(seen.last().unwrap().name(), "finished");
    // The deaf one is dropped after the time that a write may take; without reading, that is a hang-up.
    let mut fds = [rustix::event::PollFd::new(&deaf, rustix::event::PollFlags::empty())];
    rustix::event::poll(&mut fds, None).unwrap();
    assert!(!read_all(&mut deaf).contains("event: finished"));
}

#[test]
fn a_panic_is_answered_and_survived() {
    let house = house();
    let (status, answer) = house.ask("POST", "/v1/messages", r#"{"text":"panic"}"#);
    assert_eq!(status, 500);
    assert!(!answer.contains("as the test asked"), "{answer}");
    assert_eq!(house.ask("GET", "/health", "").0, 200);
}

#[test]
fn the_socket_is_the_owners_alone_and_goes_with_the_server() {
    let mut house = house();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let socket = house.socket();
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(socket.parent().unwrap()), 0o700);
    let client = client(&house);
    assert!(house.server.take().unwrap().stop());
    assert!(!socket.exists());
    assert!(client.status().unwrap_err().is_no_daemon());
    assert!(Client::connect(&socket).unwrap_err().is_no_daemon());
}

#[test]
fn a_stale_socket_is_replaced_and_another_file_is_not() {
    let home = Home::new();
    let path = bellhop::serve::socket::path(&home.0);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    assert!(matches!(Client::connect(&path), Err(ClientError::NoDaemon { .. })));
    let start = || Server::start(&home.0, Arc::new(Fake::default()), Arc::new(Follow::default()), Settings::default());
    let server = start().unwrap();
    assert!(Client::connect(&path).unwrap().health().is_ok());
    drop(server);
    std::fs::write(&path, "precious").unwrap();
    let error = start().err().expect("it must not replace a file");
    assert!(error.to_string().contains("bellhop.sock"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn a_home_with_a_long_path_works() {
    let short = Home::new();
    let home = short.0.join("long-".repeat(40));
    std::fs::create_dir(&home).unwrap();
    let server =
        Server::start(&home, Arc::new(Fake::default()), Arc::new(Follow::default()), Settings::default()).unwrap();
    assert!(server.path().as_os_str().len() > 108);
    assert_eq!(std::fs::metadata(server.path()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(Client::connect(server.path()).unwrap().status().unwrap().pid, 7);
    assert!(server.stop());
}

#[test]
fn stopping_ends_streams_and_idle_connections() {
    let mut house = house();
    house.follow.queued(&message("m"));
    let limits = ClientLimits { patience: Duration::ZERO, ..ClientLimits::default() };
    let mut events = Client::with_limits(&house.socket(), limits).unwrap().events("m").unwrap();
    events.next().unwrap().unwrap();
    let mut idle = house.connect();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET ").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert!(house.server.take().unwrap().stop());
    assert!(read_all(&mut idle).contains("the daemon stops"));
    let lost = events.next().unwrap().unwrap_err();
    assert!(matches!(&lost, ClientError::StillAccepted { id, .. } if id == "m"), "{lost}");
    assert!(lost.to_string().contains("will be answered"));
    assert!(events.next().is_none());
}

#[test]
fn a_turn_that_ends_just_before_the_daemon_is_seen_to_end() {
    for round in 0..50 {
        let mut house = house();
        let message = message("m");
        house.follow.queued(&message);
        let limits = ClientLimits { patience: Duration::ZERO, ..ClientLimits::default() };
        let mut events = Client::with_limits(&house.socket(), limits).unwrap().events("m").unwrap();
        events.next().unwrap().unwrap();
        house.follow.started(&message);
        house.follow.finished(&message, "just in time");
        assert!(house.server.take().unwrap().stop());
        let rest: Vec<_> = events.collect();
        assert!(matches!(rest.last(), Some(Ok(Event::Finished(_)))), "round {round}: {rest:?}");
    }
}

#[test]
fn a_watcher_survives_a_restart_of_the_daemon() {
    let mut house = house();
    let client = client(&house);
    let message = message("m");
    house.follow.queued(&message);
    house.follow.started(&message);
    let mut events = client.events("m").unwrap();
    assert_eq!(names(&events.by_ref().take(2).map(Result::unwrap).collect::<Vec<_>>()), ["queued", "started"]);
    assert!(house.server.take().unwrap().stop());

    // A process takes longer than this to start; event numbers count on it.
    std::thread::sleep(Duration::from_millis(2));
    let follow = Arc::new(Follow::default());
    house.fake.states.lock().unwrap().push(MessageState::new("m", State::Waiting));
    let server = Server::start(&house.home.0, house.fake.clone(), follow.clone(), Settings::default()).unwrap();
    follow.started(&message);
    follow.finished(&message, "back");
    let rest: Vec<Event> = events.map(Result::unwrap).collect();
    assert_eq!(rest.last().map(Event::name), Some("finished"), "{rest:?}");
    drop(server);
}

#[test]
fn a_message_whose_acceptance_was_lost_is_sent_again_under_its_id() {
    let home = Home::new();
    let path = home.0.join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let daemon = std::thread::spawn(move || {
        let mut heard = Vec::new();
        for n in 0.. {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let length = stream.read(&mut request).unwrap();
            let text = String::from_utf8_lossy(&request[..length]).into_owned();
            // The first connection only tries the socket; the second dies before it is answered.
            let Some((_, body)) = text.split_once("\r\n\r\n") else { continue };
            heard.push(serde_json::from_str::<Submit>(body).unwrap().id.unwrap());
            if n < 2 {
                continue;
            }
            let body = r#"{"id":"i","agent":"a","conversation":"c","duplicate":true,"ahead":0,"new_field":1}"#;
            let answer = format!("HTTP/1.1 202 Accepted\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).unwrap();
            return heard;
        }
        heard
    });
    let client = Client::connect(&path).unwrap();
    let accepted = client.submit(&Submit { text: "once".into(), ..Submit::default() }).unwrap();
    assert!(accepted.duplicate);
    let heard = daemon.join().unwrap();
    assert_eq!(heard.len(), 2);
    assert_eq!(heard[0], heard[1]);
}
