//! An agent's connection against a server that plays the hub's side of the socket, one script per connection.

use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bellhop::channel::botcord::connection::Connection;
use bellhop::channel::botcord::hub::{Fault, Hub, Page};
use bellhop::channel::botcord::inbox::{AckAt, Inbox};
use bellhop::channel::botcord::socket::Timing;
use bellhop::engine::Acceptance;
use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Acceptor, ChannelNews, Exit};
use bellhop::message::Inbound;
use tungstenite::protocol::frame::{CloseFrame, coding::CloseCode};
use tungstenite::{Message, WebSocket, accept};

const LIMIT: Duration = Duration::from_secs(30);

type Ws = WebSocket<TcpStream>;

/// What happens, in order.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Poll,
    Token(Option<String>),
    Connected(bool),
}

struct FakeHub {
    url: String,
    seen: Sender<Seen>,
    tokens: AtomicUsize,
    faults: Mutex<Vec<Fault>>,
}

impl Hub for FakeHub {
    fn poll(&self, _wait: Duration) -> Result<Page, Fault> {
        let _ = self.seen.send(Seen::Poll);
        Ok(Page::default())
    }

    fn acknowledge(&self, _ids: &[String]) -> Result<u64, Fault> {
        Ok(0)
    }

    fn renew(&self, _ids: &[String]) -> Result<u64, Fault> {
        Ok(0)
    }

    fn token(&self, refused: Option<&str>) -> Result<String, Fault> {
        let _ = self.seen.send(Seen::Token(refused.map(str::to_owned)));
        if let Some(fault) = self.faults.lock().unwrap().pop() {
            return Err(fault);
        }
        Ok(format!("t\"{}", self.tokens.fetch_add(1, Ordering::Relaxed)))
    }

    fn socket_url(&self) -> String {
        self.url.clone()
    }
}

/// Takes nothing, for nothing comes.
struct NoEngine;

impl Acceptor for NoEngine {
    fn accept(&self, _messages: Vec<Inbound>) -> Vec<Acceptance> {
        Vec::new()
    }

    fn knows(&self, _channel: &str, _id: &str) -> Option<bool> {
        None
    }

    fn unfinished(&self, _channel: &str) -> Vec<String> {
        Vec::new()
    }
}

struct Play {
    seen: Receiver<Seen>,
    stop: CancelToken,
    run: JoinHandle<Exit>,
    scripts: JoinHandle<()>,
}

impl Play {
    fn next(&self) -> Seen {
        self.seen.recv_timeout(LIMIT).expect("something happens")
    }

    fn end(self) -> Exit {
        self.stop.cancel(CancelReason::Shutdown);
        self.scripts.join().unwrap();
        self.run.join().unwrap()
    }
}

/// Runs a connection; each script has the next socket of it.
fn play(timing: Timing, faults: Vec<Fault>, scripts: Vec<Box<dyn FnOnce(Ws) + Send>>) -> Play {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}/hub/ws", listener.local_addr().unwrap());
    let scripts = std::thread::spawn(move || {
        for script in scripts {
            script(accept(listener.accept().unwrap().0).unwrap());
        }
    });
    let (sender, seen) = channel();
    let stop = CancelToken::new().unwrap();
    let run = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let news = sender.clone();
            let hub =
                Arc::new(FakeHub { url, seen: sender, tokens: AtomicUsize::default(), faults: Mutex::new(faults) });
            let inbox = Inbox::new("ag_me", Arc::clone(&hub) as Arc<dyn Hub>, AckAt::Turn, timing.clone()).unwrap();
            inbox.set_engine(Box::new(NoEngine));
            let tell = |n: ChannelNews| {
                if let Some(connected) = n.connected {
                    let _ = news.send(Seen::Connected(connected));
                }
            };
            Connection::new("ag_me", hub.as_ref(), &inbox, timing, &stop, &tell).run()
        })
    };
    Play { seen, stop, run, scripts }
}

fn fast() -> Timing {
    Timing { retry: Duration::from_millis(1), retry_max: Duration::from_millis(8), ..Timing::default() }
}

fn auth(ws: &mut Ws, token: usize) {
    let frame = ws.read().unwrap().into_text().unwrap();
    assert_eq!(frame.as_str(), format!(r#"{{"type":"auth","token":"t\"{token}"}}"#));
}

fn greet(ws: &mut Ws, token: usize) {
    auth(ws, token);
    ws.send(Message::text(r#"{"type":"auth_ok","agent_id":"ag_me"}"#)).unwrap();
}

fn refuse(ws: &mut Ws) {
    let frame = CloseFrame { code: CloseCode::from(4001), reason: "Invalid token".into() };
    ws.close(Some(frame)).unwrap();
    while ws.read().is_ok() {}
}

/// Reads until the client closes; returns its code.
fn until_closed(mut ws: Ws) -> u16 {
    loop {
        match ws.read() {
            Ok(Message::Close(frame)) => return frame.map_or(1005, |f| f.code.into()),
            Ok(_) => {}
            Err(e) => panic!("no farewell: {e}"),
        }
    }
}

#[test]
fn it_introduces_itself_asks_and_says_good_bye() {
    let p = play(
        fast(),
        vec![],
        vec![Box::new(|mut ws| {
            greet(&mut ws, 0);
            for frame in ["[]", "no json", r#"{"type":5}"#, r#"{"type":"new"}"#, r#"{"type":"typing"}"#] {
                ws.send(Message::text(frame)).unwrap();
            }
            ws.send(Message::binary(vec![0, 159])).unwrap();
            ws.send(Message::text(r#"{"type":"inbox_update"}"#)).unwrap();
            assert_eq!(until_closed(ws), 1000);
        })],
    );
    assert_eq!(p.next(), Seen::Token(None));
    assert_eq!(p.next(), Seen::Connected(true));
    assert_eq!((p.next(), p.next()), (Seen::Poll, Seen::Poll));
    assert_eq!(p.end(), Exit::Ended);
}

#[test]
fn a_refused_token_is_not_used_again_and_the_fifth_refusal_ends_the_run() {
    let refusing = |n: usize| -> Box<dyn FnOnce(Ws) + Send> {
        Box::new(move |mut ws| {
            auth(&mut ws, n);
            refuse(&mut ws);
        })
    };
    let p = play(fast(), vec![], (0..5).map(refusing).collect());
    let mut tokens = Vec::new();
    while let Ok(seen) = p.seen.recv_timeout(LIMIT) {
        match seen {
            Seen::Token(refused) => tokens.push(refused),
            Seen::Connected(false) => {}
            other => panic!("{other:?}"),
        }
    }
    let named = |n: usize| Some(format!("t\"{n}"));
    assert_eq!(tokens, [None, named(0), named(1), named(2), named(3)]);
    assert_eq!(p.end(), Exit::Failed("the hub refused the token 5 times in a row".into()));
}

#[test]
fn it_keeps_in_touch_and_notices_a_hub_that_does_not() {
    let timing = Timing {
        ping: Duration::from_millis(20),
        silence: Duration::from_millis(400),
        handshake: Duration::from_millis(300),
        ..fast()
    };
    let silent = |mut ws: Ws| {
        greet(&mut ws, 0);
        let mut pings = 0;
        while let Ok(message) = ws.read() {
            assert_eq!(message.into_text().unwrap().as_str(), r#"{"type":"ping"}"#);
            pings += 1;
        }
        assert!(pings > 5, "{pings}");
    };
    let deaf = |mut ws: Ws| {
        auth(&mut ws, 1);
        assert!(ws.read().is_err(), "it says nothing before it is known");
    };
    let p = play(
        timing,
        vec![],
        vec![
            Box::new(silent),
            Box::new(deaf),
            Box::new(|mut ws: Ws| {
                greet(&mut ws, 2);
                // A ping of the protocol is a sign of life as well.
                let began = Instant::now();
                while began.elapsed() < Duration::from_millis(1_200) {
                    ws.send(Message::Ping(b"x".as_slice().into())).unwrap();
                    while !matches!(ws.read().unwrap(), Message::Pong(_)) {}
                    std::thread::sleep(Duration::from_millis(10));
                }
                ws.send(Message::text(r#"{"type":"inbox_update"}"#)).unwrap();
                assert_eq!(until_closed(ws), 1000);
            }),
        ],
    );
    let mut connected = Vec::new();
    while connected != [true, false, false, true] {
        match p.next() {
            Seen::Connected(is) => connected.push(is),
            Seen::Poll | Seen::Token(_) => {}
        }
    }
    assert_eq!((p.next(), p.next()), (Seen::Poll, Seen::Poll), "pings keep it up until there is something");
    assert_eq!(p.end(), Exit::Ended);
}

#[test]
fn an_agent_that_the_hub_does_not_know_any_more_is_not_tried_again() {
    let faults = vec![Fault::Revoked("key_not_active".into()), Fault::Failed("no network".into())];
    let p = play(fast(), faults, vec![]);
    assert_eq!(p.next(), Seen::Token(None));
    assert_eq!(p.next(), Seen::Connected(false));
    assert_eq!(p.next(), Seen::Token(None));
    assert_eq!(p.end(), Exit::Permanent("key_not_active".into()));
}
