//! Agents that report the same to both registries.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{AgentEpoch, Eligibility, ExitReason, RendererType, SpawnId, SpawnState};
use registry::{Change, DesiredStateReport, DrainReport, Orders, SpawnReport};

use super::Next;
use super::compare::Pair;
use crate::support::*;

/// Values of the tag `user`.
pub(super) const USERS: [&str; 2] = ["ann", r#"b"o|b\"#];

/// A spawn that its agent has admitted. Times are seconds since the test began.
#[derive(Clone)]
struct Living {
    id: SpawnId,
    renderer: RendererType,
    owner: Option<String>,
    tags: BTreeMap<String, String>,
    gpu: Option<u32>,
    state: SpawnState,
    started: u64,
    ready: Option<u64>,
    ping: Option<u64>,
    /// When its viewer came, and when it left.
    viewer: (Option<u64>, Option<u64>),
    /// When it is ended at the latest.
    expires: Option<u64>,
    exit: Option<ExitReason>,
}

impl Living {
    fn report(&self, now: u64) -> SpawnReport {
        let ago = |at: u64| Duration::from_secs(now - at);
        let base = match self.exit {
            Some(reason) => exited(self.id, reason),
            None => launching(self.id),
        };
        SpawnReport {
            state: self.state,
            renderer: self.renderer,
            owner: self.owner.as_ref().map(|owner| owner.parse().unwrap()),
            tags: self.tags.clone(),
            gpu: self.gpu,
            started: ago(self.started),
            ready: self.ready.map(ago),
            last_ping: self.ping.map(ago),
            connected: self.viewer.0.map(ago),
            disconnected: self.viewer.1.map(ago),
            life_left: self.expires.map(|at| Duration::from_secs(at.saturating_sub(now))),
            ..base
        }
    }
}

/// Tags of a spawn: none, one, or two.
fn tags(number: usize) -> BTreeMap<String, String> {
    let all = [("user", USERS[number % USERS.len()]), ("visit", "7")];
    all.into_iter().take(number % 3).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A node and its agent.
pub(super) struct Node {
    pub(super) agent: Agent,
    /// Whether it sends heartbeats by itself.
    pub(super) silent: bool,
    living: Vec<Living>,
    /// Changes that were not accepted: serial, state, when.
    backlog: Vec<(u64, Living, u64)>,
    /// The order that it remembers: number since the test began, eligibility, and with a drain when it was given and its deadline.
    desired: (u64, Eligibility, Option<(u64, u64)>),
    intruder: Agent,
}

impl Node {
    /// Nodes whose loads are never the same: their slots have no common divisor, and each has a spawn that stays.
    pub(super) fn all() -> Vec<Self> {
        let new = |agent: Agent| {
            let agent = agent.identified();
            let stays = Living {
                id: csr().spawn,
                renderer: RendererType::Csr,
                owner: None,
                tags: tags(0),
                gpu: None,
                state: SpawnState::Launching,
                started: 0,
                ready: None,
                ping: None,
                viewer: (None, None),
                expires: None,
                exit: None,
            };
            let mut intruder =
                Agent { epoch: AgentEpoch::mint(), ..agent.clone().identified().at("elsewhere") };
            // It has a spawn, too: an empty node would have the load of another empty one.
            intruder.spawns = vec![launching(csr().spawn)];
            let desired = (0, Eligibility::Eligible, None);
            Self { agent, silent: false, living: vec![stays], backlog: Vec::new(), desired, intruder }
        };
        vec![
            new(Agent::new("a", 3).labels(&[("sdk", "1")])),
            new(Agent::new("b", 5).labels(&[("sdk", "2")]).gpus(1, 4)),
            new(Agent::new("c", 7).labels(&[("sdk", "2")]).renderers(true, false)),
        ]
    }

    pub(super) fn admit(
        &mut self,
        pair: &mut Pair<'_>,
        id: SpawnId,
        renderer: RendererType,
        owner: Option<String>,
    ) {
        let gpu = (renderer == RendererType::Ssr && self.agent.description.gpus > 0).then_some(0);
        let state = SpawnState::Launching;
        let started = pair.now();
        let (ready, ping, viewer, expires, exit) = (None, None, (None, None), None, None);
        let tags = tags(self.living.len());
        let spawn =
            Living { id, renderer, owner, tags, gpu, state, started, ready, ping, viewer, expires, exit };
        self.living.push(spawn.clone());
        self.changed(pair, spawn);
    }

    /// One of its spawns, but not the one that stays, comes into another state.
    pub(super) fn go(&mut self, pair: &mut Pair<'_>, n: u8, next: Next) {
        if self.living.len() < 2 {
            return;
        }
        let index = 1 + usize::from(n) % (self.living.len() - 1);
        let now = pair.now();
        let spawn = &mut self.living[index];
        match next {
            Next::Ready => {
                spawn.state = SpawnState::Ready;
                spawn.ready = spawn.ready.or(Some(now));
                spawn.ping = Some(now);
            }
            Next::Suspect => spawn.state = SpawnState::Suspect,
            Next::Connected => spawn.viewer = (Some(now), None),
            Next::Disconnected => {
                spawn.state = SpawnState::Disconnected;
                spawn.viewer.1 = spawn.viewer.0.map(|_| now);
            }
            Next::Extended => spawn.expires = Some(now + 100),
            Next::Stopped => self.end(pair, index, ExitReason::Stopped),
            Next::Vanished => {
                self.living.remove(index);
                return;
            }
        }
        if let Some(spawn) = self.living.get(index).cloned()
            && !matches!(next, Next::Stopped)
        {
            self.changed(pair, spawn);
        }
    }

    fn end(&mut self, pair: &mut Pair<'_>, index: usize, reason: ExitReason) {
        let mut spawn = self.living.remove(index);
        (spawn.state, spawn.exit) = (SpawnState::Exited, Some(reason));
        self.changed(pair, spawn);
    }

    /// A new life counts its changes from one, those that were not sent included.
    fn count_anew(&mut self) {
        if self.agent.serial == 0 {
            for (index, change) in self.backlog.iter_mut().enumerate() {
                change.0 = index as u64 + 1;
            }
            self.agent.serial = self.backlog.len() as u64;
        }
    }

    fn changed(&mut self, pair: &mut Pair<'_>, spawn: Living) {
        self.count_anew();
        self.agent.serial += 1;
        self.backlog.push((self.agent.serial, spawn, pair.now()));
        if !self.silent {
            self.report(pair, false);
        }
    }

    /// Sends what it has, with a heartbeat or without.
    pub(super) fn report(&mut self, pair: &mut Pair<'_>, heartbeat: bool) {
        let orders = self.send(pair, heartbeat);
        if orders.unknown && !heartbeat {
            self.send(pair, true);
        }
    }

    fn send(&mut self, pair: &mut Pair<'_>, heartbeat: bool) -> Orders {
        let now = pair.now();
        self.count_anew();
        self.agent.spawns = self.living.iter().map(|spawn| spawn.report(now)).collect();
        let change = |(serial, spawn, at): &(u64, Living, u64)| Change {
            serial: *serial,
            spawn: spawn.report(now),
            age: Duration::from_secs(now - at),
        };
        let changes: Vec<Change> = self.backlog.iter().map(change).collect();
        let last = changes.last().map_or(0, |change| change.serial);
        let (number, eligibility, drain) = self.desired;
        let drain = drain.map(|(given, deadline)| DrainReport {
            left: Duration::from_secs(deadline.saturating_sub(now)),
            age: Duration::from_secs(now - given),
            reason: None,
            by: None,
        });
        let report = self.agent.compose(changes, heartbeat);
        let orders = pair.both(async |registry, base| {
            let mut report = report.clone();
            if let Some(heartbeat) = &mut report.heartbeat {
                let generation = if number == 0 { 0 } else { base + number };
                heartbeat.desired = DesiredStateReport { generation, eligibility, drain: drain.clone() };
            }
            let mut orders = registry.report(&report).await.unwrap();
            orders.generation = orders.generation.saturating_sub(base);
            orders.abandoned.sort_unstable();
            orders.expired.sort_unstable();
            orders
        });
        if self.agent.heed(&orders, last) {
            self.backlog.clear();
            self.obey(pair, &orders, heartbeat);
        } else if let Some(serial) = orders.behind {
            self.agent.accepted = serial;
        }
        orders
    }

    fn obey(&mut self, pair: &mut Pair<'_>, orders: &Orders, heartbeat: bool) {
        let now = pair.now();
        let drain = orders.drain.as_ref().map(|(_, left)| (now, now + left.as_secs()));
        if orders.generation != self.desired.0 {
            self.desired = (orders.generation, orders.eligibility, drain);
        }
        if heartbeat {
            self.agent.forgotten.clear();
        }
        for spawn in orders.abandoned.iter().chain(&orders.expired) {
            match self.living.iter().position(|living| living.id == *spawn) {
                Some(index) if orders.abandoned.contains(spawn) => {
                    let mut gone = self.living.remove(index);
                    (gone.state, gone.exit) = (SpawnState::Exited, Some(ExitReason::Cancelled));
                    self.agent.serial += 1;
                    self.backlog.push((self.agent.serial, gone, now));
                }
                Some(_) => {}
                None if self.agent.forgotten.contains(spawn) => {}
                None => self.agent.forgotten.push(*spawn),
            }
        }
    }

    /// Another machine sends a heartbeat in this node's name.
    pub(super) fn intrude(&mut self, pair: &mut Pair<'_>) {
        // Its spawn has been there since the test began.
        self.intruder.spawns[0].started = Duration::from_secs(pair.now());
        let report = self.intruder.compose(Vec::new(), true);
        let orders = pair.both(async |registry, base| {
            let mut orders = registry.report(&report).await.unwrap();
            orders.generation = orders.generation.saturating_sub(base);
            orders.abandoned.sort_unstable();
            orders.expired.sort_unstable();
            orders
        });
        self.intruder.heed(&orders, 0);
    }
}
