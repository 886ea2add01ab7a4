//! gRPC to the agents: one HTTP/2 connection per node, and errors that say whether anything may have been started.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::http::{Request, Response, Uri};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use model::{NodeId, RequestId, SpawnId};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, BufReader};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tracing::{Instrument, debug, debug_span};
use wire::v1;
use wire::v1::node_agent_client::NodeAgentClient;

/// A node that does not answer a connection attempt within this time is passed over.
const CONNECT: Duration = Duration::from_secs(1);
/// A connection on which nothing moves is asked for a sign of life this often, so that a node that vanished without a
/// word does not keep callers waiting until their deadline.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// And is given up when none comes within this time.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// How long a node that could not be reached is the last choice.
const SHUN: Duration = Duration::from_secs(3);
/// Most nodes shunned at once.
const MOST_SHUNNED: usize = 8;
/// Most connections kept.
const MOST_LINKS: usize = 10_000;
/// For calls that are not `Spawn`.
const SHORT_CALL: Duration = Duration::from_secs(5);
/// A log of the most lines that can be asked for.
const LARGEST_REPLY: usize = 64 << 20;

/// Why an agent's call did not do what it should. The variants differ in what the caller may do next.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nothing reached the agent. Another node may be tried.
    #[error("the agent could not be reached: {why}")]
    NotSent { why: String },
    /// The agent said no: nothing was started. Another node may be tried.
    #[error("the agent refused ({}): {detail}", word(*reason))]
    Refused { reason: v1::refused::Reason, detail: String },
    /// The request was sent, the answer is missing: it may have been started.
    #[error("the agent's answer is missing: {why}")]
    Unknown { why: String },
}

/// What came of a spawn that the agent took on.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ready(v1::Ready),
    Ended(v1::Ended),
}

/// Why an agent is asked to end a spawn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopReason {
    Stopped,
    Cancelled,
}

/// A refusal's reason in words that end up in front of a person.
pub(crate) fn word(reason: v1::refused::Reason) -> &'static str {
    use v1::refused::Reason as R;
    match reason {
        R::Unspecified => "no reason given",
        R::Full => "every slot is taken",
        R::GpusFull => "every GPU slot is taken",
        R::NoPort => "every port is taken",
        R::NotEligible => "cordoned or draining",
        R::RendererOff => "the renderer is switched off there",
        R::Abandoned => "the reservation is over",
        R::LowMemory => "too little free memory",
        R::CannotStart => "the server cannot be started there",
        R::BadModel => "the model leads outside the model directories",
        R::ShuttingDown => "its agent is going away",
        R::WrongNode => "another node is at its address",
    }
}

/// Connections to all agents.
pub(crate) struct Agents {
    /// Never held across an await.
    links: Mutex<Links>,
    /// Nodes that refused a connection a moment ago. Never held across an await.
    shunned: Mutex<Vec<(NodeId, Instant)>>,
    /// How agents know each other's front doors, and are known; `None`: in the clear.
    tls: Option<tls::Client>,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Links {
    uses: u64,
    by_node: HashMap<NodeId, Entry>,
}

struct Entry {
    advertise: String,
    /// All who come while a connection is being made share the attempt, and its failure.
    connecting: Connecting,
    last_use: u64,
}

type Connecting = Shared<BoxFuture<'static, Result<Link, Arc<str>>>>;

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents").field("connections", &self.tasks.len()).finish_non_exhaustive()
    }
}

impl Agents {
    pub(crate) fn new(tls: Option<tls::Client>) -> Self {
        Self { links: Mutex::default(), shunned: Mutex::default(), tls, tasks: TaskTracker::new() }
    }

    /// A connection to a node's agent: the one there is, or a new one.
    pub(crate) async fn link(&self, node: &NodeId, advertise: &str) -> Result<Link, AgentError> {
        let connecting = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.uses += 1;
            let uses = links.uses;
            let known = links.by_node.get_mut(node).filter(|entry| entry.advertise == advertise);
            match known.map(|entry| {
                entry.last_use = uses;
                (entry.connecting.peek().cloned(), entry.connecting.clone())
            }) {
                Some((Some(Ok(link)), _)) if !link.is_closed() => return Ok(link),
                Some((None, connecting)) => connecting,
                _ => {
                    let connecting = self.connect(node, advertise);
                    links.put(
                        node,
                        Entry {
                            advertise: advertise.to_owned(),
                            connecting: connecting.clone(),
                            last_use: uses,
                        },
                    );
                    connecting
                }
            }
        };
        connecting.await.map_err(|why| {
            self.shun(node);
            AgentError::NotSent { why: why.as_ref().to_owned() }
        })
    }

    /// Asks an agent to end a spawn.
    pub(crate) async fn stop(
        &self,
        node: &NodeId,
        advertise: &str,
        spawn: SpawnId,
        reason: StopReason,
        request: &RequestId,
    ) -> Result<v1::stop_reply::Outcome, AgentError> {
        let mut link = self.link(node, advertise).await?;
        let reason = match reason {
            StopReason::Stopped => model::ExitReason::Stopped,
            StopReason::Cancelled => model::ExitReason::Cancelled,
        };
        let message = v1::StopRequest {
            spawn_id: spawn.to_string(),
            reason: reason.as_str().to_owned(),
            node: node.to_string(),
        };
        let reply = short(link.client.stop(tagged(message, request))).await?;
        Ok(reply.outcome())
    }

    /// Tells an agent what the operator wants of its node; how many spawns it still has. Once it has answered, the
    /// promise holds.
    pub(crate) async fn set_eligibility(
        &self,
        node: &NodeId,
        advertise: &str,
        message: v1::SetEligibilityRequest,
        request: &RequestId,
    ) -> Result<u32, AgentError> {
        let mut link = self.link(node, advertise).await?;
        let reply = short(link.client.set_eligibility(tagged(message, request))).await?;
        Ok(reply.remaining)
    }

    /// The last lines of a spawn's output; `None` when the agent does not know it.
    pub(crate) async fn read_log(
        &self,
        node: &NodeId,
        advertise: &str,
        spawn: SpawnId,
        lines: u32,
        request: &RequestId,
    ) -> Result<Option<Vec<String>>, AgentError> {
        let link = self.link(node, advertise).await?;
        let message = v1::ReadLogRequest { spawn_id: spawn.to_string(), lines, node: node.to_string() };
        let mut client = link.client.max_decoding_message_size(LARGEST_REPLY);
        let call = timeout(SHORT_CALL, client.read_log(tagged(message, request))).await;
        match call {
            Ok(Ok(reply)) => Ok(Some(reply.into_inner().lines)),
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err(AgentError::Unknown { why: format!("no answer within {SHORT_CALL:?}") }),
        }
    }

    /// Nodes that could not be reached a moment ago: the last choice, for as long as [`SHUN`].
    pub(crate) fn shunned(&self) -> Vec<NodeId> {
        let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        if shunned.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        shunned.retain(|(_, until)| *until > now);
        shunned.iter().map(|(node, _)| node.clone()).collect()
    }

    fn shun(&self, node: &NodeId) {
        let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.retain(|(other, _)| other != node);
        if shunned.len() >= MOST_SHUNNED {
            shunned.remove(0);
        }
        shunned.push((node.clone(), Instant::now() + SHUN));
    }

    /// Lets go of every connection.
    pub(crate) async fn close(&self, limit: Duration) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).by_node.clear();
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            debug!(connections = self.tasks.len(), "connections to agents still open");
        }
    }

    /// Connects in a task of its own, so that an attempt ends also when nobody waits for it any more.
    fn connect(&self, node: &NodeId, advertise: &str) -> Connecting {
        let (advertise, tasks, tls) = (advertise.to_owned(), self.tasks.clone(), self.tls.clone());
        let span = debug_span!("agent", node.id = %node, advertise);
        let attempt = self.tasks.spawn(
            async move {
                timeout(CONNECT, Link::open(&advertise, tls.as_ref(), &tasks))
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))
            }
            .instrument(span),
        );
        let attempt = async {
            match attempt.await {
                Ok(Ok(link)) => Ok(link),
                Ok(Err(why)) => Err(why.into()),
                Err(_) => Err("the attempt was cut short".into()),
            }
        };
        attempt.boxed().shared()
    }
}

impl Links {
    fn put(&mut self, node: &NodeId, entry: Entry) {
        if self.by_node.len() >= MOST_LINKS
            && !self.by_node.contains_key(node)
            && let Some(oldest) = self.by_node.iter().min_by_key(|(_, e)| e.last_use).map(|(n, _)| n.clone())
        {
            self.by_node.remove(&oldest);
        }
        self.by_node.insert(node.clone(), entry);
    }
}

/// One connection to one agent; cloning is cheap.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    client: NodeAgentClient<Http2>,
    send: SendRequest<tonic::body::Body>,
}

impl Link {
    async fn open(advertise: &str, tls: Option<&tls::Client>, tasks: &TaskTracker) -> Result<Self, String> {
        // Where it is, is nothing for whoever asks for a spawn.
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
        let stream = TcpStream::connect((address, uri.port_u16().unwrap_or(port))).await.map_err(broken)?;
        stream.set_nodelay(true).map_err(broken)?;
        let Some(tls) = tls else { return Self::speak(stream, uri, tasks).await };
        let mut stream = BufReader::new(tls.connect(host, stream).await.map_err(broken)?);
        // That it does not trust this end an agent says only now. It speaks first: nothing has been sent before that.
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

    fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Has the agent start a spawn, and waits for its verdict until the deadline.
    pub(crate) async fn spawn(
        mut self,
        message: v1::SpawnRequest,
        request: &RequestId,
        deadline: Instant,
    ) -> Result<Outcome, AgentError> {
        use v1::spawn_reply::Outcome as Reply;
        let reply = match timeout_at(deadline, self.client.spawn(tagged(message, request))).await {
            Ok(Ok(reply)) => reply.into_inner(),
            Ok(Err(status)) => return Err(failure(&status)),
            Err(_) => return Err(AgentError::Unknown { why: "no answer before the deadline".into() }),
        };
        match reply.outcome {
            Some(Reply::Ready(ready)) => Ok(Outcome::Ready(ready)),
            Some(Reply::Ended(ended)) => Ok(Outcome::Ended(ended)),
            Some(Reply::Refused(refused)) => {
                Err(AgentError::Refused { reason: refused.reason(), detail: refused.detail })
            }
            None => Err(AgentError::Unknown { why: "the answer is empty".into() }),
        }
    }
}

async fn short<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, AgentError> {
    match timeout(SHORT_CALL, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_) => Err(AgentError::Unknown { why: format!("no answer within {SHORT_CALL:?}") }),
    }
}

fn tagged<T>(message: T, request: &RequestId) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    if let Ok(id) = MetadataValue::try_from(request.as_str()) {
        call.metadata_mut().insert(wire::REQUEST_ID, id);
    }
    call
}

/// What a failed call means. Only what is certain to have changed nothing is called `NotSent` or `Refused`.
fn failure(status: &Status) -> AgentError {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(Lost { sent: false, error }) = error.downcast_ref() {
            return AgentError::NotSent { why: error.to_string() };
        }
        cause = error.source();
    }
    match status.code() {
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            AgentError::Refused {
                reason: v1::refused::Reason::Unspecified,
                detail: status.message().to_owned(),
            }
        }
        code => AgentError::Unknown { why: format!("{code:?}: {}", status.message()) },
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
struct Http2(SendRequest<tonic::body::Body>);

/// A call the connection did not carry to its end.
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost")]
struct Lost {
    /// Whether the request may have left.
    sent: bool,
    #[source]
    error: hyper::Error,
}

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
