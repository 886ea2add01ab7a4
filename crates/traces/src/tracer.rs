//! What a role has for its traces: whether they are recorded, and where requests get their place in one.

use std::num::NonZeroU128;
use std::sync::Arc;
use std::time::Duration;

use model::TraceId;
use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::resource::TelemetryResourceDetector;
use tokio::runtime::Handle;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tracing::{info, warn};

use crate::context::Context;
use crate::export::Pipeline;
use crate::settings::{Settings, SettingsError, TlsFiles};
use crate::span::{Span, Trace};

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A variable leads to something unusable.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The exporter cannot be made.
    #[error("cannot export traces: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// The connection cannot be prepared.
    #[error("cannot export traces: {0}")]
    Transport(#[from] tonic::transport::Error),
}

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
        settings: Settings,
        service: &str,
        attributes: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self, StartError> {
        let resource = resource(&settings, service, attributes);
        let mut endpoint = Endpoint::from(settings.endpoint.clone())
            .timeout(settings.timeout)
            .connect_timeout(settings.timeout);
        if settings.endpoint.scheme_str() == Some("https") {
            endpoint = endpoint.tls_config(tls(&settings.tls)?)?;
        }
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(endpoint.connect_lazy())
            .with_timeout(settings.timeout)
            .with_metadata(settings.metadata)
            .build()?;
        info!(collector = %settings.endpoint, "traces are exported");
        let pipeline =
            Pipeline::new(exporter, Handle::current(), settings.sampler, settings.batches, &resource);
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

    /// The place of a request in its caller's trace, without a span of its own.
    #[must_use]
    pub fn join(&self, caller: Context) -> Trace {
        let pipeline = self.0.as_ref().filter(|pipeline| pipeline.sampler.takes(&caller));
        Trace::at(caller, pipeline.cloned())
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

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, SettingsError> {
    let read = |(variable, path): &(String, std::path::PathBuf)| {
        std::fs::read(path)
            .map_err(|error| SettingsError::new(variable, format!("cannot read {}: {error}", path.display())))
    };
    let mut config = ClientTlsConfig::new();
    config = match &files.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &files.identity {
        config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
    }
    Ok(config)
}
