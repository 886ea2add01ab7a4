//! Nodes: what an operator wants of them, what heartbeats say of them, and what they offer.
//!
//! Three things are known of a node, each with one writer:
//!
//! | | says | written by |
//! | --- | --- | --- |
//! | [`Eligibility`] | what the operator wants | operators, through a front door; the higher order number wins |
//! | [`Availability`] | whether heartbeats arrive | the registry, by its own clock |
//! | [`NodeHealth`] | whether starts succeed | the registry, from outcomes of starts |
//!
//! ```text
//! eligible ◀── uncordon ── cordoned ── drain ──▶ draining       up ── 3 s silent ──▶ stale ── 10 s silent ──▶ down
//!     │  ▲                  ▲    ▲                │  │           ▲                      │                       │
//!     │  └── uncordon ──────│────│────────────────┘  │           └────── heartbeat ─────┴───────────────────────┘
//!     └──── cordon ─────────┘    └──── cordon ───────┘
//! ```
//!
//! Placement uses nodes that are `up` and `eligible`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::demand::NodeKind;
use crate::health::NodeHealth;
use crate::id::{AgentEpoch, NodeId, SpawnId};
use crate::spawn::SpawnState;
use crate::supply::Supply;
use crate::time::Timestamp;
use crate::words::words;

pub use crate::words::UnknownWord;

/// What the operator wants of a node. Only operators change it, through a front door. Registry and agent both remember it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Eligibility {
    /// New spawns may be placed there.
    #[default]
    Eligible,
    /// No new spawns; those that run stay.
    Cordoned,
    /// No new spawns; those that run stay until the drain's deadline.
    Draining,
}

/// What heartbeats say of a node. Only the registry derives it, from its own clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// Heartbeats arrive: spawns may be placed here.
    Up,
    /// No heartbeat for a while: no new spawns.
    Stale,
    /// No heartbeat for long: its spawns are lost.
    Down,
}

words!(Eligibility { Eligible = "eligible", Cordoned = "cordoned", Draining = "draining" });
words!(Availability { Up = "up", Stale = "stale", Down = "down" });

/// The use of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GpuSlots {
    /// Zero-based index, as handed to the server's `--ssr-gpu-index`.
    pub index: u32,
    /// Most server-side rendering spawns at once on this GPU.
    pub total: u32,
    /// Those that run on it now.
    pub used: u32,
}

/// How busy a node is.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Load {
    /// Share of all processors in use, 0 to 1.
    pub cpu: f64,
    /// Memory that could be had without swapping, in bytes.
    pub memory_free_bytes: u64,
}

/// What a node offers, as its agent's heartbeats report it. It does not change while the agent lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeDescription {
    /// gRPC address at which front doors reach the agent, for example `http://10.0.0.7:7070`.
    pub advertise: String,
    /// Form of the endpoints its spawns get, for example `ws://{host}:{port}` with the host filled in.
    pub endpoint: String,
    /// The pool and the labels, by which requests choose.
    pub kind: NodeKind,
    /// Most spawns at once.
    pub slots: u32,
    /// Number of GPUs that server-side rendering is spread over; 0 leaves the choice to the server.
    pub gpus: u32,
    /// Most server-side rendering spawns per GPU.
    pub gpu_slots: u32,
    /// Whether client-side rendering is offered.
    pub csr: bool,
    /// Whether server-side rendering is offered.
    pub ssr: bool,
    /// Version of the agent, as `hatchery --version` prints it.
    pub version: String,
    /// Host and port of the node's relay, through which alone front doors bring viewers to this node; `None`: they connect to the
    /// ports of its spawns. Releases before this one do not have it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub viewer_relay: Option<String>,
}

impl NodeDescription {
    /// Server-side rendering spawns that fit on all GPUs together; `None` when GPUs do not limit them.
    #[must_use]
    pub fn gpu_total(&self) -> Option<u32> {
        (self.gpus > 0).then(|| self.gpus.saturating_mul(self.gpu_slots))
    }
}

/// Whether viewers' frames cross the network in the clear on their way to a node whose agent is called by TLS, as nodes without a relay of
/// their own are reached. `advertise` is the agent's address. What stays on one machine crosses none.
#[must_use]
pub fn viewers_pass_in_the_clear(advertise: &str, viewer_relay: Option<&str>) -> bool {
    let Some(address) = advertise.strip_prefix("https://").filter(|_| viewer_relay.is_none()) else {
        return false;
    };
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    let is_local = host.parse::<std::net::IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    !is_local && !host.eq_ignore_ascii_case("localhost")
}

/// A drain in progress, or one that is done while the node is still kept empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Drain {
    /// When the agent ends what still runs.
    #[schema(value_type = String, format = DateTime)]
    pub deadline: Timestamp,
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

/// A node as the registry knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRecord {
    /// Name of the node, which its operator gives; unique in the farm.
    pub id: NodeId,
    /// What the operator wants.
    pub eligibility: Eligibility,
    /// Whether heartbeats arrive, by the registry's clock.
    pub availability: Availability,
    /// What the agent offers.
    pub description: NodeDescription,
    /// Slots that are reserved or running.
    pub used: u32,
    /// GPU slots that are reserved or running.
    pub gpu_used: u32,
    /// Each GPU's use, as of the last heartbeat.
    pub gpus: Vec<GpuSlots>,
    /// How busy the machine is, as of the last heartbeat.
    pub load: Load,
    /// How soon it can give a spawn, as of the last heartbeat.
    pub supply: Supply,
    /// The life of the agent that has the node; another one means another agent.
    pub epoch: AgentEpoch,
    /// When the last heartbeat arrived, by the registry's clock.
    pub last_heartbeat_at: Timestamp,
    /// The drain, if any.
    pub drain: Option<Drain>,
    /// Number of the operator's last order; a higher one wins wherever two differ. 0 before the first order.
    pub generation: u64,
    /// What the outcomes of starts say.
    pub health: NodeHealth,
    /// When its spawns last reported, as of the last heartbeat.
    pub heard: Heard,
}

/// When the spawns of a node last reported, in a form that does not grow with their number: each has reported at `since` or later, and at
/// most about a ping interval later, but for those that are late.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// Every spawn that is not late has reported at this moment or later; `None`: not known.
    pub since: Option<Timestamp>,
    /// Of these, the record says when they last reported.
    pub late: Vec<SpawnId>,
}

impl Heard {
    /// When a spawn last reported, of which the record says this.
    #[must_use]
    pub fn last_ping(
        &self,
        spawn: SpawnId,
        state: SpawnState,
        recorded: Option<Timestamp>,
    ) -> Option<Timestamp> {
        let reports = matches!(state, SpawnState::Ready | SpawnState::Disconnected | SpawnState::Stopping);
        recorded.max(self.since.filter(|_| reports && !self.late.contains(&spawn)))
    }
}

/// Parses a label `key=value`, as `--label` takes it.
///
/// ```
/// assert_eq!(model::node::parse_label("sdk=2025.1"), Ok(("sdk".into(), "2025.1".into())));
/// assert!(model::node::parse_label("sdk").is_err());
/// ```
///
/// # Errors
/// What is wrong with the key or the value.
pub fn parse_label(text: &str) -> Result<(String, String), String> {
    let (k, v) = text.split_once('=').ok_or_else(|| format!("must be key=value, not {text:?}"))?;
    check_label(k, v)?;
    Ok((k.to_owned(), v.to_owned()))
}

/// Checks a label: both sides follow the rule for names, the value may be empty.
///
/// # Errors
/// What is wrong with the key or the value.
pub fn check_label(key: &str, value: &str) -> Result<(), String> {
    crate::id::check_name(key).map_err(|e| format!("label key {key:?} {e}"))?;
    if !value.is_empty() {
        crate::id::check_name(value).map_err(|e| format!("label {key:?} has a value that {e}"))?;
    }
    Ok(())
}

/// Parses labels; the same label may come twice.
///
/// # Errors
/// The first label that is wrong, or a key that has two values.
pub fn collect_labels<'a>(
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<BTreeMap<String, String>, String> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let (k, v) = parse_label(text)?;
        if let Some(old) = labels.insert(k.clone(), v.clone())
            && old != v
        {
            return Err(format!("label {k:?} is given twice, as {old:?} and {v:?}"));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_say_what_is_wrong_with_them() {
        assert_eq!(parse_label("sdk=2025.1"), Ok(("sdk".into(), "2025.1".into())));
        assert_eq!(parse_label("empty="), Ok(("empty".into(), String::new())));
        for bad in ["sdk", "=x", "a b=c", "k=v w", "k=a,b", "k=a|b"] {
            assert!(parse_label(bad).is_err(), "{bad}");
        }
        assert!(collect_labels(["a=1", "a=2"]).is_err());
        assert!(collect_labels(["a=1", "a=1"]).is_ok());
    }

    #[test]
    fn a_description_without_a_relay_is_that_of_the_release_before() {
        let before = r#"{"advertise":"http://a:1","endpoint":"ws://a:{port}","kind":{"pool":"p","labels":{}},"slots":1,"gpus":0,"gpuSlots":4,"csr":true,"ssr":true,"version":"0.1.0"}"#;
        let mut node: NodeDescription = serde_json::from_str(before).unwrap();
        assert_eq!(node.viewer_relay, None);
        assert!(!serde_json::to_string(&node).unwrap().contains("viewerRelay"));
        node.viewer_relay = Some("a:8091".to_owned());
        let text = serde_json::to_string(&node).unwrap();
        assert!(text.contains(r#""viewerRelay":"a:8091""#), "{text}");
        assert_eq!(serde_json::from_str::<NodeDescription>(&text).unwrap(), node);
    }

    #[test]
    fn frames_are_in_the_clear_where_an_agent_elsewhere_has_tls_and_its_node_no_relay() {
        for (advertise, relay, in_the_clear) in [
            ("https://10.0.0.7:7070", None, true),
            ("https://render-1:7070", None, true),
            ("https://[fd00::7]:7070", None, true),
            ("https://10.0.0.7:7070", Some("10.0.0.7:8091"), false),
            // Its operator has chosen to have no TLS at all.
            ("http://10.0.0.7:7070", None, false),
            ("https://127.0.0.1:7070", None, false),
            ("https://[::1]:7070", None, false),
            ("https://localhost:7070", None, false),
        ] {
            assert_eq!(viewers_pass_in_the_clear(advertise, relay), in_the_clear, "{advertise}");
        }
    }

    #[test]
    fn gpus_limit_only_where_there_are_some() {
        let mut node = NodeDescription {
            advertise: String::new(),
            endpoint: String::new(),
            kind: NodeKind { pool: "default".into(), labels: BTreeMap::new(), dedicated: false },
            slots: 32,
            gpus: 2,
            gpu_slots: 4,
            csr: true,
            ssr: true,
            version: "0.1.0".into(),
            viewer_relay: None,
        };
        assert_eq!(node.gpu_total(), Some(8));
        node.gpus = 0;
        assert_eq!(node.gpu_total(), None);
    }
}
