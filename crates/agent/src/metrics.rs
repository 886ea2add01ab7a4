//! Metrics of the agent. Names are `hatchery_agent_<noun>_<unit>[_total]`, but for what every process has; labels come
//! from small fixed sets.

use std::sync::atomic::Ordering;

use model::{Eligibility, ExitReason, Supply};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use registry::Difference;
use tls::PeerMetrics;
use traces::{Exemplar, TraceMetrics};

use crate::spawn::RefusalKind;
use crate::table::Usage;
use crate::table::claim::Miss;
use crate::table::pool::WarmEnd;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Wanted {
    eligibility: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LaneName {
    lane: &'static str,
}

/// Why heartbeats carry the whole list, beside what the registry found to be different.
const LISTED_FOR: [&str; 4] = ["start", "orders", "unanswered", "changed"];
/// Why a warm server has ended that was not asked to.
const DIED: &str = "died";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RendererName {
    renderer: &'static str,
}

/// All counts of one agent.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) started: Counter,
    pub(crate) adopted: Counter,
    pub(crate) ports_lost: Counter,
    ended: Family<ReasonLabels, Counter>,
    refused: Family<ReasonLabels, Counter>,
    running: Family<State, Gauge>,
    pub(crate) start_to_ready: HistogramWithExemplars<Exemplar>,
    pub(crate) report_time: Histogram,
    pub(crate) report_failures: Counter,
    lists: Family<ReasonLabels, Counter>,
    pub(crate) liveliness: Counter,
    pub(crate) liveliness_evicted: Counter,
    pub(crate) ports_of_others: Counter,
    backlog: Gauge,
    dropped: Gauge,
    waiting: Gauge,
    eligibility: Family<Wanted, Gauge>,
    registry_up: Gauge,
    slots_used: Gauge,
    ports_used: Gauge,
    gpu_slots_used: Gauge,
    memory: Gauge,
    log_lines_dropped: Counter,
    traces: TraceMetrics,
    certificate: Gauge,
    disk_hung: Family<LaneName, Gauge>,
    starts_under_way: Gauge,
    starts_waiting: Gauge,
    pub(crate) warm_started: Counter,
    pub(crate) warm_claimed: Counter,
    warm_missed: Family<ReasonLabels, Counter>,
    warm_ended: Family<ReasonLabels, Counter>,
    warm_ready: Family<RendererName, Gauge>,
    warm_wanted: Family<RendererName, Gauge>,
    pub(crate) peers: PeerMetrics,
}

impl Metrics {
    pub(crate) fn new(slots: u32) -> Self {
        let mut root = Registry::default();
        let memory = Gauge::default();
        root.register("process_resident_memory_bytes", "Memory of this process", memory.clone());
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: env!("CARGO_PKG_VERSION") }).set(1);
        root.register("hatchery_build_info", "1, with the version of this process", build);
        let log_lines_dropped = Counter::default();
        let help = "Log lines that were dropped because standard error was not read";
        root.register("hatchery_log_lines_dropped", help, log_lines_dropped.clone());
        let (peers, traces) = (PeerMetrics::register(&mut root), TraceMetrics::register(&mut root));
        let registry = root.sub_registry_with_prefix("hatchery_agent");
        let seconds = |first, count| Histogram::new(exponential_buckets(first, 2.0, count));
        let metrics = Self {
            started: Counter::default(),
            adopted: Counter::default(),
            ports_lost: Counter::default(),
            ended: Family::default(),
            refused: Family::default(),
            running: Family::default(),
            start_to_ready: HistogramWithExemplars::new(exponential_buckets(0.0005, 2.0, 17)),
            report_time: seconds(0.0001, 16),
            report_failures: Counter::default(),
            lists: Family::default(),
            liveliness: Counter::default(),
            liveliness_evicted: Counter::default(),
            ports_of_others: Counter::default(),
            backlog: Gauge::default(),
            dropped: Gauge::default(),
            waiting: Gauge::default(),
            eligibility: Family::default(),
            registry_up: Gauge::default(),
            slots_used: Gauge::default(),
            ports_used: Gauge::default(),
            gpu_slots_used: Gauge::default(),
            memory,
            log_lines_dropped,
            traces,
            certificate: Gauge::default(),
            disk_hung: Family::default(),
            starts_under_way: Gauge::default(),
            starts_waiting: Gauge::default(),
            warm_started: Counter::default(),
            warm_claimed: Counter::default(),
            warm_missed: Family::default(),
            warm_ended: Family::default(),
            warm_ready: Family::default(),
            warm_wanted: Family::default(),
            peers,
            registry: Registry::default(),
        };
        let m = &metrics;
        registry.register("spawns_started", "Spawns whose process was started", m.started.clone());
        registry.register("spawns_adopted", "Spawns taken over from an earlier agent", m.adopted.clone());
        registry.register(
            "ports_lost",
            "Ports that others took before a server could listen on them",
            m.ports_lost.clone(),
        );
        registry.register("spawns_ended", "Spawns that ended, by reason", m.ended.clone());
        registry.register("spawns_refused", "Spawns that were not let in, by reason", m.refused.clone());
        registry.register("spawns_running", "Spawns that have not ended, by state", m.running.clone());
        registry.register(
            "start_to_ready_seconds",
            "From the start of a process to its ready",
            m.start_to_ready.clone(),
        );
        registry.register(
            "liveliness_reports",
            "Reports of spawned servers that were taken in",
            m.liveliness.clone(),
        );
        registry.register(
            "liveliness_evicted",
            "Connections to the liveliness port that made room for newer ones",
            m.liveliness_evicted.clone(),
        );
        registry.register(
            "ports_of_others",
            "Spawns that were found listening on a port that is not theirs",
            m.ports_of_others.clone(),
        );
        registry.register(
            "registry_report_seconds",
            "Time the registry took to accept a report",
            m.report_time.clone(),
        );
        registry.register(
            "registry_report_failures",
            "Reports the registry did not accept",
            m.report_failures.clone(),
        );
        registry.register(
            "registry_lists",
            "Heartbeats that had to carry the whole list of spawns, by why; \"start\" is usual",
            m.lists.clone(),
        );
        registry.register(
            "backlog_changes",
            "Changes that the registry has not acknowledged yet",
            m.backlog.clone(),
        );
        registry.register(
            "backlog_dropped_changes",
            "Changes dropped because too many were waiting",
            m.dropped.clone(),
        );
        registry.register("callers_waiting", "Spawn calls that wait for their answer", m.waiting.clone());
        registry.register(
            "certificate_not_after_seconds",
            "When the certificate ends, in seconds since 1970; 0 without one",
            m.certificate.clone(),
        );
        registry.register(
            "disk_threads_hung",
            "Threads that wait for a disk that does not answer, by what they are for",
            m.disk_hung.clone(),
        );
        let help = "1 for what the operator wants of this node, 0 for the others";
        registry.register("eligibility", help, m.eligibility.clone());
        registry.register("registry_up", "Whether the registry takes reports", m.registry_up.clone());
        let total = Gauge::<i64>::default();
        total.set(i64::from(slots));
        registry.register("slots", "Most spawns at once", total);
        registry.register("slots_used", "Slots that are taken", m.slots_used.clone());
        registry.register("ports_used", "Ports that are taken", m.ports_used.clone());
        registry.register("gpu_slots_used", "GPU slots that are taken", m.gpu_slots_used.clone());
        registry.register("starts_under_way", "Servers that are starting", m.starts_under_way.clone());
        registry.register(
            "starts_waiting",
            "Spawns whose start waits for others to be ready",
            m.starts_waiting.clone(),
        );
        registry.register(
            "warm_servers_started",
            "Servers that were started to be kept ready",
            m.warm_started.clone(),
        );
        registry.register("warm_claims", "Spawns that got a server that was ready", m.warm_claimed.clone());
        registry.register(
            "warm_misses",
            "Spawns that started a server of their own although some are kept, by reason",
            m.warm_missed.clone(),
        );
        registry.register(
            "warm_servers_ended",
            "Servers that ended before a spawn got them, by reason",
            m.warm_ended.clone(),
        );
        registry.register(
            "warm_servers_ready",
            "Servers that are kept ready, by renderer",
            m.warm_ready.clone(),
        );
        registry.register(
            "warm_servers_wanted",
            "Servers to be kept ready, by renderer",
            m.warm_wanted.clone(),
        );
        let ends = WarmEnd::ALL.into_iter().map(Some).chain([None]);
        for why in ends {
            drop(
                metrics.warm_ended.get_or_create(&ReasonLabels { reason: why.map_or(DIED, WarmEnd::as_str) }),
            );
        }
        for miss in Miss::ALL {
            drop(metrics.warm_missed.get_or_create(&ReasonLabels { reason: miss.as_str() }));
        }
        for reason in ExitReason::ALL {
            drop(metrics.ended.get_or_create(&ReasonLabels { reason: reason.as_str() }));
        }
        for kind in RefusalKind::ALL {
            drop(metrics.refused.get_or_create(&ReasonLabels { reason: kind.as_str() }));
        }
        for reason in LISTED_FOR.into_iter().chain(Difference::ALL.map(Difference::as_str)) {
            drop(metrics.lists.get_or_create(&ReasonLabels { reason }));
        }
        Self { registry: root, ..metrics }
    }

    /// A heartbeat carries the whole list.
    pub(crate) fn list_sent(&self, reason: &'static str) {
        self.lists.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// How many heartbeats have carried the whole list.
    pub(crate) fn lists_sent(&self) -> u64 {
        let reasons = LISTED_FOR.into_iter().chain(Difference::ALL.map(Difference::as_str));
        reasons.map(|reason| self.lists.get_or_create(&ReasonLabels { reason }).get()).sum()
    }

    pub(crate) fn ended(&self, reason: ExitReason) {
        self.ended.get_or_create(&ReasonLabels { reason: reason.as_str() }).inc();
    }

    pub(crate) fn refused(&self, kind: RefusalKind) {
        self.refused.get_or_create(&ReasonLabels { reason: kind.as_str() }).inc();
    }

    /// What the operator wants of the node, and whether the registry takes its reports.
    pub(crate) fn node(&self, wanted: Eligibility, registry_up: bool) {
        for &eligibility in Eligibility::ALL {
            let gauge = self.eligibility.get_or_create(&Wanted { eligibility: eligibility.as_str() });
            gauge.set(i64::from(eligibility == wanted));
        }
        self.registry_up.set(i64::from(registry_up));
    }

    /// A spawn started a server of its own although some are kept ready.
    pub(crate) fn warm_missed(&self, miss: Miss) {
        self.warm_missed.get_or_create(&ReasonLabels { reason: miss.as_str() }).inc();
    }

    /// A warm server has ended before a spawn got it; `None`: by itself.
    pub(crate) fn warm_ended(&self, why: Option<WarmEnd>) {
        let reason = why.map_or(DIED, WarmEnd::as_str);
        self.warm_ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// How soon the node gives a spawn.
    pub(crate) fn supply(&self, supply: &Supply, under_way: usize) {
        self.starts_under_way.set(i64::try_from(under_way).unwrap_or(i64::MAX));
        self.starts_waiting.set(supply.starts.map_or(0, |starts| i64::from(starts.waiting)));
        for (renderer, warm) in &supply.warm {
            let name = RendererName { renderer: renderer.as_str() };
            self.warm_ready.get_or_create(&name).set(i64::from(warm.ready));
            self.warm_wanted.get_or_create(&name).set(i64::from(warm.wanted));
        }
    }

    /// How many threads of a lane hang.
    pub(crate) fn disk_hung(&self, lane: &'static str, threads: usize) {
        self.disk_hung.get_or_create(&LaneName { lane }).set(i64::try_from(threads).unwrap_or(i64::MAX));
    }

    /// When the certificate ends that front doors are shown.
    pub(crate) fn certificate(&self, not_after: Option<u64>) {
        self.certificate.set(i64::try_from(not_after.unwrap_or(0)).unwrap_or(i64::MAX));
    }

    /// The text a scrape gets.
    pub(crate) fn text(&self, usage: &Usage) -> String {
        let whole = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let mut used = 0;
        for (state, count) in &usage.by_state {
            self.running.get_or_create(&State { state: state.as_str() }).set(whole(*count));
            used += count;
        }
        self.slots_used.set(whole(used));
        self.waiting.set(i64::from(usage.waiting));
        self.ports_used.set(whole(usage.ports));
        self.gpu_slots_used.set(i64::from(usage.gpu_slots));
        self.backlog.set(whole(usage.backlog));
        self.dropped.set(i64::try_from(usage.dropped).unwrap_or(i64::MAX));
        self.memory.set(i64::try_from(machine::memory::resident().unwrap_or(0)).unwrap_or(i64::MAX));
        self.traces.refresh();
        self.log_lines_dropped.inner().store(log_output::dropped_lines(), Ordering::Relaxed);
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "failed to write the metrics");
                String::new()
            }
        }
    }
}
