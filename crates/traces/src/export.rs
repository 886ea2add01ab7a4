//! From finished spans to the collector: a bounded queue, one thread that sends batches, and counts of what was lost.
//!
//! The queue and the thread are the batch processor of OpenTelemetry's SDK. It drops spans without saying how many, so what waits is counted
//! here as well, and a span that would find no room is dropped and counted before it gets there.
//!
//! Failure: a batch that the collector does not take in time is lost and counted. Lines in the log about losses are a minute apart.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use opentelemetry::InstrumentationScope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor,
};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tracing::warn;

use crate::room::Room;
use crate::sampler::Sampler;
use crate::settings::Batches;

/// From one line in the log about lost spans to the next.
const QUIET: Duration = Duration::from_secs(60);

static EXPORTED: AtomicU64 = AtomicU64::new(0);
static LOST: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Why spans were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// The queue had no room: there are more spans than the collector takes.
    QueueFull,
    /// The collector could not be reached, or did not accept them in time.
    NotDelivered,
}

impl Lost {
    /// Every reason, for metrics that begin with 0.
    pub const ALL: [Self; 2] = [Self::QueueFull, Self::NotDelivered];

    /// The word in metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::NotDelivered => "not-delivered",
        }
    }
}

/// The number of spans of this process in batches that a collector has accepted.
#[must_use]
pub fn exported_spans() -> u64 {
    EXPORTED.load(Ordering::Relaxed)
}

/// The number of spans of this process that were lost for this reason.
#[must_use]
pub fn lost_spans(why: Lost) -> u64 {
    LOST[why as usize].load(Ordering::Relaxed)
}

/// Where finished spans go.
#[derive(Debug)]
pub(crate) struct Pipeline {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    pub(crate) sampler: Sampler,
    queue: Arc<Queue>,
}

/// What waits in the processor.
#[derive(Debug)]
struct Queue {
    room: Room,
    began: Instant,
    /// Milliseconds after the beginning when losses may be logged again.
    log_again: AtomicU64,
}

impl Queue {
    fn lost(&self, count: usize, why: Lost, error: Option<&OTelSdkError>) {
        LOST[why as usize].fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let now = millis(self.began.elapsed());
        let again = self.log_again.load(Ordering::Relaxed);
        let next = now.saturating_add(millis(QUIET));
        if now >= again
            && self.log_again.compare_exchange(again, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            let [queue_full, not_delivered] = Lost::ALL.map(lost_spans);
            let error = error.map(tracing::field::display);
            warn!(
                queue_full,
                not_delivered, error, "spans of traces were lost: the collector does not take them"
            );
        }
    }
}

impl Pipeline {
    pub(crate) fn new(
        exporter: impl SpanExporter + 'static,
        runtime: Handle,
        sampler: Sampler,
        batches: Batches,
        resource: &Resource,
    ) -> Self {
        let queue = Arc::new(Queue {
            room: Room::new(batches.queue),
            began: Instant::now(),
            log_again: AtomicU64::new(0),
        });
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(batches.queue)
            .with_max_export_batch_size(batches.size)
            .with_scheduled_delay(batches.delay);
        let counted = Counted { exporter, runtime, timeout: batches.timeout, queue: Arc::clone(&queue) };
        let mut processor = BatchSpanProcessor::new(counted, config.build());
        processor.set_resource(resource);
        let scope = InstrumentationScope::builder("hatchery").with_version(env!("CARGO_PKG_VERSION")).build();
        Self { processor, scope, sampler, queue }
    }

    pub(crate) fn scope(&self) -> InstrumentationScope {
        self.scope.clone()
    }

    /// Takes a finished span. Never blocks.
    pub(crate) fn finished(&self, span: SpanData) {
        if self.queue.room.enter() {
            self.processor.on_end(span);
        } else {
            self.queue.lost(1, Lost::QueueFull, None);
        }
    }

    /// Sends what waits, for up to `limit`. Blocks.
    pub(crate) fn shutdown(&self, limit: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(limit)
    }
}

/// Counts what an exporter is given and what becomes of it.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    /// Its timers; the thread that exports has none.
    runtime: Handle,
    timeout: Duration,
    queue: Arc<Queue>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.queue.room.leave(count);
        let limited = {
            let _timers = self.runtime.enter();
            tokio::time::timeout(self.timeout, self.exporter.export(batch))
        };
        let outcome = limited.await.unwrap_or(Err(OTelSdkError::Timeout(self.timeout)));
        match &outcome {
            Ok(()) => {
                EXPORTED.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Err(error) => self.queue.lost(count, Lost::NotDelivered, Some(error)),
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
