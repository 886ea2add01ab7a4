//! Export by OTLP over HTTP, `http/protobuf`: each batch is one POST.
//!
//! Failure: a batch that is not accepted is lost, as over gRPC; it is not sent again.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, USER_AGENT};
use hyper::{Request, Uri};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use prost::Message;
use rustls::crypto::ring;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::runtime::Handle;

use crate::settings::{Settings, SettingsError, TlsFiles, read};

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");
const AGENT: HeaderValue = HeaderValue::from_static(concat!("hatchery/", env!("CARGO_PKG_VERSION")));
/// The most that is read of an answer. Only its status counts; one that is read to its end leaves the connection for the next batch.
const MAX_ANSWER: usize = 64 * 1024;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct HttpExporter {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    endpoint: Uri,
    headers: HeaderMap,
    resource: ResourceAttributesWithSchema,
    /// Makes the connections; the thread that exports is not of a runtime.
    runtime: Handle,
}

impl HttpExporter {
    /// Call it on a runtime.
    pub(crate) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(&settings.tls, settings.is_secure())?)
            .https_or_http()
            .enable_http1()
            .build();
        let mut headers = settings.metadata.clone().into_headers();
        headers.insert(CONTENT_TYPE, PROTOBUF);
        headers.entry(USER_AGENT).or_insert(AGENT);
        Ok(Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoint: settings.endpoint.clone(),
            headers,
            resource: ResourceAttributesWithSchema::default(),
            runtime: Handle::current(),
        })
    }
}

impl SpanExporter for HttpExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let resource_spans = group_spans_by_resource_and_scope(batch, &self.resource);
        let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let mut request =
            Request::post(self.endpoint.clone()).body(Full::from(body)).map_err(|error| failed(&error))?;
        request.headers_mut().clone_from(&self.headers);
        let client = self.client.clone();
        let call = self.runtime.spawn(async move {
            let answer = client.request(request).await.map_err(|error| failed(&error))?;
            let status = answer.status();
            Limited::new(answer.into_body(), MAX_ANSWER).collect().await.ok();
            if status.is_success() {
                Ok(())
            } else {
                Err(OTelSdkError::InternalFailure(format!("the collector answered {status}")))
            }
        });
        call.await.map_err(|error| failed(&error))?
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.resource = resource.into();
    }
}

/// An error with its causes: the library's own text names none.
fn failed(error: &dyn Error) -> OTelSdkError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    OTelSdkError::InternalFailure(text)
}

/// The machine's CAs are read only where TLS needs them.
fn tls(files: &TlsFiles, is_secure: bool) -> Result<ClientConfig, SettingsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| SettingsError::new("OTEL_EXPORTER_OTLP_ENDPOINT", error))?;
    let builder = match &files.ca {
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| SettingsError::new(&ca.0, error))?;
            }
            builder.with_root_certificates(roots)
        }
        None if is_secure => builder
            .with_native_roots()
            .map_err(|error| SettingsError::new("OTEL_EXPORTER_OTLP_CERTIFICATE", error))?,
        None => builder.with_root_certificates(RootCertStore::empty()),
    };
    let Some((certificate, key)) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(certificate)?;
    let private = PrivateKeyDer::from_pem_slice(&read(&key.0, &key.1)?)
        .map_err(|error| SettingsError::new(&key.0, error))?;
    builder.with_client_auth_cert(chain, private).map_err(|error| SettingsError::new(&certificate.0, error))
}

fn certificates((variable, path): &(String, PathBuf)) -> Result<Vec<CertificateDer<'static>>, SettingsError> {
    let pem = read(variable, path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Err(SettingsError::new(variable, format!("{} has no certificate", path.display()))),
        Err(error) => Err(SettingsError::new(variable, format!("{}: {error}", path.display()))),
    }
}

#[cfg(test)]
#[path = "http_tests.rs"]
mod tests;
