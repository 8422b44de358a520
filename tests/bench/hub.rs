//! What an agent of a hub costs: answers to its owner, many agents, lost connections, and a kill under load.
//!
//! The hub is the tests' own, in this process; its limits on sends are lifted, so that the daemon is measured and not
//! the hub's patience. The agents' CLI is [`crate::fake`].

use std::time::{Duration, Instant};

use serde_json::json;

use crate::daemon::{Daemon, Place};
use crate::fake::Recording;
use crate::loopback::hub::{AgentHandle, Hub, Said, Settings, clock, handles};
use crate::proc_fs::{Usage, cpu_ms};
use crate::report::Report;
use crate::stats::Samples;
use crate::{Failure, Scale, idle};

/// What an owner says. With this the CLI takes about 2 ms from its start to its end.
const HELLO: &str = "hello bench-work=0.5";
const CONFIG: &str = r#"{"maxConcurrentTurns": 64, "hub": {"sendsPerMinute": 0}}"#;

/// A hub with agents whose credentials lie in a home.
struct Town {
    hub: Hub,
    agents: Vec<AgentHandle>,
    place: Place,
}

impl Town {
    fn new(agents: usize) -> Result<Self, Failure> {
        // The hub looks at its clocks so rarely that its threads cost nothing.
        let tick = Duration::from_secs(2);
        let hub = Hub::with(Settings { limits: false, tick, patience: Duration::from_mins(2), ..Settings::default() });
        let place = Place::new()?;
        std::fs::create_dir_all(place.join("home/daemon"))?;
        std::fs::write(place.join("home/daemon/config.json"), CONFIG)?;
        let agents: Vec<AgentHandle> = (0..agents).map(|n| hub.agent(&format!("Agent {n}"))).collect();
        for agent in &agents {
            let mut credentials = hub.credentials(agent);
            credentials["runtime"] = "claude-code".into();
            handles::write_credentials(&place.join("home"), &credentials);
        }
        Ok(Self { hub, agents, place })
    }

    /// Starts a daemon and waits until all agents are connected; says how long that took.
    fn start(&self) -> Result<(Daemon, Duration), Failure> {
        let began = clock::real();
        let daemon = Daemon::start(&self.place)?;
        let wanted = self.agents.len();
        let ready = self.hub.wait_for("all agents are connected", |world| {
            let ready = world.sockets.iter().filter(|row| row.opened >= began).filter_map(|row| row.ready);
            let ready: Vec<i64> = ready.collect();
            (ready.len() >= wanted).then(|| ready.into_iter().max().unwrap_or(began))
        });
        Ok((daemon, Duration::from_millis((ready - began).max(0) as u64)))
    }

    fn says(&self, chat: usize, text: &str) -> Said {
        let agent = &self.agents[chat % self.agents.len()];
        self.hub.owner_says_more(agent, Some(&format!("chat {chat}")), json!({"text": text}))
    }

    /// One message and its answer.
    fn turn(&self, chat: usize, text: &str) -> Duration {
        let began = Instant::now();
        let said = self.says(chat, text);
        self.hub.wait_answer(&said);
        began.elapsed()
    }

    /// What the books say: messages, and those without exactly one answer that was seen once.
    fn account(&self) -> Result<(usize, usize), Failure> {
        self.hub.wait_all_settled();
        let books = self.hub.books();
        let wrong = books.entries.iter().filter(|entry| entry.answers.len() != 1).count();
        let twice = books.sent.iter().filter(|sent| sent.shown != 1).count();
        if books.sent.len() != books.entries.len() {
            return Err(format!("{} answers to {} messages", books.sent.len(), books.entries.len()).into());
        }
        Ok((books.entries.len(), wrong + twice))
    }
}

/// From the owner's word to the answer in the hub, beside a bare run of the CLI.
pub fn turn(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let town = Town::new(1)?;
    let (daemon, _) = town.start()?;
    let record = town.place.join("recording");
    town.turn(0, &format!("{HELLO} bench-record={}", record.display()));
    let bare = Recording::read(&record)?;
    let (mut bares, mut turns) = (Samples::default(), Samples::default());
    for _ in 0..scale.of(300, 10) {
        let at = Instant::now();
        bare.repeat()?;
        bares.push(at.elapsed());
        turns.push(town.turn(0, HELLO));
    }
    let requests = || town.hub.look(|world| world.rows.len());
    let (before, asked) = (cpu_ms(daemon.pid())?, requests());
    let count = scale.of(300, 10);
    for _ in 0..count {
        town.turn(0, HELLO);
    }
    let (cpu, asked) = (cpu_ms(daemon.pid())? - before, requests() - asked);
    let (messages, wrong) = town.account()?;
    daemon.stop()?;
    report.add(
        "hub-turn",
        "2 ms CLI, one owner chat",
        &[
            ("pairs", turns.len() as f64, ""),
            ("bare p50", bares.ms(50), "ms"),
            ("turn p50", turns.ms(50), "ms"),
            ("turn p95", turns.ms(95), "ms"),
            ("added p50", turns.ms(50) - bares.ms(50), "ms"),
            ("added p95", turns.ms(95) - bares.ms(50), "ms"),
            ("daemon cpu", cpu as f64 / count as f64, "ms/turn"),
            ("requests", asked as f64 / count as f64, "/turn"),
            ("messages", messages as f64, ""),
            ("lost or doubled", wrong as f64, ""),
        ],
    );
    Ok(())
}

/// Turns in a second, where each conversation speaks again as soon as it is answered.
pub fn throughput(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for conversations in [1, 10, 50] {
        let town = Town::new(conversations.min(10))?;
        let (daemon, _) = town.start()?;
        for chat in 0..conversations {
            town.turn(chat, HELLO);
        }
        let before = cpu_ms(daemon.pid())?;
        let time = Duration::from_secs(scale.of(5, 1) as u64);
        let began = Instant::now();
        let turns: usize = std::thread::scope(|scope| {
            let town = &town;
            let talk = move |chat| {
                let mut turns = 0;
                while began.elapsed() < time {
                    town.turn(chat, HELLO);
                    turns += 1;
                }
                turns
            };
            let threads: Vec<_> = (0..conversations).map(|chat| scope.spawn(move || talk(chat))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap_or(0)).sum()
        });
        let seconds = began.elapsed().as_secs_f64();
        let cpu = cpu_ms(daemon.pid())? - before;
        let (messages, wrong) = town.account()?;
        daemon.stop()?;
        report.add(
            "hub-throughput",
            &format!("{conversations} conversations"),
            &[
                ("turns", turns as f64, ""),
                ("throughput", turns as f64 / seconds, "/s"),
                ("daemon cpu", cpu as f64 / turns.max(1) as f64, "ms/turn"),
                ("messages", messages as f64, ""),
                ("lost or doubled", wrong as f64, ""),
            ],
        );
    }
    Ok(())
}

/// From the start of the process until every agent has its socket.
pub fn start(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for agents in [1, 50] {
        let town = Town::new(agents)?;
        let mut samples = Samples::default();
        for _ in 0..scale.of(10, 2) {
            let (daemon, took) = town.start()?;
            samples.push(took);
            daemon.stop()?;
        }
        let figures =
            [("starts", samples.len() as f64, ""), ("p50", samples.ms(50), "ms"), ("p95", samples.ms(95), "ms")];
        report.add("hub-start", &format!("{agents} agents connected"), &figures);
    }
    Ok(())
}

/// What connected agents take that have nothing to do.
pub fn idle(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for agents in [1, 10, 50, 200] {
        let town = Town::new(agents)?;
        let (daemon, _) = town.start()?;
        // Long enough for two signs of life of each.
        idle::watch(scale, report, "hub-idle", &format!("{agents} agents"), &daemon, 40)?;
        daemon.stop()?;
    }
    Ok(())
}

/// From the end of a connection to the next one.
pub fn dropped(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let town = Town::new(1)?;
    let (daemon, _) = town.start()?;
    let mut samples = Samples::default();
    for _ in 0..scale.of(10, 2) {
        let count = town.hub.look(|world| world.sockets.len());
        let began = Instant::now();
        town.hub.close_sockets(&town.agents[0], None);
        town.hub.wait_until("it is back", |world| world.sockets.len() > count);
        samples.push(began.elapsed());
    }
    let (usage, said) = (Usage::of(daemon.pid())?, town.says(0, "still there?"));
    town.hub.wait_answer(&said);
    daemon.stop()?;
    report.add(
        "hub-drop",
        "back after the connection was cut",
        &[("p50", samples.ms(50), "ms"), ("p95", samples.ms(95), "ms"), ("rss", usage.rss_kb as f64, "kB")],
    );
    Ok(())
}

/// A connection that only looks alive: when messages are found all the same, and when it is given up.
pub fn half_open(_scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let town = Town::new(1)?;
    let (daemon, _) = town.start()?;
    let agent = &town.agents[0];
    let began = Instant::now();
    town.hub.mute_sockets(agent);
    let said = town.says(0, "is anybody there?");
    town.hub.wait_answer(&said);
    let found = began.elapsed();
    town.hub.wait_until("there is another", |world| world.sockets.len() > 1);
    let noticed = began.elapsed();
    daemon.stop()?;
    report.add(
        "hub-half-open",
        "one agent",
        &[("message found after", found.as_secs_f64(), "s"), ("new connection after", noticed.as_secs_f64(), "s")],
    );
    Ok(())
}

/// SIGKILL while 20 conversations are busy; from the next start until all is answered.
pub fn kill(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let mut samples = Samples::default();
    let (mut all, mut lost) = (0, 0);
    for round in 0..scale.of(10, 2) {
        let town = Town::new(10)?;
        // What a kill cannot help: a turn that runs again counts its blocks anew, and ends its stream late.
        town.hub.allow(crate::loopback::hub::Rule::BlockOrder);
        let (daemon, _) = town.start()?;
        for chat in 0..20 {
            town.turn(chat, HELLO);
        }
        let said: Vec<Said> = (0..20).map(|chat| town.says(chat, "bench-work=20")).collect();
        std::thread::sleep(Duration::from_millis(20 + 10 * round as u64));
        drop(daemon);
        let began = Instant::now();
        let (daemon, _) = town.start()?;
        for said in &said {
            town.hub.wait_answer(said);
        }
        samples.push(began.elapsed());
        let (messages, wrong) = town.account()?;
        all += messages;
        lost += wrong;
        daemon.stop()?;
    }
    report.add(
        "hub-kill",
        "SIGKILL with 20 open messages",
        &[
            ("kills", samples.len() as f64, ""),
            ("all answered p50", samples.ms(50), "ms"),
            ("all answered max", samples.ms(100), "ms"),
            ("messages", all as f64, ""),
            ("lost or doubled", lost as f64, ""),
        ],
    );
    Ok(())
}
