//! The promises of a farm as invariants: what is looked at with every step of a process or a caller.
//!
//! | promise | held against |
//! | --- | --- |
//! | no node runs more processes than it has slots, and no two have one port | every start |
//! | nothing starts on a node after a drain or a cordon was answered, until it is undone | every start |
//! | a spawn whose caller was answered, whose server is well, and whose end nobody wants, goes on | every signal |
//! | one idempotency key has one spawn | every answer |
//!
//! What must hold once the farm is at rest is in `at_rest`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::network::Host;
use crate::server::{Moment, SimulatedServer};
use crate::steps::Steps;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Promises {
    steps: Arc<Steps>,
    slots: usize,
    /// A server that is silent for so long may be ended.
    silence: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Nodes whose closing was answered, and not undone since.
    closed: BTreeSet<Host>,
    /// Nodes whose spawns an operator's drain may end from this moment on.
    drained_from: BTreeMap<Host, Instant>,
    /// What callers have been answered, by the spawn's id.
    answered: BTreeMap<String, Answered>,
    /// Spawns whose end a caller has asked for, by the id.
    unwanted: BTreeSet<String>,
    /// Every server that was started, by the id that it was started with.
    servers: BTreeMap<String, Life>,
    /// The spawn of each idempotency key.
    keys: BTreeMap<String, String>,
    /// The registry has lost what it knew of keys.
    keys_lost: bool,
}

impl State {
    /// The spawns that callers have got and that run as this server.
    fn spawns_of(&self, server: &SimulatedServer) -> Vec<String> {
        let is_of = |answered: &Answered| answered.server.as_deref() == Some(server.id());
        self.answered.iter().filter(|(_, answered)| is_of(answered)).map(|(id, _)| id.clone()).collect()
    }

    /// The servers that a spawn may run as which is answered now. One that was started for it has its id. A warm server has another one: it is
    /// known by node and port, and an answer that was long on its way may find a later server there. `asked`: unless its call may have got
    /// the spawn of an earlier one.
    fn servers_of(&self, id: &str, (node, port): (&str, &str), asked: Option<Instant>) -> Vec<String> {
        if self.servers.contains_key(id) {
            return vec![id.to_owned()];
        }
        let may_be = |life: &Life| {
            let is_early = life.over.is_some_and(|over| asked.is_some_and(|asked| over < asked));
            life.host == node && life.port == port && !is_early
        };
        self.servers.iter().filter(|(_, life)| may_be(life)).map(|(id, _)| id.clone()).collect()
    }

    fn life(&mut self, server: &SimulatedServer) -> Option<&mut Life> {
        self.servers.get_mut(server.id())
    }
}

/// What is known of a server.
#[derive(Debug)]
struct Life {
    host: Host,
    port: String,
    over: Option<Instant>,
    /// It ended by itself, or the farm may end it.
    is_gone: bool,
}

/// A spawn that a caller has got.
#[derive(Debug, Clone)]
pub(crate) struct Answered {
    pub(crate) node: String,
    /// The id that its server was started with, where that is certain.
    server: Option<String>,
}

/// The answer that a caller has got.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SpawnAnswer<'a> {
    pub(crate) id: &'a str,
    pub(crate) node: &'a str,
    pub(crate) endpoint: &'a str,
    /// When its call began.
    pub(crate) asked: Instant,
}

impl Promises {
    pub(crate) fn new(steps: Arc<Steps>, slots: u32, silence: Duration) -> Arc<Self> {
        let slots = usize::try_from(slots).unwrap_or(usize::MAX);
        Arc::new(Self { steps, slots, silence, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A process is started beside others.
    pub(crate) fn started(&self, host: Host, server: &SimulatedServer, others: &[Arc<SimulatedServer>]) {
        if others.len() + 1 > self.slots {
            self.steps.violate(&format!(
                "{host} runs {} processes in {} slots",
                others.len() + 1,
                self.slots
            ));
        }
        let port = server.option("--sc-port");
        let life = Life { host, port: port.unwrap_or_default().to_owned(), over: None, is_gone: false };
        self.state().servers.insert(server.id().to_owned(), life);
        if let Some(other) = others.iter().find(|other| other.option("--sc-port") == port) {
            self.steps.violate(&format!("{} and {} on {host} have one port", server.id(), other.id()));
        }
        if self.state().closed.contains(host) {
            self.steps.violate(&format!("{} starts on {host} after its closing was answered", server.id()));
        }
    }

    /// A signal is on its way to a server, or it ends.
    pub(crate) fn happened(
        &self,
        (host, agent_began): (Host, Instant),
        server: &SimulatedServer,
        moment: Moment,
    ) {
        self.steps.note(format_args!("{host}: {moment:?} of server {}", server.id()));
        let signal = match moment {
            Moment::Term => "TERM",
            Moment::Kill => "KILL",
            Moment::Exit(_) => return self.ended(server),
        };
        // What it said while there was no agent was heard by nobody.
        let heard = server.reported().last.map(|last| last.max(agent_began));
        let is_silent = heard.is_none_or(|heard| heard.elapsed() >= self.silence);
        let mut state = self.state();
        let drained = state.drained_from.get(host).is_some_and(|from| Instant::now() >= *from);
        let spawns = state.spawns_of(server);
        if !server.script.is_well() || is_silent || drained {
            state.unwanted.extend(spawns);
            // Its answer may still be on its way.
            if let Some(life) = state.life(server) {
                life.is_gone = true;
            }
            return;
        }
        let wanted = spawns.into_iter().find(|id| !state.unwanted.contains(id));
        drop(state);
        if let Some(id) = wanted {
            self.steps.violate(&format!("{id} on {host} lives and is wanted, and gets {signal}"));
        }
    }

    /// A caller was answered with a spawn.
    pub(crate) fn answered(&self, answer: SpawnAnswer<'_>, key: Option<&str>) {
        let SpawnAnswer { id, node, endpoint, asked } = answer;
        let port = endpoint.rsplit(':').next().unwrap_or_default();
        let mut state = self.state();
        let mut servers = state.servers_of(id, (node, port), key.is_none().then_some(asked));
        let is_gone = servers.iter().any(|server| state.servers.get(server).is_some_and(|life| life.is_gone));
        // It has ended while the answer was on its way, or which one it is cannot be said.
        if is_gone || servers.len() > 1 {
            state.unwanted.insert(id.to_owned());
            servers.clear();
        }
        let answered = Answered { node: node.to_owned(), server: servers.pop() };
        state.answered.entry(id.to_owned()).or_insert(answered);
        let Some(key) = key.filter(|_| !state.keys_lost) else { return };
        let first = state.keys.entry(key.to_owned()).or_insert_with(|| id.to_owned()).clone();
        drop(state);
        if first != id {
            self.steps.violate(&format!("key {key} was answered with {first} and with {id}"));
        }
    }

    /// A caller is about to ask for the end of a spawn.
    pub(crate) fn is_unwanted(&self, id: &str) {
        self.state().unwanted.insert(id.to_owned());
    }

    /// The registry has gone back to an older state: what it promised of keys and of orders under way does not hold.
    pub(crate) fn registry_went_back(&self) {
        let mut state = self.state();
        state.keys_lost = true;
        state.keys.clear();
    }

    /// Whether what the registry knew of keys is lost.
    pub(crate) fn has_lost_keys(&self) -> bool {
        self.state().keys_lost
    }

    /// An operator is about to have a node drained: from `after` on its spawns may be ended.
    pub(crate) fn draining(&self, host: Host, after: Duration) {
        let from = Instant::now() + after;
        let mut state = self.state();
        let known = state.drained_from.entry(host).or_insert(from);
        *known = (*known).min(from);
    }

    /// The closing of a node was answered, and its agent has acknowledged it.
    pub(crate) fn is_closed(&self, host: Host) {
        self.state().closed.insert(host);
    }

    /// An operator is about to open a node.
    pub(crate) fn opening(&self, host: Host) {
        self.state().closed.remove(host);
    }

    /// The opening of a node was answered: no drain ends anything there.
    pub(crate) fn is_open(&self, host: Host) {
        self.state().drained_from.remove(host);
    }

    /// A machine has lost its power, and all spawns on it.
    pub(crate) fn power_lost(&self, host: Host, servers: &[Arc<SimulatedServer>]) {
        let mut state = self.state();
        for server in servers {
            if let Some(life) = state.life(server) {
                (life.over, life.is_gone) = (Some(Instant::now()), true);
            }
        }
        let lost: Vec<String> = state
            .answered
            .iter()
            .filter(|(_, answered)| answered.node == host)
            .map(|(id, _)| id.clone())
            .collect();
        state.unwanted.extend(lost);
    }

    /// A server has ended by itself, or as it was asked to, which was judged before.
    fn ended(&self, server: &SimulatedServer) {
        let mut state = self.state();
        let spawns = state.spawns_of(server);
        state.unwanted.extend(spawns);
        if let Some(life) = state.life(server) {
            life.over = Some(Instant::now());
            life.is_gone |= !server.was_signalled();
        }
    }

    /// Whether a caller has got this spawn.
    pub(crate) fn was_answered(&self, id: &str) -> bool {
        self.state().answered.contains_key(id)
    }

    /// What callers have got, and nobody wants to end.
    pub(crate) fn wanted(&self) -> BTreeMap<String, Answered> {
        let state = self.state();
        let is_wanted = |id: &String| !state.unwanted.contains(id);
        state.answered.iter().filter(|(id, _)| is_wanted(id)).map(|(id, a)| (id.clone(), a.clone())).collect()
    }
}
