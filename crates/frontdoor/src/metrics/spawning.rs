//! Spawn requests: their outcomes, the time of each part, and what was given back.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use model::api::ErrorCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use traces::{Exemplar, Trace};

/// Upper bounds in seconds: fine where a placement is, coarse where a slow server is.
const BUCKETS: [f64; 18] = [
    0.000_25, 0.000_5, 0.000_75, 0.001, 0.001_5, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5,
    10.0, 30.0, 60.0,
];

/// The parts of a spawn request's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpawnPhase {
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

/// The outcome of one try on one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum AttemptOutcome {
    Ready,
    Refused,
    NotSent,
    Unknown,
    Ended,
}

/// What chose a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    Registry,
    Snapshot,
}

/// How a slot was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CleanupKind {
    /// The agent never heard of it.
    Release,
    /// The agent's answer was missing.
    Abandon,
    /// The caller went away.
    Cancel,
    /// The registry's answer was missing: released by the spawn's id, on any node.
    ReleaseById,
}

macro_rules! label {
    ($type:ident { $($variant:ident => $word:literal),+ $(,)? }) => {
        impl $type {
            const ALL: &'static [Self] = &[$(Self::$variant),+];
        }

        impl EncodeLabelValue for $type {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                let word = match self { $(Self::$variant => $word),+ };
                word.encode(encoder)
            }
        }
    };
}
label!(AttemptOutcome {
    Ready => "ready", Refused => "refused", NotSent => "not-sent", Unknown => "unknown", Ended => "ended",
});
label!(Source { Registry => "registry", Snapshot => "snapshot" });
label!(CleanupKind {
    Release => "release", Abandon => "abandon", Cancel => "cancel", ReleaseById => "release-by-id",
});

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AttemptLabels {
    outcome: AttemptOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CleanupLabels {
    kind: CleanupKind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlacementLabels {
    source: Source,
}

/// What the spawn path counts.
#[derive(Debug, Clone)]
pub(crate) struct SpawnMetrics {
    spawns: Family<OutcomeLabels, Counter>,
    attempts: Family<AttemptLabels, Counter>,
    phases: [HistogramWithExemplars<Exemplar>; 5],
    waiting: Gauge<i64, AtomicI64>,
    replays: Counter<u64, AtomicU64>,
    cleanups: Family<CleanupLabels, Counter>,
    placements: Family<PlacementLabels, Counter>,
}

impl SpawnMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            spawns: Family::default(),
            attempts: Family::default(),
            phases: std::array::from_fn(|_| HistogramWithExemplars::new(BUCKETS.into_iter())),
            waiting: Gauge::default(),
            replays: Counter::default(),
            cleanups: Family::default(),
            placements: Family::default(),
        };
        registry.register("spawns", "Spawn requests by outcome", metrics.spawns.clone());
        registry.register("attempts", "Tries on nodes by outcome", metrics.attempts.clone());
        // In the order of `SpawnPhase`.
        let phases = [
            ("spawn_queue_seconds", "Time in line"),
            ("spawn_reserve_seconds", "Time to take a slot"),
            ("spawn_agent_call_seconds", "Time of the agent's part"),
            ("spawn_start_to_ready_seconds", "Time from start of the process to ready"),
            ("spawn_total_seconds", "Time from request to answer"),
        ];
        for ((name, help), phase) in phases.into_iter().zip(&metrics.phases) {
            registry.register(name, help, phase.clone());
        }
        registry.register("waiting", "Requests waiting in line here", metrics.waiting.clone());
        let help = "Answers given again for the same key";
        registry.register("idempotent_replays", help, metrics.replays.clone());
        registry.register("cleanups", "Slots given back without a spawn, by way", metrics.cleanups.clone());
        let help = "Nodes chosen, by the registry or, while it is away, from the last snapshot of the farm";
        registry.register("placements", help, metrics.placements.clone());
        metrics.begin_at_zero();
        metrics
    }

    /// A counter that appears with its first event hides that event from `rate` and `increase`.
    fn begin_at_zero(&self) {
        for outcome in ErrorCode::ALL.iter().map(|code| code.as_str()).chain(["ready"]) {
            drop(self.spawns.get_or_create(&OutcomeLabels { outcome }));
        }
        for &outcome in AttemptOutcome::ALL {
            drop(self.attempts.get_or_create(&AttemptLabels { outcome }));
        }
        for &kind in CleanupKind::ALL {
            drop(self.cleanups.get_or_create(&CleanupLabels { kind }));
        }
        for &source in Source::ALL {
            drop(self.placements.get_or_create(&PlacementLabels { source }));
        }
    }

    /// `None`: the spawn is ready.
    pub(crate) fn spawn(&self, failure: Option<ErrorCode>) {
        let outcome = failure.map_or("ready", ErrorCode::as_str);
        self.spawns.get_or_create(&OutcomeLabels { outcome }).inc();
    }

    pub(crate) fn attempt(&self, outcome: AttemptOutcome) {
        self.attempts.get_or_create(&AttemptLabels { outcome }).inc();
    }

    /// `trace`: leads from the histogram to an example, where it is recorded.
    pub(crate) fn phase(&self, phase: SpawnPhase, took: Duration, trace: &Trace) {
        self.phases[phase as usize].observe(took.as_secs_f64(), Exemplar::of(trace), None);
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

    pub(crate) fn placement(&self, source: Source) {
        self.placements.get_or_create(&PlacementLabels { source }).inc();
    }
}
