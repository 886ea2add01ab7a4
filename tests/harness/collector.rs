//! A collector of traces: what a farm exports by OTLP, over gRPC or HTTP, as a test looks at it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

use crate::wait::{Look, TIMEOUT, until};

/// `status.code` of a span that failed.
const ERROR: i32 = 2;

/// One span.
#[derive(Debug, Clone)]
pub struct Traced {
    /// Its process's `service.name`.
    pub service: String,
    /// Its name.
    pub name: String,
    /// The trace, in hexadecimal digits.
    pub trace: String,
    /// Its own id.
    pub id: String,
    /// Its parent's; empty for a root.
    pub parent: String,
    /// Its kind, by number: 1 internal, 2 server, 3 client.
    pub kind: i32,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// From its beginning to its end, in nanoseconds since 1970.
    pub times: (u64, u64),
    /// What its process passes on of the caller's `tracestate`.
    pub state: String,
    attributes: BTreeMap<String, String>,
}

impl Traced {
    /// An attribute, as text.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map(String::as_str).unwrap_or_default()
    }
}

#[derive(Debug, Default, Clone)]
struct Received {
    spans: Arc<Mutex<Vec<Traced>>>,
    /// The metadata `x-team` of every call.
    teams: Arc<Mutex<Vec<String>>>,
    hangs: bool,
}

impl Received {
    async fn take(&self, team: String, batch: ExportTraceServiceRequest) {
        self.teams.lock().unwrap_or_else(PoisonError::into_inner).push(team);
        let mut spans = Vec::new();
        for resource in batch.resource_spans {
            let attributes = texts(&resource.resource.unwrap_or_default().attributes);
            let service = attributes.get("service.name").cloned().unwrap_or_default();
            let all = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(all.map(|span| traced(&service, span)));
        }
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).append(&mut spans);
        if self.hangs {
            std::future::pending::<()>().await;
        }
    }
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    /// Where it listens.
    pub addr: SocketAddr,
    received: Received,
    task: JoinHandle<()>,
}

impl Collector {
    /// Starts one.
    pub async fn start() -> Self {
        Self::begin(false).await
    }

    /// One that takes everything and answers nothing.
    pub async fn hanging() -> Self {
        Self::begin(true).await
    }

    async fn begin(hangs: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port can be had");
        let addr = listener.local_addr().expect("it is bound");
        let received = Received { hangs, ..Received::default() };
        let service = TraceServiceServer::new(received.clone());
        let over_http = Router::new().route("/v1/traces", post(over_http)).with_state(received.clone());
        let both = over_http.merge(Routes::new(service).into_axum_router());
        let task = tokio::spawn(async move { axum::serve(listener, both).await.expect("it serves") });
        Self { addr, received, task }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Traced> {
        self.received.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The metadata `x-team` of every call so far.
    pub fn teams(&self) -> Vec<String> {
        self.received.teams.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a trace is as `whole` wants it; its spans.
    pub async fn trace(&self, id: &str, mut whole: impl FnMut(&[Traced]) -> bool) -> Vec<Traced> {
        until(&format!("trace {id} is whole"), TIMEOUT, async || {
            let mut spans = self.spans();
            spans.retain(|span| span.trace == id);
            if whole(&spans) { Look::Ready(spans) } else { Look::NotYet(format!("{spans:#?}")) }
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let team = request.metadata().get("x-team").and_then(|team| team.to_str().ok());
        let team = team.unwrap_or_default().to_owned();
        self.take(team, request.into_inner()).await;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// One batch over HTTP.
async fn over_http(
    State(received): State<Received>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, Vec<u8>) {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if header("content-type") != "application/x-protobuf" {
        return (StatusCode::UNSUPPORTED_MEDIA_TYPE, Vec::new());
    }
    let Ok(batch) = ExportTraceServiceRequest::decode(body) else {
        return (StatusCode::BAD_REQUEST, Vec::new());
    };
    received.take(header("x-team").to_owned(), batch).await;
    (StatusCode::OK, ExportTraceServiceResponse::default().encode_to_vec())
}

fn traced(service: &str, span: Span) -> Traced {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let status = span.status.unwrap_or_default();
    Traced {
        service: service.to_owned(),
        trace: hex(&span.trace_id),
        id: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        kind: span.kind,
        error: (status.code == ERROR).then_some(status.message),
        times: (span.start_time_unix_nano, span.end_time_unix_nano),
        state: span.trace_state,
        attributes: texts(&span.attributes),
        name: span.name,
    }
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: &Value| match value {
        Value::StringValue(text) => text.clone(),
        Value::IntValue(number) => number.to_string(),
        other => format!("{other:?}"),
    };
    let pair = |pair: &KeyValue| {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        (pair.key.clone(), value.map(text).unwrap_or_default())
    };
    attributes.iter().map(pair).collect()
}
