//! What agents report, and the orders that they get back.
//!
//! Reports carry ages instead of times. Machines' clocks may differ by minutes, so an agent says how long ago something
//! happened, and the registry subtracts that from its own clock.
//!
//! An agent sends one report at a time and repeats it until it is accepted. [`Orders`] says whether it was: `superseded`,
//! `unknown`, `taken`, `behind` and `differs` each mean that nothing of the report was applied.

use std::collections::BTreeMap;
use std::time::Duration;

use model::{
    AgentEpoch, Drain, Eligibility, Exit, GpuSlots, Load, NodeDescription, NodeId, NodeRecord, Origin, Owner,
    RendererType, SpawnId, SpawnState, Supply, Timestamp,
};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::agreement::{Agreement, Difference, HeardReport};

/// Everything about one spawn, as its agent knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpawnReport {
    /// Id of the spawn, which is also that of its reservation.
    pub id: SpawnId,
    /// The state that it is in; never `lost`.
    pub state: SpawnState,
    /// Whether the viewer or the server renders.
    pub renderer: RendererType,
    /// Where its viewer connects.
    pub endpoint: String,
    /// The GPU that it was given. Counts against the node's GPU slots.
    pub gpu: Option<u32>,
    /// The labels that its request asked for.
    pub labels: BTreeMap<String, String>,
    /// The caller's own pairs of text. An agent that has adopted the spawn may not know them: the record keeps what it has.
    pub tags: BTreeMap<String, String>,
    /// The caller that it belongs to. A reservation that the registry remembers is believed before this.
    pub owner: Option<Owner>,
    /// The request that it comes from. An agent that has adopted the spawn may not know it: the record keeps what it has.
    pub origin: Origin,
    /// The id that its server was started with, where it was kept warm before the spawn was asked for. An agent that is rolled back
    /// may not know it: the record keeps what it has.
    pub server: Option<SpawnId>,
    /// How long ago the agent admitted it.
    pub started: Duration,
    /// How long ago its server first reported `ready`.
    pub ready: Option<Duration>,
    /// How long ago its server last reported that it is alive.
    pub last_ping: Option<Duration>,
    /// How long ago its viewer connected.
    pub connected: Option<Duration>,
    /// How long ago its viewer left; absent while one is connected.
    pub disconnected: Option<Duration>,
    /// How long it may still live.
    pub life_left: Option<Duration>,
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
            tags: BTreeMap::new(),
            owner: None,
            origin: Origin::default(),
            server: None,
            started: Duration::ZERO,
            ready: None,
            last_ping: None,
            connected: None,
            disconnected: None,
            life_left: None,
            ended: None,
            exit: None,
        }
    }
}

/// A spawn has changed its state. The registry applies changes in the order given, and each once, however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Rises by at least one with every change of an epoch, from 1. The registry skips those it has applied before.
    pub serial: u64,
    /// The spawn in its new state.
    pub spawn: SpawnReport,
    /// How long ago the state changed.
    pub age: Duration,
}

/// Everything that other processes need to know about a node. One heartbeat repairs any registry.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// What the node offers.
    pub description: NodeDescription,
    /// How busy the machine is.
    pub load: Load,
    /// How soon the node can give a spawn.
    pub supply: Supply,
    /// Slots of each GPU and those in use; empty where the server chooses the GPU.
    pub gpus: Vec<GpuSlots>,
    /// When its spawns last reported.
    pub heard: HeardReport,
    /// All spawns that have not ended, as of the changes of this report and earlier ones.
    pub spawns: Vec<SpawnReport>,
    /// Abandoned reservations (from earlier [`Orders`]) that do not run here and can never start here any more.
    pub forgotten: Vec<SpawnId>,
    /// The operator's last order, as the agent remembers it.
    pub desired: DesiredStateReport,
}

impl Heartbeat {
    /// A heartbeat of an idle machine without GPUs, reservations to forget, or orders.
    #[must_use]
    pub fn new(description: NodeDescription, spawns: Vec<SpawnReport>) -> Self {
        Self {
            description,
            load: Load::default(),
            supply: Supply::default(),
            gpus: Vec::new(),
            heard: HeardReport::default(),
            spawns,
            forgotten: Vec::new(),
            desired: DesiredStateReport::default(),
        }
    }
}

/// The desired state of a node, as its agent remembers it from the operator's last order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DesiredStateReport {
    /// Number of the order. The higher number wins everywhere, so a registry that was wiped or set back to an older state
    /// learns from agents what it has lost.
    pub generation: u64,
    /// What the operator wants of the node.
    pub eligibility: Eligibility,
    /// The drain; counts only with [`Eligibility::Draining`].
    pub drain: Option<DrainReport>,
}

/// A drain in ages, since clocks differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainReport {
    /// How long until its deadline.
    pub left: Duration,
    /// How long ago the operator asked for it.
    pub age: Duration,
    /// Why, in the operator's words.
    pub reason: Option<String>,
    /// The operator that asked for it.
    pub by: Option<String>,
}

/// One message from an agent: the changes and the heartbeat, applied in one atomic step.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentReport {
    /// The node that the agent has.
    pub node: NodeId,
    /// The life of the agent that sends this.
    pub epoch: AgentEpoch,
    /// Set until the first report of this epoch was accepted: this epoch takes the node over from any other.
    pub takeover: bool,
    /// Where the agent keeps its state, and which of its lives there this is.
    pub identity: AgentIdentity,
    /// The serial of the last change that the registry has accepted in this epoch; 0 before the first. A registry that has
    /// applied less was set back to an older state, and answers [`Orders::behind`]. The agent then counts from there: it
    /// sends that serial here, with the later changes that it has kept. A heartbeat's list counts only when nothing later
    /// than `accepted` and `changes` has been applied.
    pub accepted: u64,
    /// What both sides agree on after this report. `None` in the reports of agents that send only whole lists.
    pub agreement: Option<Agreement>,
    /// State changes since the last accepted report.
    pub changes: Vec<Change>,
    /// The whole list. Present in the first report of an epoch, and whenever the registry has asked for it; agents that send no
    /// [`Keepalive`](crate::Keepalive) send it once a second.
    pub heartbeat: Option<Heartbeat>,
}

/// Distinguishes agents that claim one node.
///
/// Agents with the same `instance` follow each other on one state directory, which only one of them uses at a time: the
/// later life is right, whatever a registry remembers. Agents with different instances are different machines, or one
/// machine whose state directory was lost: the one whose heartbeats arrive keeps the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AgentIdentity {
    /// Random id of the state directory, kept in it; nil in the reports of older agents.
    pub instance: Uuid,
    /// The number of starts on that directory.
    pub life: u64,
}

/// The registry's answer to a report: whether it was accepted, and orders for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Orders {
    /// A later epoch has the node. Nothing was applied; this agent must stop admitting.
    pub superseded: bool,
    /// The registry does not know this node, because it was wiped. Nothing was applied; send everything, with a heartbeat.
    pub unknown: bool,
    /// Another living agent has this node, at this address, and this one has not had it yet. Nothing was applied; this
    /// agent must admit nothing.
    pub taken: Option<String>,
    /// The registry has applied changes only up to this serial: it was set back to an older state. Nothing was applied;
    /// send what it lacks, above all ends.
    pub behind: Option<u64>,
    /// The registry holds something else than the keepalive says. Nothing was applied; send everything, with a heartbeat.
    pub differs: Option<Difference>,
    /// Subscribers want pings: the next keepalives bring them.
    pub pings: bool,
    /// Number of the operator's order.
    pub generation: u64,
    /// What the operator wants of the node.
    pub eligibility: Eligibility,
    /// The drain, if any, and how long until its deadline.
    pub drain: Option<(Drain, Duration)>,
    /// The renderers for which starts fail on the node.
    pub failing: Vec<RendererType>,
    /// Abandoned spawns: the agent must end them, or never start them, and then list them in [`Heartbeat::forgotten`].
    pub abandoned: Vec<SpawnId>,
    /// Expired reservations: the agent must not start them any more, and lists them in [`Heartbeat::forgotten`]. One that
    /// runs already goes on, because its caller may have been answered, and is listed as a spawn.
    pub expired: Vec<SpawnId>,
}

/// Clears the totals of a node that is down: its spawns are lost, and what they held counts no more.
pub(crate) fn hold_nothing(node: &mut NodeRecord) {
    (node.used, node.gpu_used) = (0, 0);
    node.supply = Supply::default();
    for gpu in &mut node.gpus {
        gpu.used = 0;
    }
}

/// The data of a spawn's event, from the spawn as it was then.
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

/// Adds to a spawn's first event, whatever its state, what a follower needs to make a record of it. `launching` has all of
/// it already, and followers keep no record of a spawn that begins as `exited`.
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
    if let Some(age) = spawn.connected {
        data.insert("connectedAt".into(), now.before(age).to_string().into());
    }
    if let Some(age) = spawn.disconnected {
        data.insert("disconnectedAt".into(), now.before(age).to_string().into());
    }
    introduce_demand(data, spawn);
}

fn introduce_demand(data: &mut Map<String, Value>, spawn: &SpawnReport) {
    if !spawn.labels.is_empty() {
        data.insert("labels".into(), serde_json::to_value(&spawn.labels).unwrap_or_default());
    }
    if !spawn.tags.is_empty() {
        data.insert("tags".into(), serde_json::to_value(&spawn.tags).unwrap_or_default());
    }
    if let Some(owner) = &spawn.owner {
        data.insert("owner".into(), owner.as_str().into());
    }
    if let Some(gpu) = spawn.gpu {
        data.insert("gpu".into(), gpu.into());
    }
    if let Some(server) = spawn.server {
        data.insert("serverId".into(), server.to_string().into());
    }
}

/// Whether this is a new ping. Ages are rounded, so the same ping comes out a few milliseconds apart.
pub(crate) fn is_news(known: Option<Timestamp>, ping: Timestamp) -> bool {
    known.is_none_or(|known| ping.since(known).max(known.since(ping)) > Duration::from_millis(50))
}

/// The data of `spawn.exited`.
pub(crate) fn exit_data(exit: &Exit) -> Map<String, Value> {
    let mut data = Map::new();
    data.insert("exit".into(), serde_json::to_value(exit).unwrap_or_default());
    data
}
