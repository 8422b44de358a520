//! The same channel in the test's own process, with time limits that a test can wait for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bellhop::channel::botcord::channel::{Botcord, Options};
use bellhop::channel::botcord::credentials::{self, CredentialsFile};
use bellhop::channel::botcord::inbox::AckAt;
use bellhop::channel::botcord::pace::Limits;
use bellhop::channel::botcord::socket::Timing;
use bellhop::engine::Acceptance;
use bellhop::engine::cancel::{CancelReason, CancelToken};
use bellhop::engine::ports::{Acceptor, Channel, ChannelNews, Exit, Lifecycle, Settled};
use bellhop::message::Inbound;
use bellhop::net::http::Http;
use bellhop::store::RealDisk;

use crate::hub::{AgentHandle, Endpoint, Fault, Hub};
use crate::support::temp_dir::TempDir;

/// Takes everything and finishes it when it is told to.
#[derive(Clone, Default)]
struct Desk(Arc<Mutex<HashMap<String, bool>>>);

impl Acceptor for Desk {
    fn accept(&self, messages: Vec<Inbound>) -> Vec<Acceptance> {
        let mut known = self.0.lock().unwrap();
        messages
            .iter()
            .map(|message| {
                known.extend(message.ids().into_iter().map(|id| (id, false)));
                Acceptance::Accepted { ahead: 0 }
            })
            .collect()
    }

    fn knows(&self, _channel: &str, id: &str) -> Option<bool> {
        self.0.lock().unwrap().get(id).copied()
    }

    fn unfinished(&self, _channel: &str) -> Vec<String> {
        Vec::new()
    }
}

struct Run {
    channel: Arc<Botcord>,
    desk: Desk,
    stop: CancelToken,
    thread: std::thread::JoinHandle<Exit>,
    _dir: TempDir,
}

impl Run {
    fn start(hub: &Hub, agent: &AgentHandle, timing: Timing) -> Self {
        let dir = TempDir::new("in-process");
        let path = hub.write_credentials(agent, dir.path());
        let credentials = credentials::load(&path).unwrap();
        let file = CredentialsFile::new(&path, &credentials, Arc::new(RealDisk));
        let options = Options {
            ack_at: AckAt::Turn,
            timing,
            stream_blocks: true,
            ask_policies: true,
            files_in: None,
            verify: false,
            limits: Limits::default(),
        };
        let channel = Botcord::new(credentials, file, Arc::new(Http::new()), options).unwrap();
        let desk = Desk::default();
        channel.set_engine(Box::new(desk.clone()));
        let stop = CancelToken::new().unwrap();
        let thread = {
            let (channel, stop) = (Arc::clone(&channel), stop.clone());
            std::thread::spawn(move || channel.run(&stop, &|_: ChannelNews| {}))
        };
        Self { channel, desk, stop, thread, _dir: dir }
    }

    fn finish(&self, id: &str) {
        self.desk.0.lock().unwrap().insert(id.to_owned(), true);
        self.channel.settled(&Settled { ids: vec![id.to_owned()], why: "delivered".into(), streams: Vec::new() });
    }

    fn end(self) -> Exit {
        self.stop.cancel(CancelReason::Shutdown);
        let exit = self.thread.join().unwrap();
        self.channel.close(Duration::from_secs(2));
        exit
    }
}

fn fast() -> Timing {
    Timing { retry: Duration::from_millis(10), retry_max: Duration::from_millis(100), ..Timing::default() }
}

#[test]
fn without_a_socket_messages_come_by_long_polling() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    hub.break_down(Endpoint::Socket, Fault::RefuseUpgrade(502));
    let timing = Timing { patience: Duration::from_millis(300), long_poll: Duration::from_secs(2), ..fast() };
    let run = Run::start(&hub, &ada, timing);
    hub.wait_until("long polls", |world| {
        world.rows.iter().filter(|r| r.line.contains("/hub/inbox?") && r.line.contains("timeout=2")).count() >= 2
    });
    let said = hub.owner_says(&ada, "can you hear me?");
    hub.wait_state(&said, crate::hub::State::Processing);
    // It is asked again at once, although nothing has become of the first one yet.
    let next = hub.owner_says(&ada, "and now?");
    hub.wait_state(&next, crate::hub::State::Processing);
    run.finish(&said.hub_msg_id);
    hub.wait_settled(&said);
    hub.heal();
    hub.wait_connected(&ada);
    run.finish(&next.hub_msg_id);
    hub.wait_settled(&next);
    assert_eq!(run.end(), Exit::Ended);
}

#[test]
fn a_hub_that_comes_back_is_found_again() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    let run = Run::start(&hub, &ada, fast());
    hub.wait_connected(&ada);
    hub.stop();
    hub.start_again();
    hub.wait_connected(&ada);
    let said = hub.owner_says(&ada, "back?");
    hub.wait_state(&said, crate::hub::State::Processing);
    run.finish(&said.hub_msg_id);
    hub.wait_settled(&said);
    assert_eq!(run.end(), Exit::Ended);
}

#[test]
fn a_strange_hub_is_left_and_tried_again() {
    let hub = Hub::start();
    let ada = hub.agent("Ada");
    for fault in [
        Fault::Silence,
        Fault::Text("x".repeat(70_000)),
        Fault::CloseAtAuth(1011, "oops"),
        Fault::RefuseUpgrade(404),
        Fault::Mute,
    ] {
        hub.fault(Endpoint::Socket, fault, 1);
    }
    let timing = Timing {
        handshake: Duration::from_millis(500),
        silence: Duration::from_millis(1_500),
        ping: Duration::from_millis(300),
        ..fast()
    };
    let run = Run::start(&hub, &ada, timing);
    let said = hub.owner_says(&ada, "anybody?");
    hub.wait_state(&said, crate::hub::State::Processing);
    hub.wait_until("the sixth attempt", |world| {
        world.rows.iter().filter(|r| r.endpoint == Some(Endpoint::Socket)).count() >= 6
    });
    hub.wait_connected(&ada);
    run.finish(&said.hub_msg_id);
    hub.wait_settled(&said);
    assert_eq!(run.end(), Exit::Ended);
}
