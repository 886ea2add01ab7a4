//! The admin port: `/healthz`, `/readyz` and `/metrics`.
//!
//! `/readyz` answers 503 while no spawn is admitted; the registry being away does not count. With TLS, metrics are for holders of a farm's
//! certificate, and probes are for everyone.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use axum::{Extension, Json, Router};
use registry::Registry;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::accept::{self, Connection};
use crate::foreign::{self, Known};
use crate::node::Node;
use crate::table::AdmissionMode;
use crate::task::{Task, report_end};

/// Connections at once, where other machines can make them. Beyond it the oldest one is closed.
const MAX_CONNECTIONS: usize = 256;

/// Serves probes and metrics; with TLS, metrics are for metrics readers and front doors, which show a certificate of the farm.
pub(crate) fn serve(
    node: &Arc<Node>,
    listener: TcpListener,
    secure: Option<tls::Server>,
    registry: Registry,
) -> Task {
    let names = Known { hosts: node.config.hosts.clone(), certificate: secure.clone() };
    let border = from_fn_with_state(Arc::new(names), foreign::guard);
    let router = router(Arc::clone(node)).layer(Extension(registry)).layer(border);
    Task::start(node, "admin", |stop| async move {
        let served = match secure {
            None => {
                let router = router.layer(Extension(MayReadMetrics(true)));
                axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
            }
            Some(server) => {
                let addr = listener.local_addr();
                let connections = accept::tls(listener, server, MAX_CONNECTIONS, stop.clone());
                let router = router.layer(from_fn(identify));
                let router = router.into_make_service_with_connect_info::<MayReadMetrics>();
                let connections = Connections { connections, addr };
                axum::serve(connections, router).with_graceful_shutdown(stop.cancelled_owned()).await
            }
        };
        report_end("admin", served);
    })
}

fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(node)
}

/// Whether the caller may read the metrics.
#[derive(Debug, Clone, Copy)]
struct MayReadMetrics(bool);

impl Connected<IncomingStream<'_, Connections>> for MayReadMetrics {
    fn connect_info(stream: IncomingStream<'_, Connections>) -> Self {
        Self(stream.io().has_shown_a_certificate())
    }
}

/// Hands the handlers what the connection says of its caller.
async fn identify(
    ConnectInfo(may_read): ConnectInfo<MayReadMetrics>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(may_read);
    next.run(request).await
}

/// Connections with TLS, as axum wants them.
#[derive(Debug)]
struct Connections {
    connections: mpsc::Receiver<Connection>,
    addr: io::Result<SocketAddr>,
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        match self.connections.recv().await {
            Some(connection) => {
                let peer = connection.peer();
                (connection, peer)
            }
            // The agent is ending.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.addr.as_ref().copied().map_err(|error| io::Error::from(error.kind()))
    }
}

/// Whether spawns are admitted. The registry being away does not change that; it is only shown.
async fn ready(State(node): State<Arc<Node>>, Extension(known): Extension<Registry>) -> impl IntoResponse {
    let (mode, eligibility, other) = {
        let table = node.table();
        (table.admission_mode(), table.eligibility(), table.other_agent().is_some())
    };
    let state_dir = node.state.journal.trouble();
    let (status, admission) = match mode {
        AdmissionMode::Open => (StatusCode::OK, "open"),
        AdmissionMode::ShuttingDown | AdmissionMode::Emptying => {
            (StatusCode::SERVICE_UNAVAILABLE, "shutting down")
        }
        AdmissionMode::Taken => (StatusCode::SERVICE_UNAVAILABLE, "another agent has this node"),
        AdmissionMode::Superseded => (StatusCode::SERVICE_UNAVAILABLE, "superseded"),
    };
    let registry = if node.registry_up() { "up" } else { "away" };
    let (status, admission) = match (&state_dir, status) {
        (Some(_), StatusCode::OK) => {
            (StatusCode::SERVICE_UNAVAILABLE, "the state directory cannot be written")
        }
        _ => (status, admission),
    };
    let mut body = json!({
        "ready": status == StatusCode::OK,
        "admission": admission,
        "eligibility": eligibility,
        "registry": registry,
        // Where it is, is in the log.
        "otherAgent": other,
        "stateDirectory": state_dir.as_deref().unwrap_or("ok"),
    });
    if let Some(why) = known.trouble().and_then(|why| registry::outward(&why)).filter(|_| registry == "away")
    {
        body["registryDetail"] = why.into();
    }
    let warnings = known.warnings();
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    (status, Json(body))
}

async fn metrics(
    State(node): State<Arc<Node>>,
    Extension(may_see): Extension<MayReadMetrics>,
    headers: HeaderMap,
) -> Response {
    if !may_see.0 {
        let why = "metrics need a certificate of the farm (hatchery certs new --metrics NAME)\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    let usage = node.table().usage();
    let supply = node.table().supply(node.starts.depth(), Instant::now());
    node.metrics.supply(&supply, node.starts.under_way());
    let tls = &node.config.tls;
    node.metrics.certificate(tls.grpc.as_ref().and_then(tls::Server::not_after));
    for server in tls.grpc.iter().chain(&tls.admin) {
        node.metrics.peers.update(server.peers());
    }
    for (lane, threads) in node.disk.hung() {
        node.metrics.disk_hung(lane, threads);
    }
    let accept = headers.get(header::ACCEPT).map(HeaderValue::as_bytes);
    let text = traces::for_scraper(node.metrics.text(&usage), accept);
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], text).into_response()
}
