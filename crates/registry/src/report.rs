//! What agents report, and the orders they get back.
//!
//! Ages instead of times: machines' clocks may differ by minutes, so an agent says how long ago something happened and
//! the registry subtracts that from its own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    AgentEpoch, Drain, Eligibility, Exit, GpuSlots, Load, NodeDescription, NodeId, NodeRecord, Owner,
    RendererType, SpawnId, SpawnState, Timestamp,
};
use serde_json::{Map, Value};
use uuid::Uuid;

/// Everything about one spawn, as its agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnReport {
    /// Its id.
    pub id: SpawnId,
    /// Where it is in its life; never `lost`.
    pub state: SpawnState,
    /// How it renders.
    pub renderer: RendererType,
    /// Where its viewer connects.
    pub endpoint: String,
    /// The GPU it was given. Counted against the node's GPU slots.
    pub gpu: Option<u32>,
    /// The labels its request asked for.
    pub labels: BTreeMap<String, String>,
    /// Who had it spawned. Counts only where the registry does not know: else its reservation said so.
    pub owner: Option<Owner>,
    /// How long ago it was admitted.
    pub started: Duration,
    /// How long ago it first said `ready`.
    pub ready: Option<Duration>,
    /// How long ago it last reported.
    pub last_ping: Option<Duration>,
    /// How long ago it ended.
    pub ended: Option<Duration>,
    /// How it ended; present exactly when `state` is `exited`.
    pub exit: Option<Exit>,
}

impl SpawnReport {
    /// A spawn that was admitted just now, for client-side rendering.
    #[must_use]
    pub fn launching(id: SpawnId, endpoint: impl Into<String>) -> Self {
        Self {
            id,
            state: SpawnState::Launching,
            renderer: RendererType::Csr,
            endpoint: endpoint.into(),
            gpu: None,
            labels: BTreeMap::new(),
            owner: None,
            started: Duration::ZERO,
            ready: None,
            last_ping: None,
            ended: None,
            exit: None,
        }
    }
}

/// A spawn has come into another state. Applied in the order given, each once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Rises by at least one with every change of an epoch, from 1. The registry skips those it has applied before.
    pub serial: u64,
    /// The spawn in its new state.
    pub spawn: SpawnReport,
    /// How long ago that was.
    pub age: Duration,
}

/// Everything another process needs to know about a node. One of them repairs any registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// What the node offers.
    pub description: NodeDescription,
    /// How busy it is.
    pub load: Load,
    /// Each GPU's use.
    pub gpus: Vec<GpuSlots>,
    /// All spawns that have not ended, as of the changes of this and earlier reports.
    pub spawns: Vec<SpawnReport>,
    /// Abandoned reservations (from earlier [`Orders`]) that do not run here and can never start here any more.
    pub forgotten: Vec<SpawnId>,
    /// What the agent remembers of what the operator wants.
    pub wish: Wish,
}

impl Heartbeat {
    /// Of a node that offers this and has these spawns, and of which there is nothing else to say.
    #[must_use]
    pub fn new(description: NodeDescription, spawns: Vec<SpawnReport>) -> Self {
        Self {
            description,
            load: Load::default(),
            gpus: Vec::new(),
            spawns,
            forgotten: Vec::new(),
            wish: Wish::default(),
        }
    }
}

/// What an agent remembers of what the operator wants of its node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Number of the order. A higher one wins, here and everywhere: a registry that was wiped, or went back to an older
    /// state, learns from agents what it has forgotten.
    pub generation: u64,
    /// Whether new spawns are welcome.
    pub eligibility: Eligibility,
    /// The drain; goes with `draining`.
    pub drain: Option<DrainWish>,
}

/// A drain without a clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainWish {
    /// How long until its deadline.
    pub left: Duration,
    /// How long ago it was asked for.
    pub age: Duration,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// Who asked for it.
    pub by: Option<String>,
}

/// One message from an agent: first the changes, then the heartbeat, in one atomic step. An agent sends its reports one
/// after the other, never two at once, and repeats one that failed.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The node.
    pub node: NodeId,
    /// The agent's life.
    pub epoch: AgentEpoch,
    /// Set until the first report of this epoch was accepted: this epoch takes the node over from any other.
    pub takeover: bool,
    /// Where the agent keeps its state, and which of its lives there this is.
    pub identity: Identity,
    /// The last change that the registry has accepted in this epoch; 0 before the first. A registry that has applied less
    /// went back to an older state, and says so with [`Orders::behind`]. Then the agent counts from there: it sends that serial
    /// here, with the later changes that it has kept, and after the answer the last serial that it has sent. A heartbeat's list
    /// counts only when nothing later than this and `changes` has been applied.
    pub accepted: u64,
    /// State changes since the last accepted report.
    pub changes: Vec<Change>,
    /// Present once a second, and in the first report of an epoch.
    pub heartbeat: Option<Heartbeat>,
}

/// Tells agents apart that claim one node.
///
/// Agents with one `instance` follow each other on one state directory, which only one of them uses at a time: the later
/// life is right, whatever a registry remembers. Agents with different instances are different machines, or one machine whose
/// state directory was lost: the one that lives keeps the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Of the state directory, random, kept in it; nil in the reports of older agents.
    pub instance: Uuid,
    /// Rises with every start on that directory.
    pub life: u64,
}

/// What the registry wants of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// Another epoch has taken the node over: nothing of the report was applied, and this agent must stop admitting.
    pub superseded: bool,
    /// The registry does not know this node (it was wiped): nothing was applied, send everything, with a heartbeat.
    pub unknown: bool,
    /// Another agent that is alive has this node, at this address, and this one has not had it yet: nothing was applied, and
    /// this agent must admit nothing.
    pub taken: Option<String>,
    /// The registry has applied changes only up to this one and lacks accepted ones: it went back to an older state.
    /// Nothing was applied; send what it lacks, above all ends.
    pub behind: Option<u64>,
    /// Number of the operator's order.
    pub generation: u64,
    /// What the operator wants of the node.
    pub eligibility: Eligibility,
    /// The drain, if any, and how long until its deadline.
    pub drain: Option<(Drain, Duration)>,
    /// Reservations the agent must end, or never start, and then list in [`Heartbeat::forgotten`].
    pub abandoned: Vec<SpawnId>,
    /// Reservations that have expired: the agent must not start them any more. One that runs already goes on: its caller
    /// may have been answered. They are listed in [`Heartbeat::forgotten`] as well, or as spawns.
    pub expired: Vec<SpawnId>,
}

/// Nothing runs on a node that is down: its spawns are lost, and what they held is in no total.
pub(crate) fn hold_nothing(node: &mut NodeRecord) {
    (node.used, node.gpu_used) = (0, 0);
    for gpu in &mut node.gpus {
        gpu.used = 0;
    }
}

/// What an event says beyond its kind, from the spawn as it was then.
pub(crate) fn event_data(spawn: &SpawnReport) -> Map<String, Value> {
    let mut data = Map::new();
    match spawn.state {
        SpawnState::Launching => {
            data.insert("rendererType".into(), spawn.renderer.as_str().into());
            data.insert("endpoint".into(), spawn.endpoint.clone().into());
            introduce_demand(&mut data, spawn);
        }
        SpawnState::Ready => {
            data.insert("endpoint".into(), spawn.endpoint.clone().into());
        }
        SpawnState::Exited => {
            if let Some(exit) = &spawn.exit {
                data = exit_data(exit);
            }
        }
        SpawnState::Suspect | SpawnState::Disconnected | SpawnState::Stopping | SpawnState::Lost => {}
    }
    data
}

/// What the first event of a spawn says of it, whatever its state, so that a follower can make its record. One that begins
/// with `launching` says it all already, and one that is over is no follower's business.
pub(crate) fn introduce(data: &mut Map<String, Value>, spawn: &SpawnReport, now: Timestamp) {
    if matches!(spawn.state, SpawnState::Launching | SpawnState::Exited) {
        return;
    }
    data.insert("rendererType".into(), spawn.renderer.as_str().into());
    data.insert("startedAt".into(), now.before(spawn.started).to_string().into());
    data.insert("endpoint".into(), spawn.endpoint.clone().into());
    if let Some(age) = spawn.ready {
        data.insert("readyAt".into(), now.before(age).to_string().into());
    }
    introduce_demand(data, spawn);
}

fn introduce_demand(data: &mut Map<String, Value>, spawn: &SpawnReport) {
    if !spawn.labels.is_empty() {
        data.insert("labels".into(), serde_json::to_value(&spawn.labels).unwrap_or_default());
    }
    if let Some(owner) = &spawn.owner {
        data.insert("owner".into(), owner.as_str().into());
    }
    if let Some(gpu) = spawn.gpu {
        data.insert("gpu".into(), gpu.into());
    }
}

/// Whether a ping is another one than the one that is known: ages are rounded, so the same ping comes out a few
/// milliseconds apart.
pub(crate) fn is_news(known: Option<Timestamp>, ping: Timestamp) -> bool {
    known.is_none_or(|known| ping.since(known).max(known.since(ping)) > Duration::from_millis(50))
}

/// What `spawn.exited` says.
pub(crate) fn exit_data(exit: &Exit) -> Map<String, Value> {
    let mut data = Map::new();
    data.insert("exit".into(), serde_json::to_value(exit).unwrap_or_default());
    data
}
