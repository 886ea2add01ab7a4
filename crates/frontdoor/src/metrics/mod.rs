//! Figures for operators, all named `hatchery_frontdoor_…` but for what every process has.

mod connections;
mod live_feed;

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use access::{Access, Reason};
use model::api::ErrorCode;
use model::{Eligibility, HealthState};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tls::PeerMetrics;

use crate::callers;
use crate::callers::DenialLog;
use crate::registry_access::circuit::Figures;
use crate::settings::Tls;

pub(crate) use connections::{ClosedReason, Figures as ConnectionFigures};
pub(crate) use live_feed::{Counted, Figures as LiveFigures};

/// Upper bounds in seconds: fine where a placement is, coarse where a slow server is.
const BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
    10.0, 30.0, 60.0,
];

/// The parts of a spawn's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// In line.
    Queue,
    /// Asking the registry for a slot.
    Reserve,
    /// The agent's whole part.
    AgentCall,
    /// From the start of the process to its `ready`, as the agent measured it.
    StartToReady,
    /// From request to answer.
    Total,
}

/// What came of one try on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Attempt {
    Ready,
    Refused,
    NotSent,
    Unknown,
    Ended,
}

/// Who chose a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Registry,
    Snapshot,
}

/// How something that was held was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CleanupKind {
    /// The agent never heard of it.
    Release,
    /// The agent's answer was missing.
    Abandon,
    /// The caller went away.
    Cancel,
    /// The registry's answer was missing.
    Renounce,
}

macro_rules! label {
    ($type:ty { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                let word = match self { $(Self::$variant => $word),+ };
                word.encode(encoder)
            }
        }
    };
}
label!(Attempt {
    Ready => "ready", Refused => "refused", NotSent => "not-sent", Unknown => "unknown", Ended => "ended",
});
label!(Source { Registry => "registry", Snapshot => "picture" });
label!(CleanupKind { Release => "release", Abandon => "abandon", Cancel => "cancel", Renounce => "renounce" });

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    outcome: Attempt,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HealthLabels {
    health: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CleanupLabels {
    kind: CleanupKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlacementLabels {
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyFileLabels {
    keys: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    shown_to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    eligibility: &'static str,
    agent: &'static str,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
    spawns: Family<OutcomeLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    phases: [Histogram; 5],
    waiting: Gauge<i64, AtomicI64>,
    replays: Counter<u64, AtomicU64>,
    cleanups: Family<CleanupLabels, Counter>,
    registry_figures: Figures,
    placements: Family<PlacementLabels, Counter>,
    operations: Family<OperationLabels, Counter>,
    authentication_failures: Family<FailureLabels, Counter>,
    denials: DenialLog,
    callers_refused: callers::Refusals,
    key_files: Family<KeyFileLabels, Gauge<i64, AtomicI64>>,
    snapshot_nodes: Gauge<i64, AtomicI64>,
    live: LiveFigures,
    connections: ConnectionFigures,
    certificates: Family<CertificateLabels, Gauge<i64, AtomicI64>>,
    tls: Tls,
    peers: PeerMetrics,
    memory: Gauge<i64, AtomicI64>,
    log_lines_dropped: Counter<u64, AtomicU64>,
    nodes: Family<HealthLabels, Gauge<i64, AtomicI64>>,
    farm_cause: Gauge<i64, AtomicI64>,
}

impl Metrics {
    /// With the certificates whose ends are told.
    pub(crate) fn new(tls: Tls) -> Self {
        let mut root = Registry::default();
        let memory = Gauge::default();
        root.register("process_resident_memory_bytes", "Memory of this process", memory.clone());
        let log_lines_dropped = Counter::default();
        let help = "Log lines that were dropped because standard error was not read";
        root.register("hatchery_log_lines_dropped", help, log_lines_dropped.clone());
        let nodes = Family::default();
        root.register(
            "hatchery_nodes",
            "Nodes that are up, by health, as of the last snapshot",
            nodes.clone(),
        );
        let farm_cause = Gauge::default();
        let help = "Whether starts fail on every node alike, as of the last snapshot";
        root.register("hatchery_farm_cause", help, farm_cause.clone());
        let peers = PeerMetrics::register(&mut root);
        let registry = root.sub_registry_with_prefix("hatchery_frontdoor");
        macro_rules! register {
            ($metric:expr, $name:literal, $help:literal) => {{
                let metric = $metric;
                registry.register($name, $help, metric.clone());
                metric
            }};
        }
        macro_rules! phase {
            ($name:literal, $help:literal) => {
                register!(Histogram::new(BUCKETS), $name, $help)
            };
        }
        Self {
            requests: register!(Family::default(), "requests", "HTTP requests by route, method and status"),
            in_flight: register!(Gauge::default(), "requests_in_flight", "HTTP requests being answered"),
            spawns: register!(Family::default(), "spawns", "Spawn requests by outcome"),
            attempts: register!(Family::default(), "attempts", "Tries on nodes by outcome"),
            phases: [
                phase!("spawn_queue_seconds", "Time in line"),
                phase!("spawn_reserve_seconds", "Time to take a slot"),
                phase!("spawn_agent_call_seconds", "Time of the agent's part"),
                phase!("spawn_start_to_ready_seconds", "Time from start of the process to ready"),
                phase!("spawn_total_seconds", "Time from request to answer"),
            ],
            waiting: register!(Gauge::default(), "waiting", "Requests waiting in line here"),
            replays: register!(
                Counter::default(),
                "idempotent_replays",
                "Answers given again for the same key"
            ),
            cleanups: register!(Family::default(), "cleanups", "Slots given back without a spawn, by way"),
            placements: register!(
                Family::default(),
                "placements",
                "Nodes chosen, by the registry or, while it is away, from the last snapshot of the farm"
            ),
            snapshot_nodes: register!(
                Gauge::default(),
                "picture_nodes",
                "Nodes in the last snapshot of the farm"
            ),
            registry_figures: Figures {
                up: register!(Gauge::default(), "registry_up", "Whether the registry answers"),
                failures: register!(
                    Counter::default(),
                    "registry_failures",
                    "Calls to the registry that failed"
                ),
            },
            operations: register!(
                Family::default(),
                "operations",
                "Nodes opened, cordoned or drained, by whether the agent confirmed it"
            ),
            authentication_failures: register!(
                Family::default(),
                "authentication_failures",
                "Callers who did not show a good credential, by what was wrong with it"
            ),
            denials: DenialLog::default(),
            callers_refused: register!(
                Family::default(),
                "callers_refused",
                "What callers were refused because they had all that they may have, by limit"
            ),
            key_files: register!(
                Family::default(),
                "key_files_unread",
                "Files of keys that cannot be read any more, by whether their keys still count (grace) or are refused"
            ),
            live: LiveFigures::register(registry),
            connections: ConnectionFigures::register(registry),
            certificates: register!(
                Family::default(),
                "certificate_not_after_seconds",
                "When certificates end, in seconds since 1970"
            ),
            tls,
            peers,
            memory,
            log_lines_dropped,
            nodes,
            farm_cause,
            registry: root,
        }
    }

    pub(crate) fn request(&self, route: &'static str, method: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { route, method, status }).inc();
    }

    pub(crate) fn request_began(&self) {
        self.in_flight.inc();
    }

    pub(crate) fn request_ended(&self) {
        self.in_flight.dec();
    }

    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }

    /// `None`: it is ready.
    pub(crate) fn spawn(&self, failure: Option<ErrorCode>) {
        let outcome = failure.map_or("ready", ErrorCode::as_str);
        self.spawns.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn attempt(&self, outcome: Attempt) {
        self.attempts.get_or_create(&AttemptLabels { outcome }).inc();
    }

    pub(crate) fn phase(&self, phase: Phase, took: Duration) {
        self.phases[phase as usize].observe(took.as_secs_f64());
    }

    pub(crate) fn joined_line(&self) {
        self.waiting.inc();
    }

    pub(crate) fn left_line(&self) {
        self.waiting.dec();
    }

    pub(crate) fn replay(&self) {
        self.replays.inc();
    }

    pub(crate) fn cleanup(&self, kind: CleanupKind) {
        self.cleanups.get_or_create(&CleanupLabels { kind }).inc();
    }

    pub(crate) fn operation(&self, eligibility: Eligibility, acknowledged: bool) {
        let agent = if acknowledged { "acknowledged" } else { "silent" };
        self.operations.get_or_create(&OperationLabels { eligibility: eligibility.as_str(), agent }).inc();
    }

    pub(crate) fn authentication_failed(&self, reason: Reason) {
        let reason = reason.as_str();
        self.authentication_failures.get_or_create(&FailureLabels { reason }).inc();
    }

    /// For the limits of callers.
    pub(crate) fn callers_refused(&self) -> callers::Refusals {
        self.callers_refused.clone()
    }

    /// Which refusals are logged.
    pub(crate) fn denials(&self) -> &DenialLog {
        &self.denials
    }

    /// Files of keys that cannot be read any more; none where callers do not have to show a credential.
    pub(crate) fn key_files(&self, access: &Access) {
        let unread = access.unread();
        for refused in [false, true] {
            let files = unread.iter().filter(|file| file.refused == refused).count();
            let keys = if refused { "refused" } else { "grace" };
            let gauge = self.key_files.get_or_create(&KeyFileLabels { keys });
            gauge.set(i64::try_from(files).unwrap_or(i64::MAX));
        }
    }

    pub(crate) fn placement(&self, source: Source) {
        self.placements.get_or_create(&PlacementLabels { source }).inc();
    }

    /// What the last snapshot says of the farm's health.
    pub(crate) fn health(&self, up: impl Iterator<Item = HealthState>, farm_cause: bool) {
        let up: Vec<HealthState> = up.collect();
        for health in [HealthState::Ok, HealthState::Failing] {
            let count = up.iter().filter(|state| **state == health).count();
            let gauge = self.nodes.get_or_create(&HealthLabels { health: health.as_str() });
            gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.farm_cause.set(i64::from(farm_cause));
    }

    pub(crate) fn snapshot(&self, nodes: usize) {
        self.snapshot_nodes.set(i64::try_from(nodes).unwrap_or(i64::MAX));
    }

    /// For whoever watches the registry.
    pub(crate) fn registry_figures(&self) -> Figures {
        self.registry_figures.clone()
    }

    /// For the live feed.
    pub(crate) fn live_figures(&self) -> LiveFigures {
        self.live.clone()
    }

    /// For whoever accepts connections.
    pub(crate) fn connection_figures(&self) -> ConnectionFigures {
        self.connections.clone()
    }

    /// In the OpenMetrics text format.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        self.memory.set(i64::try_from(machine::memory::resident().unwrap_or(0)).unwrap_or(i64::MAX));
        self.log_lines_dropped.inner().store(log_output::dropped_lines(), Ordering::Relaxed);
        let ends = [
            ("callers", self.tls.http.as_ref().and_then(tls::Server::not_after)),
            ("agents", self.tls.agents.as_ref().and_then(tls::Client::not_after)),
        ];
        for (shown_to, end) in ends {
            let Some(end) = end else { continue };
            let gauge = self.certificates.get_or_create(&CertificateLabels { shown_to });
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
        }
        let shown = self.tls.admin.iter().map(tls::Server::peers);
        for peers in shown.chain(self.tls.agents.iter().map(tls::Client::agents)) {
            self.peers.update(peers);
        }
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
