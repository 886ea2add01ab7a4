//! The admin port: `/healthz`, `/readyz` and `/metrics`.
//!
//! `/readyz` answers 503 while no spawn is admitted; the registry being away does not count. Probes are for all. Metrics are, with TLS, for holders
//! of a farm's certificate; and, with or without TLS, for holders of a key of `--metrics-keys`, once there is such a file.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use access::{Access, DenialLog, Denied, Scope};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::{IncomingStream, Listener};
use axum::{Extension, Json, Router};
use registry::{Registry, RegistryError};
use serde_json::json;
use tls::ServerStream;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::accept::{self, Connection};
use crate::foreign::{self, Known};
use crate::node::Node;
use crate::table::AdmissionMode;
use crate::task::{Task, report_end};

/// Connections at once. Beyond it the one that has said nothing for longest is closed.
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
    let open = node.config.metrics_keys.is_none();
    let router = router(Arc::clone(node)).layer(Extension(registry)).layer(border);
    Task::start(node, "admin", |stop| async move {
        let addr = listener.local_addr();
        let served = match secure {
            None => {
                let connections = accept::plain("admin", listener, MAX_CONNECTIONS, stop.clone());
                let router = router.layer(Extension(Certified(open)));
                let connections = Connections { connections, addr };
                axum::serve(connections, router).with_graceful_shutdown(stop.cancelled_owned()).await
            }
            Some(server) => {
                let connections = accept::tls(listener, server, MAX_CONNECTIONS, stop.clone());
                let router = router.layer(from_fn(identify));
                let router = router.into_make_service_with_connect_info::<Certified>();
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
        .layer(Extension(Arc::<DenialLog>::default()))
        .with_state(node)
}

/// Whether the connection says enough of the caller to read the metrics: it has shown a certificate of the farm, or none is asked for.
#[derive(Debug, Clone, Copy)]
struct Certified(bool);

impl Connected<IncomingStream<'_, Connections<ServerStream<TcpStream>>>> for Certified {
    fn connect_info(stream: IncomingStream<'_, Connections<ServerStream<TcpStream>>>) -> Self {
        Self(stream.io().has_shown_a_certificate())
    }
}

/// Hands the handlers what the connection says of its caller.
async fn identify(
    ConnectInfo(certified): ConnectInfo<Certified>,
    mut request: Request,
    next: Next,
) -> Response {
    request.extensions_mut().insert(certified);
    next.run(request).await
}

/// Bounded connections, as axum wants them.
#[derive(Debug)]
struct Connections<S> {
    connections: mpsc::Receiver<Connection<S>>,
    addr: io::Result<SocketAddr>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Listener for Connections<S> {
    type Io = Connection<S>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection<S>, SocketAddr) {
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

/// Whether spawns are admitted, and if not, why. The registry being away does not change that.
pub(crate) fn admission(node: &Node) -> Result<&'static str, &'static str> {
    let mode = node.table().admission_mode();
    match mode {
        AdmissionMode::Open if node.state.journal.trouble().is_some() => {
            Err("the state directory cannot be written")
        }
        AdmissionMode::Open => Ok("open"),
        AdmissionMode::ShuttingDown | AdmissionMode::Emptying => Err("shutting down"),
        AdmissionMode::Taken => Err("another agent has this node"),
        AdmissionMode::Superseded => Err("superseded"),
    }
}

async fn ready(State(node): State<Arc<Node>>, Extension(known): Extension<Registry>) -> impl IntoResponse {
    let (eligibility, other) = {
        let table = node.table();
        (table.eligibility(), table.other_agent().is_some())
    };
    let state_dir = node.state.journal.trouble();
    let admission = admission(&node);
    let registry = if node.registry_up() { "up" } else { "away" };
    let mut body = json!({
        "ready": admission.is_ok(),
        "admission": admission.unwrap_or_else(|why| why),
        "eligibility": eligibility,
        "registry": registry,
        // Where it is, is in the log.
        "otherAgent": other,
        "stateDirectory": state_dir.as_deref().unwrap_or("ok"),
    });
    if registry == "away"
        && let Some(RegistryError::Away(outage)) = known.trouble()
        && let Some(why) = outage.kind().outward()
    {
        body["registryDetail"] = why.into();
    }
    let warnings = known.warnings();
    if !warnings.is_empty() {
        body["warnings"] = warnings.into();
    }
    let status = if admission.is_ok() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(body))
}

/// Whether the caller shows a key with which metrics may be read. The error is the answer.
#[expect(clippy::result_large_err, reason = "the answer is made once and returned at once")]
fn check_key(keys: Option<&Access>, denials: &DenialLog, headers: &HeaderMap) -> Result<(), Response> {
    let Some(keys) = keys else {
        let why = "metrics need a certificate of the farm (hatchery certs new --metrics NAME), or a key of --metrics-keys\n";
        return Err((StatusCode::FORBIDDEN, why).into_response());
    };
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let judged = shown
        .and_then(access::bearer)
        .ok_or_else(Denied::missing)
        .and_then(|credential| keys.check(credential));
    match judged {
        Ok(caller) if caller.scopes.has(Scope::Metrics) => Ok(()),
        Ok(_) => {
            Err((StatusCode::FORBIDDEN, "this key has neither the scope metrics nor read\n").into_response())
        }
        Err(Denied { reason, key }) => {
            if let Some(left_out) = denials.line(reason, Instant::now()) {
                tracing::info!(%reason, key, left_out, "authentication failed for metrics");
            }
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            Err((StatusCode::UNAUTHORIZED, challenge, "metrics need a key with the scope metrics\n")
                .into_response())
        }
    }
}

async fn metrics(
    State(node): State<Arc<Node>>,
    Extension(certified): Extension<Certified>,
    Extension(denials): Extension<Arc<DenialLog>>,
    headers: HeaderMap,
) -> Response {
    if !certified.0
        && let Err(refusal) = check_key(node.config.metrics_keys.as_ref(), &denials, &headers)
    {
        return refusal;
    }
    let (usage, eligibility, supply) = {
        let table = node.table();
        (table.usage(), table.eligibility(), table.supply(node.starts.depth(), Instant::now()))
    };
    node.metrics.node(eligibility, node.registry_up());
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
