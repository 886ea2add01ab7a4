//! What every process of a farm reports: its memory, its log, and the certificates that it shows and is shown.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tls::PeerMetrics;
use traces::TraceMetrics;

use crate::settings::Tls;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    shown_to: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

#[derive(Debug)]
pub(super) struct ProcessMetrics {
    memory: Gauge<i64, AtomicI64>,
    log_lines_dropped: Counter<u64, AtomicU64>,
    certificates: Family<CertificateLabels, Gauge<i64, AtomicI64>>,
    peers: PeerMetrics,
    traces: TraceMetrics,
    tls: Tls,
}

impl ProcessMetrics {
    pub(super) fn register(root: &mut Registry, tls: Tls) -> Self {
        let memory = Gauge::default();
        root.register("process_resident_memory_bytes", "Memory of this process", memory.clone());
        let build = Family::<BuildLabels, Gauge<i64, AtomicI64>>::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        root.register("hatchery_build_info", "1, with the version of this process", build);
        let log_lines_dropped = Counter::default();
        let help = "Log lines that were dropped because standard error was not read";
        root.register("hatchery_log_lines_dropped", help, log_lines_dropped.clone());
        let (peers, traces) = (PeerMetrics::register(root), TraceMetrics::register(root));
        Self { memory, log_lines_dropped, certificates: Family::default(), peers, traces, tls }
    }

    pub(super) fn register_certificates(&self, registry: &mut Registry) {
        let help = "When certificates end, in seconds since 1970";
        registry.register("certificate_not_after_seconds", help, self.certificates.clone());
    }

    /// Reads the values that are not counted while they change.
    pub(super) fn refresh(&self) {
        self.memory.set(i64::try_from(machine::memory::resident().unwrap_or(0)).unwrap_or(i64::MAX));
        self.log_lines_dropped.inner().store(log_output::dropped_lines(), Ordering::Relaxed);
        self.traces.refresh();
        let ends = [
            ("callers", self.tls.http.as_ref().and_then(tls::Server::not_after)),
            ("agents", self.tls.agents.as_ref().and_then(tls::Client::not_after)),
        ];
        for (shown_to, end) in ends {
            let Some(end) = end else { continue };
            let gauge = self.certificates.get_or_create(&CertificateLabels { shown_to });
            gauge.set(i64::try_from(end).unwrap_or(i64::MAX));
        }
        let http = self.tls.http.iter().filter(|http| http.demands_certificates());
        let shown = self.tls.admin.iter().chain(http).map(tls::Server::peers);
        let called = self.tls.agents.iter().chain(&self.tls.relays).map(tls::Client::peers);
        for peers in shown.chain(called) {
            self.peers.update(peers);
        }
    }
}
