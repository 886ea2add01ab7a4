//! HTTP requests: those under way, and those answered by route, method and status. Routes are patterns, never paths, so callers
//! cannot make new series.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

/// Requests that are being answered, and those that were.
#[derive(Debug, Clone, Default)]
pub(crate) struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    in_flight: Gauge<i64, AtomicI64>,
}

/// Counts a request as being answered for as long as this lives.
#[derive(Debug)]
pub(crate) struct InFlight(Gauge<i64, AtomicI64>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl RequestMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("requests", "HTTP requests by route, method and status", metrics.requests.clone());
        registry.register("requests_in_flight", "HTTP requests being answered", metrics.in_flight.clone());
        metrics
    }

    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    pub(crate) fn answered(&self, route: &'static str, method: &'static str, status: u16) {
        self.requests.get_or_create(&RequestLabels { route, method, status }).inc();
    }

    pub(crate) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}
