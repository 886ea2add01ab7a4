//! The JSON of the HTTP contract, shared by front door and command line. `docs/user/http-api.md` describes it for callers.
//!
//! The doc comments of these types are the descriptions in the OpenAPI document, so they address callers. Field names and
//! codes are the contract: renaming one breaks every client.
//!
//! ```
//! use model::api::{ErrorCode, SpawnRequest};
//!
//! let request: SpawnRequest = serde_json::from_str(r#"{"rendererType": "ssr", "waitSeconds": 10}"#)?;
//! assert_eq!(request.renderer_type, Some(model::RendererType::Ssr));
//! let refused = serde_json::from_str::<SpawnRequest>(r#"{"colour": "red"}"#).unwrap_err();
//! assert!(refused.to_string().starts_with("unknown field `colour`"));
//!
//! assert_eq!((ErrorCode::NoCapacity.as_str(), ErrorCode::NoCapacity.status()), ("no-capacity", 503));
//! # Ok::<(), serde_json::Error>(())
//! ```

mod cordon;
mod explain;
mod past;
mod problem;
mod unreachable;
mod waiting;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::event::Event;
use crate::health::{FarmCause, NodeHealth};
use crate::id::{AgentEpoch, NodeId, RequestId, SpawnId};
use crate::node::{Availability, Eligibility, GpuSlots, Load, NodeRecord};
use crate::origin::Phases;
use crate::spawn::{Exit, RendererType, SpawnRecord, SpawnState, ViewerPresence};
use crate::supply::{Starts, WarmCount};
use crate::time::Timestamp;
use crate::trace::TraceId;
pub use cordon::CordonRequest;
pub use explain::{ExplainedNode, Explanation, ExplanationSource};
pub use past::{AuditEvent, AuditList, EndOrder, History, HistoryMinute};
pub use problem::{Attempt, ErrorCode, Problem};
pub use unreachable::Unreachable;
pub use waiting::{Waiting, WaitingList};

/// Body of `POST /spawn`. Every field is optional, and so is the body. Unknown fields are refused by name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SpawnRequest {
    /// Where the picture is rendered; `csr` when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub renderer_type: Option<RendererType>,
    /// Model that overrides whatever the viewer asks for, relative to the node's model directories.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4096)]
    pub model: Option<String>,
    /// Token the viewer must present to the spawned server.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 4096, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$")]
    pub session_token: Option<String>,
    /// Pool the node must belong to; any when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(min_length = 1, max_length = 63, pattern = "^[A-Za-z0-9._-]+$")]
    pub pool: Option<String>,
    /// Labels the node must carry, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The caller's own pairs of text, by which spawns are found again: at most 16, with keys of 1 to 63 characters without
    /// `=`, values of at most 255, and 4096 bytes of both together; no control characters. They choose no node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tags: Option<BTreeMap<String, String>>,
    /// Seconds to wait in line when the farm is full, 0 to 60; 0 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 60)]
    pub wait_seconds: Option<u32>,
    /// Seconds that the spawn may live, counted from its start, 1 to 31536000 (365 days); then it is ended as `expired`. At
    /// most, and when left out, what the operator allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_seconds: Option<u32>,
}

/// Body of `PATCH /v1/spawns/{id}`. Unknown fields are refused by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SpawnPatch {
    /// Seconds that the spawn may live, counted from its start, in place of what it had; at most what the operator allows.
    #[schema(minimum = 1, maximum = 31_536_000)]
    pub max_seconds: u32,
}

/// Answer of `POST /spawn`: a stream cache server that a viewer can connect to at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpawnAnswer {
    /// Id of the spawn, which is also that of its reservation.
    #[schema(value_type = String, format = Uuid)]
    pub id: SpawnId,
    /// Where the viewer connects, on the node itself.
    #[schema(examples("ws://node-a:55000"))]
    pub endpoint: String,
    /// Whether the viewer or the server renders.
    pub renderer_type: RendererType,
    /// The node that it runs on.
    #[schema(value_type = String)]
    pub node: NodeId,
}

/// Data of the event `queued` of `POST /spawn`: the request waits in line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpawnQueued {
    /// 1: it is next.
    pub position: u64,
    /// Seconds until its turn if the line goes on as in the last minute; absent while that is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub estimate_seconds: Option<u64>,
}

/// Data of the event `starting` of `POST /spawn`: its server starts. It may start on another node after a failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpawnStarting {
    /// The node whose agent starts the server.
    #[schema(value_type = String)]
    pub node: NodeId,
}

/// Used and total slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SlotCount {
    /// The most spawns that the node runs at once.
    pub total: u32,
    /// Slots that are reserved or running now.
    pub used: u32,
}

/// How far a drain has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DrainProgress {
    /// When the agent ends what still runs.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
    /// Spawns that have not ended yet.
    pub remaining: u32,
    /// Why, in the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The operator that asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When the operator asked for it.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
}

/// A node as clients see it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// The operator's name of the node.
    #[schema(value_type = String)]
    pub id: NodeId,
    /// What the operator wants of the node.
    pub eligibility: Eligibility,
    /// What heartbeats say of the node.
    pub availability: Availability,
    /// Slots that the node offers, and slots that are reserved or running.
    pub slots: SlotCount,
    /// The node's GPUs; empty where their use is not counted.
    pub gpus: Vec<GpuSlots>,
    /// The pool that the node belongs to.
    pub pool: String,
    /// All labels that the node carries.
    pub labels: BTreeMap<String, String>,
    /// The version of the node's agent.
    pub version: String,
    /// The present life of the node's agent; a restarted agent has another one.
    #[schema(value_type = String, format = Uuid)]
    pub epoch: AgentEpoch,
    /// gRPC address of the node's agent.
    pub advertise: String,
    /// Host and port of the node's relay, where viewers reach this node through one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub viewer_relay: Option<String>,
    /// Form of the endpoints that spawns of this node get, such as `ws://node-a:{port}`.
    pub endpoint: String,
    /// How busy the machine is, as of the last heartbeat.
    pub load: Load,
    /// Servers that start at once at the most, and spawns whose start waits, as of the last heartbeat.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub starts: Option<Starts>,
    /// Servers that are kept ready for requests without model and session token, as of the last heartbeat, by renderer.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub warm: BTreeMap<RendererType, WarmCount>,
    /// When the last heartbeat arrived, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub last_heartbeat_at: Timestamp,
    /// The drain, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainProgress>,
    /// What the outcomes of starts say of it.
    #[serde(default)]
    pub health: NodeHealth,
    /// Only requests that name its pool are placed there.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub dedicated: bool,
    /// Where its heartbeats arrive, and the front door that answers cannot reach its agent. The live feed does not have it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub unreachable: Option<Unreachable>,
}

impl From<NodeRecord> for Node {
    fn from(node: NodeRecord) -> Self {
        Self {
            id: node.id,
            eligibility: node.eligibility,
            availability: node.availability,
            slots: SlotCount { total: node.description.slots, used: node.used },
            gpus: node.gpus,
            pool: node.description.kind.pool,
            labels: node.description.kind.labels,
            dedicated: node.description.kind.dedicated,
            health: node.health,
            unreachable: None,
            version: node.description.version,
            epoch: node.epoch,
            advertise: node.description.advertise,
            viewer_relay: node.description.viewer_relay,
            endpoint: node.description.endpoint,
            load: node.load,
            starts: node.supply.starts,
            warm: node.supply.warm,
            last_heartbeat_at: node.last_heartbeat_at,
            drain: node.drain.map(|d| DrainProgress {
                deadline: d.deadline,
                remaining: node.used,
                reason: d.reason,
                by: d.by,
                started_at: d.started_at,
            }),
        }
    }
}

/// Answer of `DELETE /v1/nodes/{node}`: the node is not known any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ForgetAnswer {
    /// The node that was forgotten.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Spawns that had not ended, and have now, as `node-lost`.
    pub ended: u32,
}

/// Body of `POST /v1/nodes/{node}/drain`. Every field is optional, and so is the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainRequest {
    /// Seconds until what still runs on the node is ended, 0 to 604800 (a week); 3600 when left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 604_800)]
    pub deadline_seconds: Option<u32>,
    /// Why, for people who look at the node; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$")]
    pub reason: Option<String>,
    /// End what still runs now, whatever `deadlineSeconds` says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub force: Option<bool>,
}

/// Answer of `POST /v1/nodes/{node}/cordon`, `/uncordon` and `/drain`, given once what was asked for holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EligibilityAnswer {
    /// The node that the order was for.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// What the operator wants of it now.
    pub eligibility: Eligibility,
    /// Slots in use: spawns that have not ended yet.
    pub remaining: u32,
    /// When what still runs is ended; only of a drain.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<Timestamp>,
    /// Whether the node's agent has confirmed it. If not, it is kept by the registry, and by the agent from its next
    /// heartbeat on.
    pub agent_acknowledged: bool,
}

/// Answer of `GET /v1/nodes`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    /// All nodes, or those of one page, by name.
    pub nodes: Vec<Node>,
    /// Present while starts fail on every node alike: no node is at fault.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub farm_cause: Option<FarmCause>,
    /// Where the next page starts; absent on the last, and where all nodes are listed. A page may be empty and not be the last.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// A spawn as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Spawn {
    /// Id of the spawn, which is also that of its reservation.
    #[schema(value_type = String, format = Uuid)]
    pub id: SpawnId,
    /// The node that it runs on.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// Where its viewer connects.
    pub endpoint: String,
    /// Whether the viewer or the server renders.
    pub renderer_type: RendererType,
    /// The state that it is in.
    pub state: SpawnState,
    /// How it ended; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// When its agent admitted it.
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    /// When its server first reported `ready`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ready_at: Option<Timestamp>,
    /// When its server last reported that it is alive.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_ping_at: Option<Timestamp>,
    /// Whether a viewer is connected to it.
    #[serde(default)]
    pub viewer: ViewerPresence,
    /// When its viewer connected; the latest one, if there was more than one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub connected_at: Option<Timestamp>,
    /// When its viewer left; absent while one is connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub disconnected_at: Option<Timestamp>,
    /// When it is ended at the latest, where it may not live for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// When it ended, by the registry's clock; absent while it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// The pool that its node belongs to.
    pub pool: String,
    /// The labels that its request asked for.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
    /// The pairs of text that its caller gave it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tags: BTreeMap<String, String>,
    /// Who had it spawned, where callers have to say who they are: the name of an API key, `key:` and its id where it has
    /// none, or `jwt:` and the subject of a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The request that it comes from, as its log lines name it; only where one spawn is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request_id: Option<RequestId>,
    /// The trace that this request is part of; only where one spawn is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub trace_id: Option<TraceId>,
    /// How far this request had come, and when; only where one spawn is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Phases>,
    /// Index of the GPU that it was given, where GPUs are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<u32>,
    /// Its server was kept ready before it was asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub warm: bool,
    /// The id that its server was started with, where that is not the spawn's: of a warm one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub server_id: Option<SpawnId>,
    /// The order that has ended it, where it is on record; only where one spawn is asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_by: Option<EndOrder>,
    /// What happened to it, oldest first; only where one spawn is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub events: Option<Vec<Event>>,
}

impl Spawn {
    /// The form used in lists, without the history.
    #[must_use]
    pub fn listed(spawn: SpawnRecord) -> Self {
        Self { events: None, request_id: None, trace_id: None, phases: None, ..Self::whole(spawn) }
    }

    /// The form used where one spawn is asked for, with its history.
    #[must_use]
    pub fn whole(spawn: SpawnRecord) -> Self {
        Self {
            viewer: spawn.viewer(),
            id: spawn.id,
            node: spawn.node,
            endpoint: spawn.endpoint,
            renderer_type: spawn.renderer,
            state: spawn.state,
            exit: spawn.exit,
            started_at: spawn.started_at,
            ready_at: spawn.ready_at,
            last_ping_at: spawn.last_ping_at,
            connected_at: spawn.connected_at,
            disconnected_at: spawn.disconnected_at,
            expires_at: spawn.expires_at,
            ended_at: spawn.ended_at,
            pool: spawn.pool,
            labels: spawn.labels,
            tags: spawn.tags,
            owner: spawn.owner.map(Into::into),
            request_id: spawn.origin.request_id,
            trace_id: spawn.origin.trace_id,
            phases: spawn.origin.phases,
            gpu: spawn.gpu,
            warm: spawn.server.is_some(),
            server_id: spawn.server,
            ended_by: None,
            events: Some(spawn.events),
        }
    }
}

/// Answer of `GET /v1/spawns`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SpawnList {
    /// One page, newest first.
    pub spawns: Vec<Spawn>,
    /// Hand it back as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}
