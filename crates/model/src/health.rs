//! Node health, learned from the outcomes of starts.
//!
//! A node can be up, have room, and still fail every start: its licence has expired, its GPU is lost, its disk is full.
//! Such a node looks empty and would attract every spawn. Health is the third thing that is known of a node, beside its
//! eligibility (what the operator wants) and its availability (what heartbeats say). Other systems call this outlier
//! ejection.
//!
//! ```text
//!                 FAILURES_UNTIL_FAILING failures in a row (or one that is conclusive)
//!        ┌──────────────────────────────────────────────────────────────────────▶ failing ──┐
//!        ok                                                                          ▲  │    │ a probe fails:
//!        └◀── SUCCESSES_UNTIL_OK successes in a row ────────────────────────────────────┘    │ the pause doubles
//!                                                                                 └──────────┘
//! ```
//!
//! **Probation.** A server that ends soon after it was ready has been given to a caller already, so such a failure costs a spawn. One is
//! enough for the node to be placed as a failing one is: last, and by probes. It stays `ok` for people, because one may be an accident. A
//! probe there is answered only once its server has outlived [`Health::hold`], and one that has ends the probation.
//!
//! [`Health`] is the whole state machine as plain data. The registry keeps one for each node and renderer, so that every
//! front door's experience counts. A front door keeps its own while the registry is away. `health.lua` in the registry
//! crate is the same machine; a contract test drives both.
//!
//! The numbers below are this project's own choice. `crates/registry/tests/contract/health.rs` and `tests/it/sick_nodes.rs`
//! test what follows from them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::demand::Demand;
use crate::spawn::RendererType;
use crate::time::Timestamp;
use crate::words::words;

/// So many failures in a row make a node `failing`. One alone may be an accident of its own.
pub const FAILURES_UNTIL_FAILING: u32 = 2;
/// Failures that follow each other faster than this are one for the pauses between probes: starts that were under way together,
/// or a burst that went there because no other node had room.
pub const ONE_FAILURE: Duration = Duration::from_millis(500);
/// So many successes in a row make a failing node `ok` again.
pub const SUCCESSES_UNTIL_OK: u32 = 3;
/// The pause before the first probe of a failing node. It doubles with every probe that fails.
pub const FIRST_PROBE_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause between two probes.
pub const MAX_PROBE_PAUSE: Duration = Duration::from_secs(60);
/// A failure that is older than this is not counted with later ones.
pub const FAILURE_MEMORY: Duration = Duration::from_secs(600);
/// A server that fails this soon after it was ready counts against its node.
pub const EARLY_END: Duration = Duration::from_secs(10);
/// A server on a node whose servers ended early must live for twice the time that those lived, and at most this long, before it is a
/// success. The caller is answered then. [`SUCCESSES_UNTIL_OK`] of them and the longest pause together take less than 65 s.
pub const MAX_HOLD: Duration = Duration::from_secs(3);

/// Whether starts on a node succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthState {
    /// Nothing speaks against it.
    #[default]
    Ok,
    /// Starts fail there. It is chosen only when no other suitable node has room, or as a probe.
    Failing,
}
words!(HealthState { Ok = "ok", Failing = "failing" });

/// A node's health as clients see it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeHealth {
    /// `failing` when it is for at least one renderer.
    pub state: HealthState,
    /// The last failure, in words; begins with the renderer when only one of them fails.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
    /// When it became `failing`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<Timestamp>,
    /// Failures in a row.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failures: Option<u32>,
    /// When the next request may be sent there as a probe.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_probe_at: Option<Timestamp>,
}

/// Why starts fail alike on every node that such requests may use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FarmCause {
    /// The failure that all nodes have in common, in words.
    pub reason: String,
    /// When the first of these requests failed.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Requests that failed so, on every node that they were tried on, without a success between them on a node that suits them.
    pub requests: u32,
    /// What these requests wanted of a node; empty where that is not known.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub concerns: Vec<Concern>,
}

/// What a request that failed on every node wanted of one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Concern {
    /// The renderer.
    pub renderer_type: RendererType,
    /// The pool, where it named one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pool: Option<String>,
    /// The labels, where it named some.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub labels: BTreeMap<String, String>,
}

impl FarmCause {
    /// Which nodes fail alike: `every node`, or `every node of pool gpu`.
    #[must_use]
    pub fn nodes(&self) -> String {
        let words = |concern: &Concern| {
            let pool = concern.pool.iter().map(|pool| format!("of pool {pool}"));
            pool.chain(concern.labels.iter().map(|(k, v)| format!("with {k}={v}")))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let mut all: Vec<String> = self.concerns.iter().map(words).collect();
        all.sort();
        all.dedup();
        if all.is_empty() || all.iter().any(String::is_empty) {
            return "every node".to_owned();
        }
        format!("every node {}", all.join(", "))
    }

    /// Whether requests that want this, or less, are among those that fail.
    #[must_use]
    pub fn is_of(&self, demand: &Demand) -> bool {
        let is = |concern: &Concern| {
            concern.renderer_type == demand.renderer
                && (concern.pool.is_none() || concern.pool == demand.pool)
                && concern.labels.iter().all(|(key, value)| demand.labels.get(key) == Some(value))
        };
        self.concerns.is_empty() || self.concerns.iter().any(is)
    }
}

impl From<Demand> for Concern {
    fn from(demand: Demand) -> Self {
        Self { renderer_type: demand.renderer, pool: demand.pool, labels: demand.labels }
    }
}

/// A start that failed in a way that counts against its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartFailure {
    /// For people: the vendor's text, the exit reason, or the agent's refusal.
    pub reason: String,
    /// One is enough: a server that was not ready in all the time it had says more than one that crashed.
    pub conclusive: bool,
    /// The cause concerns the node, whatever the renderer: a licence, a disk, no memory. Otherwise only the renderer of the
    /// request.
    pub whole_node: bool,
}

/// What a change of health means to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HealthChange {
    /// The node is trusted as it was before.
    None,
    /// The node has become `failing`: `node.failing`.
    Failing,
    /// The node is `ok` again: `node.recovered`.
    Recovered,
}

/// Health of one node for one renderer. Times are milliseconds of one clock, which its keeper chooses and passes in as `now`.
///
/// ```
/// use std::time::Duration;
/// use model::{Health, HealthState, StartFailure};
///
/// let crash = StartFailure { reason: "exit code 6".into(), conclusive: false, whole_node: false };
/// let mut health = Health::default();
/// health.fail(1_000, &crash, None, 0.0);
/// assert_eq!(health.state, HealthState::Ok, "one failure may be an accident");
/// health.fail(2_000, &crash, None, 0.0);
/// assert_eq!(health.state, HealthState::Failing);
/// assert!(health.is_probe_due(health.next_probe));
/// health.probe(health.next_probe, Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Health {
    /// Whether the node is trusted with this renderer.
    pub state: HealthState,
    /// Failures in a row. Kept while `failing` until the node is `ok` again.
    pub failures: u32,
    /// Successes since the last failure; counts only while `failing`.
    pub successes: u32,
    /// Why the last start failed, in words; empty before the first failure.
    pub reason: String,
    /// When the node became `failing`.
    pub since: u64,
    /// When the last failure happened.
    pub last: u64,
    /// When the next probe may start.
    pub next_probe: u64,
    /// Probes that failed in a row.
    pub failed_probes: u32,
    /// How long a server must live to be a success, see [`MAX_HOLD`]; 0 where the last failure was no early end.
    pub hold: u64,
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl Health {
    /// Whether a failure is on record, so that outcomes of starts must be reported.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.failures > 0
    }

    /// Whether the node is failing, or on probation after an early end: it is chosen last, or as a probe.
    #[must_use]
    pub fn is_avoided(&self) -> bool {
        self.state == HealthState::Failing || self.hold > 0
    }

    /// Whether the node is avoided and its next start may be a probe.
    #[must_use]
    pub fn is_probe_due(&self, now: u64) -> bool {
        self.is_avoided() && self.next_probe <= now
    }

    /// A probe starts. No other one does before its outcome is known, or before `lease` has passed.
    pub fn probe(&mut self, now: u64, lease: Duration) {
        self.next_probe = now.saturating_add(ms(lease));
    }

    /// A start failed, or a server ended `lived` after it was ready. `random` is in [0, 1) and spreads probes.
    pub fn fail(
        &mut self,
        now: u64,
        failure: &StartFailure,
        lived: Option<Duration>,
        random: f64,
    ) -> HealthChange {
        if self.state == HealthState::Ok && now.saturating_sub(self.last) > ms(FAILURE_MEMORY) {
            self.failures = 0;
        }
        let is_new = now.saturating_sub(self.last) >= ms(ONE_FAILURE);
        self.failures = self.failures.saturating_add(1);
        self.successes = 0;
        self.last = now;
        self.reason.clone_from(&failure.reason);
        self.hold = lived.map_or(0, |lived| ms((lived * 2).min(MAX_HOLD)).max(1));
        let failing = self.state == HealthState::Failing;
        if !failing && !failure.conclusive && self.failures < FAILURES_UNTIL_FAILING {
            self.next_probe = now.saturating_add(pause(0, random));
            return HealthChange::None;
        }
        if failing && !is_new {
            // The pause that has begun goes on.
            self.next_probe = self.next_probe.min(now.saturating_add(pause(self.failed_probes, random)));
            return HealthChange::None;
        }
        self.failed_probes = if failing { self.failed_probes.saturating_add(1) } else { 0 };
        self.next_probe = now.saturating_add(pause(self.failed_probes, random));
        if failing {
            return HealthChange::None;
        }
        self.state = HealthState::Failing;
        self.since = now;
        HealthChange::Failing
    }

    /// A server became ready, and where it is a probe has lived for [`Health::hold`]. Returns [`HealthChange::Recovered`] when that makes
    /// a failing node `ok`.
    pub fn succeed(&mut self, now: u64) -> HealthChange {
        if self.state == HealthState::Ok {
            // A server that was ready a moment ago may still end early.
            if now.saturating_sub(self.last) >= self.hold {
                *self = Self::default();
            }
            return HealthChange::None;
        }
        self.successes += 1;
        self.failed_probes = 0;
        if self.successes >= SUCCESSES_UNTIL_OK {
            *self = Self::default();
            return HealthChange::Recovered;
        }
        self.next_probe = now;
        HealthChange::None
    }

    /// A start had no outcome that concerns the node: its caller left, or the request was at fault. The next may be a probe.
    pub fn release(&mut self, now: u64) {
        if self.is_avoided() {
            self.next_probe = now;
        }
    }

    /// The node's agent was restarted, so the cause may be mended: a probe is due at once.
    pub fn renew(&mut self, now: u64) {
        self.failed_probes = 0;
        self.release(now);
    }
}

/// The pause in milliseconds after this many failed probes: 1, 2, 4 … 60 s, less 10 to 30 %. The jitter spreads the probes
/// of many nodes, and its minimum leaves time for the successes that follow the longest pause within 65 s.
fn pause(failed_probes: u32, random: f64) -> u64 {
    let doubled = ms(FIRST_PROBE_PAUSE).saturating_mul(1 << failed_probes.min(16));
    let longest = doubled.min(ms(MAX_PROBE_PAUSE));
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at most a minute"
    )]
    let spread = (longest as f64 * (0.9 - 0.2 * random.clamp(0.0, 1.0))) as u64;
    spread
}

/// The health of a node out of that of its two renderers: CSR, then SSR.
#[must_use]
pub fn node_health(csr: &Health, ssr: &Health) -> NodeHealth {
    let failing = |health: &Health| health.state == HealthState::Failing;
    let (worst, prefix) = match (failing(csr), failing(ssr)) {
        (false, false) => return NodeHealth::default(),
        (true, false) => (csr, "csr: "),
        (false, true) => (ssr, "ssr: "),
        (true, true) => (if csr.last >= ssr.last { csr } else { ssr }, ""),
    };
    NodeHealth {
        state: HealthState::Failing,
        reason: Some(format!("{prefix}{}", worst.reason)),
        since: Some(Timestamp::from_millis(worst.since)),
        failures: Some(worst.failures),
        next_probe_at: Some(Timestamp::from_millis(worst.next_probe)),
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
