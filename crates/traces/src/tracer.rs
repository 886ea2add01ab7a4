//! What a role has for its traces: whether they are recorded, and where requests get their place in one.

use std::num::NonZeroU128;
use std::sync::Arc;
use std::time::Duration;

use model::TraceId;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use tokio::runtime::Handle;
use tracing::{info, warn};

use crate::context::Context;
use crate::export::Pipeline;
use crate::grpc;
use crate::http::HttpExporter;
use crate::settings::{Protocol, Settings};
use crate::span::{Span, Trace};
use crate::start_error::StartError;

/// See the module's documentation. Cloning is cheap; all clones export to the same place.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Pipeline>>);

impl Tracer {
    /// Records nothing. Callers' traces are passed on.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Begins to export, as `service` unless a variable names it. `attributes` say which of the service's processes this is. Call it
    /// on a runtime; the collector need not be there.
    ///
    /// # Errors
    /// A file that a variable names cannot be used.
    pub fn start(
        settings: &Settings,
        service: &str,
        attributes: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, StartError> {
        let resource = resource(settings, service, attributes);
        let (sampler, batches) = (settings.sampler, settings.batches);
        let pipeline = match settings.protocol {
            Protocol::Grpc => {
                Pipeline::new(grpc::exporter(settings)?, Handle::current(), sampler, batches, &resource)
            }
            Protocol::HttpProtobuf => {
                Pipeline::new(HttpExporter::new(settings)?, Handle::current(), sampler, batches, &resource)
            }
        };
        info!(collector = %settings.endpoint, protocol = %settings.protocol, "traces are exported");
        Ok(Self(Some(Arc::new(pipeline))))
    }

    /// The trace of a request that is answered here: a span of its own in the caller's trace, or at the beginning of a new one, if it is
    /// sampled.
    pub fn serve(&self, caller: Option<Context>, name: impl FnOnce() -> String) -> Span {
        Span::of(self.served(caller, name))
    }

    fn served(&self, caller: Option<Context>, name: impl FnOnce() -> String) -> Trace {
        match (&self.0, caller) {
            (None, None) => Trace::default(),
            (Some(pipeline), None) => {
                let trace = random_trace();
                if !pipeline.sampler.begins(trace) {
                    return Trace::default();
                }
                Trace::root(trace, name(), pipeline)
            }
            (_, Some(caller)) => {
                let trace = self.join(caller);
                if trace.is_recorded() { trace.served(name()) } else { trace }
            }
        }
    }

    /// The place of a request in its caller's trace, without a span of its own. What the sampler does not take, called processes are
    /// asked not to record; while traces are off, the caller's decision is passed on as it came.
    #[must_use]
    pub fn join(&self, caller: Context) -> Trace {
        match &self.0 {
            None => Trace::at(caller, None),
            Some(pipeline) if pipeline.sampler.takes(&caller) => {
                Trace::at(caller, Some(Arc::clone(pipeline)))
            }
            Some(_) => Trace::at(caller.unsampled(), None),
        }
    }

    /// Whether a request of this caller's trace would be recorded.
    #[must_use]
    pub fn takes(&self, caller: &Context) -> bool {
        self.0.as_ref().is_some_and(|pipeline| pipeline.sampler.takes(caller))
    }

    /// Sends what waits, for up to `limit`. Spans that end later are lost.
    pub async fn shutdown(&self, limit: Duration) {
        let Some(pipeline) = self.0.clone() else { return };
        let sent = tokio::task::spawn_blocking(move || pipeline.shutdown(limit)).await;
        if let Ok(Err(error)) = sent {
            warn!(%error, "the last spans of traces were not sent");
        }
    }
}

/// The id of a new trace.
pub(crate) fn random_trace() -> TraceId {
    TraceId::new(NonZeroU128::MIN.saturating_add(fastrand::u128(..u128::MAX)))
}

/// The process as its spans name it. `OTEL_SERVICE_NAME` goes before `OTEL_RESOURCE_ATTRIBUTES`, which goes before what is built in.
fn resource(
    settings: &Settings,
    service: &str,
    attributes: impl IntoIterator<Item = (&'static str, String)>,
) -> Resource {
    let own = [
        KeyValue::new("service.name", service.to_owned()),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
    ];
    let given = settings.resource.iter().map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    let named = settings.service_name.iter().map(|name| KeyValue::new("service.name", name.clone()));
    Resource::builder_empty()
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_attributes(own)
        .with_attributes(attributes.into_iter().map(|(key, value)| KeyValue::new(key, value)))
        .with_attributes(given)
        .with_attributes(named)
        .build()
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SpanData, SpanExporter};

    use super::*;
    use crate::sampler::{Root, Sampler};
    use crate::settings::Batches;

    const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-";

    /// Keeps what it is given.
    #[derive(Debug, Clone, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    fn tracer(root: Root, parent_based: bool) -> (Tracer, Kept) {
        let (hour, kept) = (Duration::from_secs(3600), Kept::default());
        let batches = Batches { delay: hour, queue: 9, size: 9, timeout: hour };
        let sampler = Sampler { root, parent_based };
        let resource = Resource::builder_empty().build();
        let pipeline = Pipeline::new(kept.clone(), Handle::current(), sampler, batches, &resource);
        (Tracer(Some(Arc::new(pipeline))), kept)
    }

    fn caller(flags: &str) -> Context {
        let text = format!("{CALLER}{flags}");
        Context::read([text.as_bytes()].into_iter(), std::iter::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_samplers_no_is_passed_on_and_nothing_is_changed_while_traces_are_off() {
        for (tracer, flags, passed_on) in [
            (tracer(Root::Off, false).0, "01", "00"),
            (tracer(Root::Off, false).0, "03", "02"),
            (tracer(Root::Off, true).0, "01", "01"),
            (tracer(Root::On, true).0, "00", "00"),
            (Tracer::off(), "01", "01"),
            (Tracer::off(), "03", "03"),
        ] {
            let trace = tracer.join(caller(flags));
            assert_eq!(trace.context().unwrap().to_string(), format!("{CALLER}{passed_on}"), "{tracer:?}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_span_that_is_discarded_is_not_exported_and_others_say_whether_their_trace_is_random() {
        let (tracer, kept) = tracer(Root::On, true);
        let part = tracer.serve(Some(caller("01")), || "discarded".to_owned());
        part.fail("denied", "it has no owner");
        assert!(part.has_failed());
        part.discard();
        let [random, plain, own] = [Some("03"), Some("01"), None]
            .map(|flags| tracer.serve(flags.map(caller), || flags.unwrap_or("own").to_owned()));
        assert!(!own.has_failed());
        for span in [random, plain, own] {
            span.end();
        }
        tracer.shutdown(Duration::from_secs(10)).await;
        let spans = kept.0.lock().unwrap();
        let found = spans.iter().map(|span| (&*span.name, span.span_context.trace_flags().to_u8()));
        assert_eq!(found.collect::<Vec<_>>(), [("03", 3), ("01", 1), ("own", 3)]);
    }
}
