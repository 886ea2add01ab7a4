//! Metrics of the export, one count for the process; and what leads from other metrics to traces.

use std::sync::atomic::{AtomicU64, Ordering};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::export::{Lost, exported_spans, lost_spans};
use crate::span::Trace;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

/// What leads from a bucket of a histogram to a trace that is in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Exemplar {
    trace_id: String,
}

impl Exemplar {
    /// The one of this trace, where it is recorded.
    #[must_use]
    pub fn of(trace: &Trace) -> Option<Self> {
        trace.id().filter(|_| trace.is_recorded()).map(|id| Self { trace_id: id.to_string() })
    }
}

/// Metrics for a scraper that accepts this: exemplars are left out unless it names OpenMetrics, the only format that has them.
#[must_use]
pub fn for_scraper(text: String, accept: Option<&[u8]>) -> String {
    let accepts = accept.is_some_and(|accept| String::from_utf8_lossy(accept).contains("openmetrics-text"));
    if accepts || !text.contains(EXEMPLAR) {
        return text;
    }
    let without = |line: &str| {
        let kept = if line.starts_with('#') { None } else { line.rsplit_once(EXEMPLAR) };
        kept.map_or(line, |(kept, _)| kept).to_owned() + "\n"
    };
    text.lines().map(without).collect()
}

/// What stands before an exemplar in a line.
const EXEMPLAR: &str = " # {trace_id=";

/// The metrics of a role.
#[derive(Debug, Clone, Default)]
pub struct TraceMetrics {
    exported: Counter<u64, AtomicU64>,
    lost: Family<Labels, Counter<u64, AtomicU64>>,
}

impl TraceMetrics {
    /// Registers them. `root` has no prefix.
    pub fn register(root: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Spans of traces in batches that the collector has accepted";
        root.register("hatchery_trace_spans_exported", help, metrics.exported.clone());
        let help = "Spans of traces that were lost, by reason";
        root.register("hatchery_trace_spans_lost", help, metrics.lost.clone());
        metrics
    }

    /// Brings the counters to what the exporter has counted. Call it before they are read.
    pub fn refresh(&self) {
        self.exported.inner().store(exported_spans(), Ordering::Relaxed);
        for why in Lost::ALL {
            let lost = self.lost.get_or_create(&Labels { reason: why.as_str() });
            lost.inner().store(lost_spans(why), Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;
    use prometheus_client::metrics::exemplar::HistogramWithExemplars;

    use super::*;

    #[test]
    fn exemplars_are_for_scrapers_that_accept_open_metrics() {
        let mut registry = Registry::default();
        let histogram = HistogramWithExemplars::new([0.1, 1.0].into_iter());
        registry.register("took_seconds", "Time", histogram.clone());
        histogram.observe(0.5, Some(Exemplar { trace_id: "4bf9".to_owned() }), None);
        histogram.observe(0.01, None, None);
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        let accept = b"application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
        let with = for_scraper(text.clone(), Some(accept));
        assert!(with == text && with.contains(r#"# {trace_id="4bf9"} 0.5"#), "{with}");
        for accept in [None, Some(&b"text/plain"[..])] {
            let without = for_scraper(text.clone(), accept);
            assert!(!without.contains("4bf9") && without.ends_with("# EOF\n"), "{without}");
            assert_eq!(without.lines().count(), text.lines().count());
        }
    }
}
