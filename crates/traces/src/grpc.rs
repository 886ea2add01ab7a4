//! Export by OTLP over gRPC. A connection is made when the first batch is sent.

use std::path::PathBuf;

use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use crate::settings::{Settings, SettingsError, TlsFiles, read};
use crate::start_error::StartError;

pub(crate) fn exporter(settings: &Settings) -> Result<SpanExporter, StartError> {
    let mut endpoint =
        Endpoint::from(settings.endpoint.clone()).timeout(settings.timeout).connect_timeout(settings.timeout);
    if settings.is_secure() {
        endpoint = endpoint.tls_config(tls(&settings.tls)?)?;
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_channel(endpoint.connect_lazy())
        .with_timeout(settings.timeout)
        .with_metadata(settings.metadata.clone())
        .build()?;
    Ok(exporter)
}

fn tls(files: &TlsFiles) -> Result<ClientTlsConfig, SettingsError> {
    let pem = |(variable, path): &(String, PathBuf)| read(variable, path);
    let mut config = ClientTlsConfig::new();
    config = match &files.ca {
        Some(ca) => config.ca_certificate(Certificate::from_pem(pem(ca)?)),
        None => config.with_native_roots(),
    };
    if let Some((certificate, key)) = &files.identity {
        config = config.identity(Identity::from_pem(pem(certificate)?, pem(key)?));
    }
    Ok(config)
}
