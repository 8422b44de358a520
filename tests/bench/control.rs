//! What it costs to be at a hub's command: the way to its control socket, frames, and agents that it provisions.
//!
//! Both sides of the hub are the tests' own, in this process; its frames are signed, and the daemon checks them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{Daemon, Place};
use crate::loopback::hub::{AgentHandle, Hub, Settings, clock, handles};
use crate::loopback::hub_control::{ControlHub, Pending};
use crate::proc_fs::{Usage, cpu_ms};
use crate::report::Report;
use crate::stats::Samples;
use crate::{Failure, Scale};

/// Frames that are on their way at once; fewer than the daemon lets wait.
const AT_ONCE: usize = 200;

/// Type and params of the frame of a number.
type Make<'a> = &'a dyn Fn(usize) -> (&'static str, Value);

/// A hub with agents, and a home that is logged in to it.
struct City {
    hub: Hub,
    control: ControlHub,
    agents: Vec<AgentHandle>,
    place: Place,
    instance: String,
}

impl City {
    fn new(agents: usize) -> Result<Self, Failure> {
        // The hub looks at its clocks so rarely that its threads cost nothing.
        let tick = Duration::from_secs(2);
        let hub = Hub::with(Settings { limits: false, tick, patience: Duration::from_mins(2), ..Settings::default() });
        let (control, place) = (ControlHub::start(), Place::new()?);
        let instance = control.log_in(&place.join("home"));
        let agents = (0..agents).map(|n| hub.agent(&format!("Agent {n}"))).collect();
        let city = Self { hub, control, agents, place, instance };
        city.configure(json!({}))?;
        Ok(city)
    }

    fn configure(&self, mut config: Value) -> Result<(), Failure> {
        config["hubControlPublicKeys"] = json!([self.control.key()]);
        Ok(std::fs::write(self.place.join("home/daemon/config.json"), config.to_string())?)
    }

    /// The agents are here already.
    fn settle(&self) -> Result<(), Failure> {
        for agent in &self.agents {
            handles::write_credentials(&self.place.join("home"), &self.credentials(agent));
        }
        // By name: their hub has another port than the one that commands.
        let ids: Vec<&str> = self.agents.iter().map(|agent| agent.id.as_str()).collect();
        self.configure(json!({"agents": ids}))
    }

    fn credentials(&self, agent: &AgentHandle) -> Value {
        let mut credentials = self.hub.credentials(agent);
        credentials["runtime"] = "claude-code".into();
        credentials
    }

    /// Starts a daemon; says how long it took until it had answered the hub's first frame, and until all agents had
    /// their connections.
    fn start(&self) -> Result<(Daemon, Duration, Duration), Failure> {
        let began = clock::real();
        let daemon = Daemon::start(&self.place)?;
        let control = self.control.wait("the answer to hello", |world| {
            world.heard.iter().find(|heard| heard.at >= began && heard.frame["ok"] == true).map(|heard| heard.at)
        });
        let agents = self.connected(began, self.agents.len());
        let after = |at: i64| Duration::from_millis((at - began).max(0) as u64);
        Ok((daemon, after(control), after(agents)))
    }

    /// When so many agents had their connections.
    fn connected(&self, began: i64, count: usize) -> i64 {
        self.hub.wait_for("all agents are connected", |world| {
            let ready = world.sockets.iter().filter(|row| row.opened >= began).filter_map(|row| row.ready);
            let ready: Vec<i64> = ready.collect();
            (ready.len() >= count).then(|| ready.into_iter().max().unwrap_or(began))
        })
    }

    /// Sends so many frames, [`AT_ONCE`] at a time, and takes the answers.
    fn flood(&self, count: usize, frame: Make<'_>) -> Duration {
        let began = Instant::now();
        let mut sent = 0;
        while sent < count {
            let until = count.min(sent + AT_ONCE);
            let send = |n| {
                let (kind, params) = frame(n);
                self.control.send(&self.instance, kind, params)
            };
            let pending: Vec<Pending> = (sent..until).map(send).collect();
            for pending in &pending {
                pending.result();
            }
            sent = until;
        }
        began.elapsed()
    }
}

/// From the start of the process until the hub commands it, and until every agent has its socket.
pub fn start(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    for agents in [1, 50] {
        let city = City::new(agents)?;
        city.settle()?;
        let (mut control, mut channels) = (Samples::default(), Samples::default());
        let mut first = None;
        for _ in 0..=scale.of(10, 2) {
            let (daemon, to_control, to_agents) = city.start()?;
            // The first one makes the agents' directories.
            if first.is_some() {
                control.push(to_control);
                channels.push(to_agents);
            }
            first.get_or_insert(to_control);
            daemon.stop()?;
            city.control.wait_offline(&city.instance);
        }
        report.add(
            "control-start",
            &format!("{agents} agents"),
            &[
                ("starts", control.len() as f64, ""),
                ("hub answered p50", control.ms(50), "ms"),
                ("hub answered p95", control.ms(95), "ms"),
                ("all connected p50", channels.ms(50), "ms"),
                ("all connected p95", channels.ms(95), "ms"),
                ("first of all", first.unwrap_or_default().as_secs_f64() * 1e3, "ms"),
            ],
        );
    }
    Ok(())
}

/// Signed frames through one lane, and through one for each of 50 agents; the latter are flushed to disk.
pub fn frames(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let city = City::new(50)?;
    city.settle()?;
    let (daemon, ..) = city.start()?;
    let ping = |_| ("ping", json!({}));
    let policy = |n: usize| {
        let policy = json!({"mode": "keyword", "keywords": [n.to_string()]});
        ("policy_updated", json!({"agent_id": city.agents[n % city.agents.len()].id, "policy": policy}))
    };
    let cases: [(&str, Make<'_>); 2] = [("ping, one lane", &ping), ("policy_updated, 50 lanes, durable", &policy)];
    for (case, frame) in cases {
        let count = scale.of(20_000, 1_000);
        city.flood(AT_ONCE, frame);
        let before = cpu_ms(daemon.pid())?;
        let took = city.flood(count, frame);
        let cpu = cpu_ms(daemon.pid())? - before;
        report.add(
            "control-frames",
            case,
            &[
                ("frames", count as f64, ""),
                ("throughput", count as f64 / took.as_secs_f64(), "/s"),
                ("daemon cpu", cpu as f64 / count as f64, "ms/frame"),
            ],
        );
    }
    report.add("control-frames", "afterwards", &[("rss", Usage::of(daemon.pid())?.rss_kb as f64, "kB")]);
    daemon.stop()
}

/// 50 agents that the hub puts there, one after another; each is in work when it is answered.
pub fn provision(scale: Scale, report: &mut Report) -> Result<(), Failure> {
    let count = scale.of(50, 10);
    let city = City::new(count)?;
    let daemon = Daemon::start(&city.place)?;
    city.control.wait_online(&city.instance);
    let before = Usage::of(daemon.pid())?;
    let (began, at) = (clock::real(), Instant::now());
    let mut samples = Samples::default();
    for agent in &city.agents {
        let at = Instant::now();
        let params = json!({"name": agent.name, "runtime": "claude-code", "credentials": city.credentials(agent)});
        city.control.send(&city.instance, "provision_agent", params).result();
        samples.push(at.elapsed());
    }
    let total = at.elapsed();
    let connected = city.connected(began, count) - began;
    let (cpu, after) = (cpu_ms(daemon.pid())?, Usage::of(daemon.pid())?);
    daemon.stop()?;
    report.add(
        "control-provision",
        &format!("{count} agents one after another"),
        &[
            ("total", total.as_secs_f64() * 1e3, "ms"),
            ("each p50", samples.ms(50), "ms"),
            ("each p95", samples.ms(95), "ms"),
            ("all connected after", connected as f64, "ms"),
            ("daemon cpu", cpu as f64, "ms"),
            ("rss before", before.rss_kb as f64, "kB"),
            ("rss after", after.rss_kb as f64, "kB"),
            ("threads after", after.threads as f64, ""),
        ],
    );
    Ok(())
}
