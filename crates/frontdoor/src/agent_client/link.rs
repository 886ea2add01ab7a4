//! One connection to one agent: TCP, TLS where the farm has it, and HTTP/2 that knows what was not sent.

use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use futures_util::future::BoxFuture;
use futures_util::stream;
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{NodeId, Phases, RequestId};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::TaskTracker;
use tonic::Streaming;
use traces::Trace;
use tracing::{Instrument, debug};
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;

use super::dial::Dialer;
use super::error::{AgentError, Lost, failure};
use super::message::{StartOutcome, tagged};
use crate::request_context::{pass_on, report};

/// A silent connection is pinged this often, so that a node that vanished does not keep requests waiting until their deadline.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// The connection is closed when a ping is not answered within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);

/// One connection to one agent; cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(super) client: NodeAgentClient<Http2>,
    send: SendRequest<tonic::body::Body>,
}

impl Link {
    /// Connects to the agent of `node` at `advertise`. With TLS its certificate must be that of the node.
    ///
    /// # Errors
    /// Why there is no connection, in words that a caller may read.
    pub(super) async fn open(
        node: &NodeId,
        advertise: &str,
        tls: Option<&tls::Client>,
        dialer: &Dialer,
        tasks: &TaskTracker,
    ) -> Result<Self, String> {
        // Callers must not learn the address.
        let broken = |e: std::io::Error| e.to_string();
        let uri: Uri = advertise.parse().map_err(|e| format!("{advertise:?} is not a URL: {e}"))?;
        let (Some(scheme), Some(host)) = (uri.scheme_str(), uri.host()) else {
            return Err(format!("{advertise:?} is not http://host:port or https://host:port"));
        };
        let (tls, port) = match (scheme, tls) {
            ("http", None) => (None, 80),
            ("https", Some(tls)) => (Some(tls), 443),
            ("http", Some(_)) => {
                return Err("it is without TLS, and --tls-client-ca demands it of agents".to_owned());
            }
            ("https", None) => {
                return Err("it needs TLS, and this front door has no --tls-client-ca".to_owned());
            }
            (_, _) => return Err(format!("{advertise:?} is not http://host:port or https://host:port")),
        };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(port);
        if let Dialer::Simulated(network) = dialer {
            let stream = network.dial(format!("{address}:{port}")).await.map_err(broken)?;
            return Self::speak(stream, uri, tasks).await;
        }
        let stream = TcpStream::connect((address, port)).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let Some(tls) = tls else { return Self::speak(stream, uri, tasks).await };
        let stream = tls.connect(host, stream).await.map_err(broken)?;
        // The log has the certificate's node.
        tls.check_agent(&stream, node).map_err(|_| "its certificate is not that of its node".to_owned())?;
        let mut stream = BufReader::new(stream);
        // An agent rejects this end's certificate only now, after the handshake. It sends first, and nothing was sent to it before.
        if stream.fill_buf().await.map_err(broken)?.is_empty() {
            return Err("the agent closed the connection".to_owned());
        }
        Self::speak(stream, uri, tasks).await
    }

    async fn speak<S>(stream: S, uri: Uri, tasks: &TaskTracker) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (send, connection) = Builder::new(Tracked(tasks.clone()))
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| format!("{uri}: {e}"))?;
        let name = uri.to_string();
        tasks.spawn(
            async move {
                match connection.await {
                    Ok(()) => debug!(advertise = name, "connection to agent closed"),
                    Err(error) => debug!(advertise = name, %error, "connection to agent lost"),
                }
            }
            .in_current_span(),
        );
        Ok(Self { client: NodeAgentClient::with_origin(Http2(send.clone()), uri), send })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Opens the call that stands for a viewer; `steps` are what the agent hears of it.
    pub(crate) async fn attach(
        mut self,
        steps: mpsc::Receiver<v1::AttachRequest>,
        request: &RequestId,
    ) -> Result<Streaming<v1::AttachReply>, AgentError> {
        let steps = stream::unfold(steps, async |mut steps| steps.recv().await.map(|step| (step, steps)));
        let opened = self.client.attach(tagged(steps, request)).await;
        opened.map(tonic::Response::into_inner).map_err(|status| failure(&status))
    }

    /// Has the agent start a spawn, and waits for its verdict until the deadline.
    pub(crate) async fn spawn(
        mut self,
        message: v1::SpawnRequest,
        (request, trace, phases): (&RequestId, &Trace, &Phases),
        deadline: Instant,
    ) -> Result<StartOutcome, AgentError> {
        use v1::spawn_reply::Outcome as Reply;
        let mut call = tagged(message, request);
        pass_on(trace, call.metadata_mut());
        report(phases, call.metadata_mut());
        let reply = match timeout_at(deadline, self.client.spawn(call)).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(failure(&status)),
            Err(_) => {
                return Err(AgentError::Unknown {
                    why: "no answer before the deadline".into(),
                    deadline: true,
                });
            }
        };
        match reply.outcome {
            Some(Reply::Ready(ready)) => Ok(StartOutcome::Ready(ready)),
            Some(Reply::Ended(ended)) => Ok(StartOutcome::Ended(ended.into())),
            Some(Reply::Refused(refused)) => {
                Err(AgentError::Refused { reason: refused.reason(), detail: refused.detail })
            }
            None => Err(AgentError::Unknown { why: "the answer is empty".into(), deadline: false }),
        }
    }
}

/// Puts the connection's tasks under the tracker.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tracked {
    fn execute(&self, work: F) {
        self.0.spawn(work.in_current_span());
    }
}

/// The transport under the generated client. Unlike a channel that reconnects by itself, it knows what was not sent.
#[derive(Debug, Clone)]
pub(super) struct Http2(SendRequest<tonic::body::Body>);

impl tower::Service<Request<tonic::body::Body>> for Http2 {
    type Response = Response<Incoming>;
    type Error = Lost;
    type Future = BoxFuture<'static, Result<Response<Incoming>, Lost>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        // A closed connection gives the request back, which says more than an error here would.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let call = self.0.try_send_request(request);
        Box::pin(async move {
            call.await.map_err(|mut e| {
                let sent = e.take_message().is_none();
                Lost { sent, error: e.into_error() }
            })
        })
    }
}
