//! The port: connections, requests, and what goes wrong with them on purpose.

use std::collections::HashMap;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::clock::{self, Clock};
use super::endpoint::{self, Auth, Endpoint, Found};
use super::faults::Fault;
use super::http::{Reply, Request, Wire};
use super::state::{Row, World};
use super::violations::Rule;
use super::{files, inbox, live, registry, rooms, send, strict, ws};

/// Requests that are remembered.
const ROWS: usize = 200_000;

/// What all threads of a hub share.
pub struct Shared {
    world: Mutex<World>,
    changed: Condvar,
    /// Ends the sweeper's sleep.
    stopping: Condvar,
    pub clock: Arc<Clock>,
    life: Mutex<Option<Life>>,
    number: AtomicU64,
}

/// From a start to a stop.
pub struct Life {
    over: Arc<AtomicBool>,
    address: SocketAddr,
    streams: Arc<Mutex<HashMap<u64, TcpStream>>>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Shared {
    pub fn new(world: World) -> Arc<Self> {
        let clock = world.clock.clone();
        let (life, number) = (Mutex::new(None), AtomicU64::new(0));
        let (changed, stopping) = (Condvar::new(), Condvar::new());
        Arc::new(Self { world: Mutex::new(world), changed, stopping, clock, life, number })
    }

    /// A look at the world; changes that others wait for are made with [`Self::change`].
    pub fn look(&self) -> MutexGuard<'_, World> {
        // A test that fails inside a look must not make the hub fail, too.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the world, then tells all who wait, sockets included.
    pub fn change<T>(&self, change: impl FnOnce(&mut World) -> T) -> T {
        let mut world = self.look();
        let result = change(&mut world);
        let pushes = std::mem::take(&mut world.pushes);
        drop(world);
        self.changed.notify_all();
        for (conn, frame) in pushes {
            conn.push(&frame);
        }
        result
    }

    /// Waits for a change, at most so long.
    pub fn wait<'a>(&self, world: MutexGuard<'a, World>, limit: Duration) -> MutexGuard<'a, World> {
        wait_for(&self.changed, world, limit)
    }

    /// Whether the hub takes connections.
    pub fn is_up(&self) -> bool {
        self.life.lock().unwrap().is_some()
    }

    /// Opens the port: any at first, the same after a stop.
    pub fn start(self: &Arc<Self>) {
        let port = self.look().origin.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap_or(0);
        let mut life = self.life.lock().unwrap();
        assert!(life.is_none(), "the hub runs already");
        let end = Instant::now() + Duration::from_secs(20);
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < end, "port {port}: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let address = listener.local_addr().unwrap();
        self.look().origin = format!("http://{address}");
        let new = Life { over: Arc::default(), address, streams: Arc::default(), threads: Arc::default() };
        let (shared, over, streams) = (self.clone(), new.over.clone(), new.streams.clone());
        let threads = new.threads.clone();
        let accept = spawn("hub", move || accept(&shared, &listener, &over, &streams, &threads));
        let (shared, over) = (self.clone(), new.over.clone());
        let sweep = spawn("hub-sweep", move || sweep(&shared, &over));
        new.threads.lock().unwrap().extend([accept, sweep]);
        *life = Some(new);
    }

    /// Closes the port and every connection at once, as a kill would; the state stays.
    pub fn stop(&self) {
        let Some(life) = self.life.lock().unwrap().take() else { return };
        life.over.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(life.address);
        loop {
            for stream in life.streams.lock().unwrap().values() {
                let _ = stream.shutdown(Shutdown::Both);
            }
            self.changed.notify_all();
            self.stopping.notify_all();
            let Some(thread) = life.threads.lock().unwrap().pop() else { break };
            let _ = thread.join();
        }
        self.look().lossy_until = clock::real() + 60_000;
    }
}

/// Waits for a bell, at most so long.
pub fn wait_for<'a>(bell: &Condvar, world: MutexGuard<'a, World>, limit: Duration) -> MutexGuard<'a, World> {
    bell.wait_timeout(world, limit).unwrap_or_else(PoisonError::into_inner).0
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.to_owned()).stack_size(512 * 1024).spawn(run).unwrap()
}

type Streams = Arc<Mutex<HashMap<u64, TcpStream>>>;

fn accept(
    shared: &Arc<Shared>,
    listener: &TcpListener,
    over: &Arc<AtomicBool>,
    streams: &Streams,
    threads: &Mutex<Vec<JoinHandle<()>>>,
) {
    for stream in listener.incoming().flatten() {
        if over.load(Ordering::SeqCst) {
            return;
        }
        let number = shared.number.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).unwrap();
        streams.lock().unwrap().insert(number, stream.try_clone().unwrap());
        let (shared, over, streams) = (shared.clone(), over.clone(), streams.clone());
        let thread = spawn("hub-conn", move || {
            let mut talk = Talk { shared: &shared, over: &over, wire: Wire { stream, early: Vec::new() }, number };
            while talk.serve() {}
            streams.lock().unwrap().remove(&number);
        });
        let mut threads = threads.lock().unwrap();
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }
}

/// Finds leases that ran out, as often as the settings say.
fn sweep(shared: &Shared, over: &AtomicBool) {
    while !over.load(Ordering::SeqCst) {
        let world = shared.look();
        let (tick, now) = (world.settings.tick, shared.clock.now());
        if now < world.next_sweep {
            drop(wait_for(&shared.stopping, world, tick));
            continue;
        }
        drop(world);
        shared.change(|world| {
            inbox::sweep(world, None);
            world.next_sweep = now + world.settings.sweep.as_millis() as i64;
        });
    }
}

/// One connection.
pub struct Talk<'a> {
    pub shared: &'a Arc<Shared>,
    pub over: &'a AtomicBool,
    pub wire: Wire,
    pub number: u64,
}

impl Talk<'_> {
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// Serves one request; returns whether another may follow.
    fn serve(&mut self) -> bool {
        let Some(mut request) = self.wire.head() else { return false };
        let found = endpoint::find(&request.method, &request.path);
        let agent = request.header("x-botcord-agent-id").unwrap_or_default().to_owned();
        let faults = match found {
            Found::Endpoint(endpoint, _) => self.shared.change(|world| {
                let faults = world.faults.take(endpoint, &agent);
                if faults.iter().any(Fault::is_lossy) {
                    world.lossy_until = clock::real() + 60_000;
                }
                faults
            }),
            _ => Vec::new(),
        };
        for fault in &faults {
            match fault {
                Fault::Delay(time) => self.pause(*time),
                Fault::DropBefore => return self.hang_up(),
                _ => {}
            }
        }
        if self.wire.body(&mut request).is_none() || self.is_over() {
            return false;
        }
        let row = self.shared.change(|world| note(world, &request, &found));
        if let Found::Endpoint(Endpoint::Socket, _) = found {
            ws::session(self, &request, &faults, row);
            return false;
        }
        let reply = self.answer(&request, &found, &faults);
        let Some(reply) = reply else { return self.hang_up() };
        self.deliver(&request, &found, &faults, reply, row)
    }

    /// The answer; nothing where there is to be none.
    fn answer(&self, request: &Request, found: &Found, faults: &[Fault]) -> Option<Reply> {
        let (endpoint, auth) = match found {
            Found::Endpoint(endpoint, auth) => (*endpoint, *auth),
            Found::WrongMethod => return Some(Reply::router(405, "Method Not Allowed")),
            Found::Nothing => return Some(Reply::router(404, "Not Found")),
        };
        self.shared.change(|world| strict::headers(world, request, endpoint));
        for fault in faults {
            match fault {
                Fault::Answer(reply) => return Some(reply.clone()),
                Fault::Stall => {
                    self.pause(Duration::from_hours(1));
                    return None;
                }
                Fault::Redeliver => {
                    let agent = request.header("x-botcord-agent-id").unwrap_or_default();
                    self.shared.change(|world| inbox::sweep(world, Some(agent)));
                }
                _ => {}
            }
        }
        let refreshing = (endpoint == Endpoint::Refresh).then(|| request.segment(2));
        if let Some(agent) = &refreshing {
            self.shared.change(|world| refresh_begins(world, agent));
        }
        let reply = match endpoint {
            Endpoint::Inbox => self.poll(request, auth, faults),
            _ => self.shared.change(|world| process(world, request, endpoint, auth)),
        };
        if let Some(agent) = &refreshing {
            self.shared.change(|world| world.agents.get_mut(agent).map(|agent| agent.refreshing -= 1));
        }
        Some(reply.unwrap_or_else(|error| error))
    }

    /// A poll, which may have to wait.
    fn poll(&self, request: &Request, auth: Auth, faults: &[Fault]) -> Result<Reply, Reply> {
        let (agent, poll) = self.shared.change(|world| {
            let agent = strict::caller(world, request, auth)?;
            Ok::<_, Reply>((agent, inbox::poll(world, request)?))
        })?;
        if faults.iter().any(|fault| matches!(fault, Fault::EmptyButMore)) {
            return Ok(Reply::json(200, &serde_json::json!({"messages": [], "count": 0, "has_more": true})));
        }
        let until = Instant::now() + Duration::from_millis(poll.timeout_ms as u64);
        let mut world = self.shared.look();
        while !inbox::has_mail(&mut world, &agent, &poll) && Instant::now() < until && !self.is_over() {
            world = self.shared.wait(world, (until - Instant::now()).min(Duration::from_millis(250)));
        }
        drop(world);
        let mut batch = self.shared.change(|world| inbox::claim(world, &agent, &poll));
        for fault in faults {
            spoil(&mut batch, fault);
        }
        Ok(Reply::json(200, &batch))
    }

    /// Writes the answer, as far as it is to arrive.
    fn deliver(&mut self, request: &Request, found: &Found, faults: &[Fault], mut reply: Reply, row: usize) -> bool {
        for fault in faults {
            match fault {
                Fault::DropAfter => return self.hang_up(),
                Fault::Truncate => reply.body.truncate(reply.body.len() / 2),
                Fault::ContentType(kind) => reply = reply.with("Content-Type", kind),
                _ => {}
            }
        }
        if self.is_over() {
            return false;
        }
        let halfway = faults.iter().any(|fault| matches!(fault, Fault::DropHalfway));
        let (status, date) = (reply.status, clock::http_date(self.shared.clock.wall()));
        self.shared.change(|world| {
            world.rows[row].status = status;
            if let Found::Endpoint(Endpoint::Send, _) = found
                && !halfway
            {
                send::answered(world, &request.body, &reply);
            }
            let id = world.fresh(32);
            reply.headers.push(("X-BotCord-Request-ID".to_owned(), id));
        });
        let bytes = reply.bytes(&date);
        if halfway {
            let _ = self.wire.stream.write_all(&bytes[..bytes.len() - reply.body.len().div_ceil(2)]);
            return self.hang_up();
        }
        let close = request.header("connection").is_some_and(|how| how.eq_ignore_ascii_case("close"));
        self.wire.stream.write_all(&bytes).is_ok() && !close
    }

    fn pause(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut world = self.shared.look();
        while Instant::now() < until && !self.is_over() {
            world = self.shared.wait(world, (until - Instant::now()).min(Duration::from_millis(50)));
        }
    }

    pub fn hang_up(&self) -> bool {
        let _ = self.wire.stream.shutdown(Shutdown::Both);
        false
    }
}

/// Remembers a request; returns its place.
fn note(world: &mut World, request: &Request, found: &Found) -> usize {
    if world.rows.len() == ROWS {
        world.rows.clear();
    }
    let header = |name: &str| request.header(name).unwrap_or_default().to_owned();
    let query: Vec<String> = request.query.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let query = if query.is_empty() { String::new() } else { format!("?{}", query.join("&")) };
    world.rows.push(Row {
        endpoint: if let Found::Endpoint(endpoint, _) = found { Some(*endpoint) } else { None },
        agent: header("x-botcord-agent-id"),
        line: format!("{} {}{query}", request.method, request.path),
        body: serde_json::from_slice(&request.body).unwrap_or(Value::Null),
        attempt: header("x-botcord-retry-attempt"),
        request_id: header("x-botcord-request-id"),
        status: 0,
        at: clock::real(),
    });
    world.rows.len() - 1
}

fn refresh_begins(world: &mut World, agent: &str) {
    let Some(known) = world.agents.get_mut(agent) else { return };
    known.refreshing += 1;
    if known.refreshing > 1 {
        world.violate(Rule::ParallelRefresh, agent);
    }
}

/// Makes a batch wrong.
fn spoil(batch: &mut Value, fault: &Fault) {
    let messages = batch["messages"].as_array_mut().unwrap();
    match fault {
        Fault::Insert(entry) => messages.insert(messages.len() / 2, entry.clone()),
        Fault::Reverse => messages.reverse(),
        Fault::WrongCount(count) => {
            batch["count"] = (*count).into();
            return;
        }
        _ => {}
    }
    batch["count"] = batch["messages"].as_array().unwrap().len().into();
}

fn process(world: &mut World, request: &Request, endpoint: Endpoint, auth: Auth) -> Result<Reply, Reply> {
    let agent = strict::caller(world, request, auth)?;
    match endpoint {
        Endpoint::Register => registry::register(world, request),
        Endpoint::Verify => registry::verify(world, request),
        Endpoint::Refresh => registry::refresh(world, request),
        Endpoint::ClaimLink => registry::claim_link(world, request, &agent),
        Endpoint::AddKey => registry::add_key(world, request, &agent),
        Endpoint::Key => registry::key(world, request),
        Endpoint::RevokeKey => registry::revoke_key(world, request, &agent),
        Endpoint::Resolve => registry::resolve(world, request),
        Endpoint::Send => send::send(world, request, &agent),
        Endpoint::Status => send::status(world, request, &agent),
        Endpoint::Receipt => send::receipt(world, request),
        Endpoint::Ack => inbox::ack(world, request, &agent),
        Endpoint::Renew => inbox::renew(world, request, &agent),
        Endpoint::StreamBlock => live::block(world, request, &agent),
        Endpoint::StreamEnd => live::end(world, request, &agent),
        Endpoint::Typing => live::typing(world, request, &agent),
        Endpoint::NotifyOwner => live::notify(world, request, &agent),
        Endpoint::React => live::react(world, request, &agent),
        Endpoint::Unreact => live::unreact(world, request, &agent),
        Endpoint::Upload => files::upload(world, request),
        Endpoint::File => files::download(world, request),
        Endpoint::CreateRoom => rooms::create(world, request, &agent),
        Endpoint::MyRooms => Ok(rooms::mine(world, &agent)),
        Endpoint::Room => rooms::room(world, request, &agent),
        Endpoint::Messages => rooms::messages(world, request, &agent),
        Endpoint::Topics => rooms::topics(world, request, &agent),
        Endpoint::Policy => rooms::policy(world, request, &agent),
        Endpoint::Inbox | Endpoint::Socket => unreachable!("answered where they may wait"),
    }
}
