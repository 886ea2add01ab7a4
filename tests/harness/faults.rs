//! What can happen to a farm, when, and how it is made good again.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::time::Duration;

use fastrand::Rng;
use rustix::process::Signal;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::farm::Farm;
use crate::link::Condition;
use crate::moods::Mood;
use crate::processes;
use crate::wait::{Look, TIMEOUT, until};

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fault {
    /// Killed, and started again.
    KillAgent(usize),
    /// Stopped, and continued.
    PauseAgent(usize),
    /// Killed, and started again.
    KillDoor(usize),
    /// Asked to end, and started again.
    EndDoor(usize),
    /// Killed, and started again with nothing in it.
    KillRedis,
    /// Emptied while it runs.
    FlushRedis,
    /// Stopped, and continued.
    PauseRedis,
    /// A spawned process, any of them.
    KillSpawn,
    /// Drained, and opened again.
    Drain(usize),
    /// Cordoned, and opened again.
    Cordon(usize),
    /// The link of this number.
    Link(usize, Condition),
    /// It is there, but in this mood.
    Mood(Mood),
    /// Killed, and started again with what it knew when this began.
    OldDump,
}

/// What no two faults may have in their hands at once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Agent(usize),
    Door(usize),
    Redis,
    DesiredStates,
    Link(usize),
    Nobody,
}

impl Fault {
    fn victim(self) -> Victim {
        match self {
            Self::KillAgent(i) | Self::PauseAgent(i) => Victim::Agent(i),
            Self::KillDoor(i) | Self::EndDoor(i) => Victim::Door(i),
            Self::KillRedis | Self::FlushRedis | Self::PauseRedis | Self::Mood(_) | Self::OldDump => {
                Victim::Redis
            }
            Self::Drain(_) | Self::Cordon(_) => Victim::DesiredStates,
            Self::Link(i, _) => Victim::Link(i),
            Self::KillSpawn => Victim::Nobody,
        }
    }
}

/// A fault with its time.
#[derive(Debug, Clone, Copy)]
pub struct Step {
    at: Duration,
    lasts: Duration,
    fault: Fault,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {:>4} ms for {:>4} ms: {:?}", self.at.as_millis(), self.lasts.as_millis(), self.fault)
    }
}

/// What there is for things to happen to.
#[derive(Debug, Clone, Copy)]
pub struct Targets {
    agents: usize,
    doors: usize,
    links: usize,
    /// Redis has moods, too.
    moods: bool,
    /// Nothing happens but kills.
    kills: bool,
}

impl Targets {
    /// In this farm.
    pub fn of(farm: &Farm) -> Self {
        Self {
            agents: farm.agents.len(),
            doors: farm.doors.len(),
            links: farm.links.len(),
            moods: false,
            kills: false,
        }
    }

    /// With moods of Redis, each for a second or two.
    #[must_use]
    pub fn and_moods(self) -> Self {
        Self { moods: true, ..self }
    }

    /// Processes are killed and Redis is emptied, and nothing else happens.
    #[must_use]
    pub fn only_kills(self) -> Self {
        Self { kills: true, ..self }
    }
}

/// How long things happen in a scenario of many.
pub const SHORT: Duration = Duration::from_millis(4000);

/// Numbers of kills among what can happen, see [`plan`]: of an agent, a front door, Redis, what is in Redis, and twice of a server.
const KILLS: [u32; 6] = [0, 5, 8, 10, 13, 13];

/// What happens in the scenario of this seed, which goes on for so long.
pub fn plan(seed: u64, targets: Targets, time: Duration) -> Vec<Step> {
    let Targets { agents, doors, links, moods, kills } = targets;
    let mut rng = Rng::with_seed(seed);
    let mut steps: Vec<Step> = Vec::new();
    let mut at = 400;
    let end = u64::try_from(time.as_millis()).expect("less than for ever");
    while at < end {
        let number =
            if kills { KILLS[rng.usize(..KILLS.len())] } else { rng.u32(..if moods { 26 } else { 20 }) };
        let (fault, lasts) = match number {
            20..25 => (Fault::Mood(*rng.choice(&Mood::ALL).expect("there are some")), rng.u64(300..2500)),
            25 => (Fault::OldDump, rng.u64(300..2500)),
            0..3 => (Fault::KillAgent(rng.usize(..agents)), rng.u64(50..1500)),
            3..5 => (Fault::PauseAgent(rng.usize(..agents)), rng.u64(500..3000)),
            5..7 => (Fault::KillDoor(rng.usize(..doors)), rng.u64(50..1000)),
            7 => (Fault::EndDoor(rng.usize(..doors)), rng.u64(50..500)),
            8..10 => (Fault::KillRedis, rng.u64(50..1500)),
            10..12 => (Fault::FlushRedis, 0),
            12 => (Fault::PauseRedis, rng.u64(300..2000)),
            13 => (Fault::KillSpawn, 0),
            14..16 => (Fault::Drain(rng.usize(..agents)), rng.u64(300..2000)),
            16 => (Fault::Cordon(rng.usize(..agents)), rng.u64(300..1500)),
            _ => {
                let condition = match rng.u32(..3) {
                    0 => Condition::Cut,
                    1 => Condition::Hole,
                    _ => Condition::Slow(Duration::from_millis(rng.u64(20..200))),
                };
                (Fault::Link(rng.usize(..links), condition), rng.u64(500..2500))
            }
        };
        let step = Step { at: Duration::from_millis(at), lasts: Duration::from_millis(lasts), fault };
        let clash =
            |other: &Step| other.fault.victim() == fault.victim() && other.at + other.lasts >= step.at;
        if fault.victim() == Victim::Nobody || !steps.iter().any(clash) {
            steps.push(step);
            at += rng.u64(150..900);
        }
    }
    steps
}

/// A node that took nothing for a while, in ticks of the machine's clock.
#[derive(Debug, Clone)]
pub struct Closed {
    /// Which.
    pub node: String,
    /// When the call that closed it was answered, and the agent had confirmed.
    pub from: u64,
    /// When it was asked for the first time to open again.
    pub to: u64,
}

/// What happened, as far as it excuses something.
#[derive(Debug, Default)]
pub struct Incidents {
    /// When all was forgotten.
    pub wiped: Vec<Instant>,
    /// Servers that were killed, by the ids that they were started with.
    pub killed: BTreeSet<String>,
    /// Their ports, and when.
    pub shot: Vec<(u16, Instant)>,
    /// Nodes that took nothing.
    pub closed: Vec<Closed>,
    /// Whether front doors may have reserved what they do not know of any more, because they died: it comes
    /// back when the reservation is over.
    pub deserted: bool,
}

impl Incidents {
    /// What happened later as well.
    pub fn add(&mut self, later: Self) {
        self.wiped.extend(later.wiped);
        self.killed.extend(later.killed);
        self.shot.extend(later.shot);
        self.closed.extend(later.closed);
        self.deserted |= later.deserted;
    }
}

/// Hundredths of seconds since the machine's start, as the kernel counts the start of processes.
pub fn ticks() -> u64 {
    let text = fs::read_to_string("/proc/uptime").expect("there is /proc");
    let digits: String = text.chars().take_while(|c| *c != ' ').filter(char::is_ascii_digit).collect();
    digits.parse().expect("two digits after the point")
}

/// Has all of it happen, and then be over.
pub async fn happen(farm: &mut Farm, steps: &[Step], seed: u64) -> Incidents {
    let mut rng = Rng::with_seed(!seed);
    let mut incidents = Incidents::default();
    let begins = steps.iter().map(|step| (step.at, true, step.fault));
    let mut all: Vec<_> =
        begins.chain(steps.iter().map(|step| (step.at + step.lasts, false, step.fault))).collect();
    all.sort_by_key(|(at, begins, _)| (*at, !begins));
    let start = Instant::now();
    for (at, begins, fault) in all {
        sleep_until(start + at).await;
        if begins {
            begin(farm, fault, &mut incidents, &mut rng).await;
        } else {
            end(farm, fault, &mut incidents, &mut rng).await;
        }
    }
    heal(farm, &mut incidents).await;
    incidents
}

async fn begin(farm: &mut Farm, fault: Fault, incidents: &mut Incidents, rng: &mut Rng) {
    incidents.deserted |= matches!(fault, Fault::KillDoor(_) | Fault::EndDoor(_));
    match fault {
        Fault::KillAgent(i) => farm.agents[i].role.kill(),
        Fault::PauseAgent(i) => farm.agents[i].role.signal(Signal::STOP),
        Fault::KillDoor(i) => farm.doors[i].role.kill(),
        Fault::EndDoor(i) => farm.doors[i].role.signal(Signal::TERM),
        Fault::KillRedis => {
            farm.redis.kill();
            incidents.wiped.push(Instant::now());
        }
        Fault::FlushRedis => {
            assert!(farm.redis.flush().await, "Redis does as it is told");
            incidents.wiped.push(Instant::now());
        }
        Fault::PauseRedis => farm.redis.signal(Signal::STOP),
        Fault::KillSpawn => {
            let processes = farm.processes();
            if let Some(process) = processes.get(rng.usize(..processes.len().max(1)))
                && let Some(id) = process.option("--id")
            {
                incidents.killed.insert(id.to_owned());
                let port = process.option("--sc-port").and_then(|port| port.parse().ok());
                incidents.shot.extend(port.map(|port: u16| (port, Instant::now())));
                processes::signal(process.pid, Signal::KILL);
            }
        }
        Fault::Drain(i) | Fault::Cordon(i) => {
            let node = farm.agents[i].node.clone();
            let verb = if matches!(fault, Fault::Drain(_)) { "drain" } else { "cordon" };
            let door = farm.door(rng.usize(..farm.doors.len()));
            let call = door.post(&format!("/v1/nodes/{node}/{verb}")).json(&json!({}));
            if let Ok(answer) = call.try_send().await
                && answer.status == 200
                && answer.json()["agentAcknowledged"] == true
            {
                incidents.closed.push(Closed { node, from: ticks(), to: u64::MAX });
            }
        }
        Fault::Link(i, condition) => farm.links[i].becomes(condition),
        Fault::Mood(mood) => {
            if mood == Mood::Loading {
                incidents.wiped.push(Instant::now());
            }
            farm.redis.falls_into(mood).await;
        }
        Fault::OldDump => {
            farm.redis.save().await;
            incidents.wiped.push(Instant::now());
        }
    }
}

async fn end(farm: &mut Farm, fault: Fault, incidents: &mut Incidents, rng: &mut Rng) {
    match fault {
        Fault::KillAgent(i) => farm.agents[i].restart().await,
        Fault::PauseAgent(i) => farm.agents[i].role.signal(Signal::CONT),
        Fault::KillDoor(i) => farm.doors[i].restart().await,
        Fault::EndDoor(i) => {
            let status = farm.doors[i].role.end().await;
            assert!(status.success(), "{} ended with {status}", farm.doors[i].role.name);
            farm.doors[i].restart().await;
        }
        Fault::KillRedis => farm.redis.restart().await,
        Fault::PauseRedis => farm.redis.signal(Signal::CONT),
        Fault::Drain(i) | Fault::Cordon(i) => {
            let node = farm.agents[i].node.clone();
            opens(incidents, &node);
            let door = farm.door(rng.usize(..farm.doors.len()));
            // Whether this works or not: it is asked for again at the end.
            door.post(&format!("/v1/nodes/{node}/uncordon")).try_send().await.ok();
        }
        Fault::Link(i, _) => farm.links[i].becomes(Condition::Good),
        Fault::Mood(mood) => farm.redis.gets_over(mood).await,
        Fault::OldDump => {
            incidents.wiped.push(Instant::now());
            farm.redis.kill();
            farm.redis.restart_with_its_dump(&[]).await;
        }
        Fault::FlushRedis | Fault::KillSpawn => {}
    }
}

fn opens(incidents: &mut Incidents, node: &str) {
    let now = ticks();
    for closed in incidents.closed.iter_mut().filter(|closed| closed.node == node) {
        closed.to = closed.to.min(now);
    }
}

/// Every node is opened, and every front door sees every node at work.
async fn heal(farm: &Farm, incidents: &mut Incidents) {
    for agent in &farm.agents {
        opens(incidents, &agent.node);
        let path = format!("/v1/nodes/{}/uncordon", agent.node);
        until(&format!("{} opens", agent.node), TIMEOUT, async || {
            match farm.door(0).post(&path).try_send().await {
                Ok(answer) if answer.status == 200 && answer.json()["agentAcknowledged"] == true => {
                    Look::Ready(())
                }
                other => Look::NotYet(format!("{other:?}")),
            }
        })
        .await;
    }
    for door in &farm.doors {
        until("every node is at work", TIMEOUT, async || {
            let ready = door.http.get("/readyz").send().await;
            let nodes = door.http.get("/v1/nodes").send().await;
            if ready.status != 200 || nodes.status != 200 {
                return Look::NotYet(format!("{ready:?} {nodes:?}"));
            }
            let at_work = nodes.json()["nodes"].as_array().map_or(0, |nodes| {
                let so = |node: &&serde_json::Value| {
                    node["availability"] == "up" && node["eligibility"] == "eligible"
                };
                nodes.iter().filter(so).count()
            });
            Look::when(at_work == farm.agents.len(), || format!("{nodes:?}"))
        })
        .await;
    }
}
