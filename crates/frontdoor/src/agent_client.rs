//! gRPC to the agents: one HTTP/2 connection per node, and errors that say whether anything may have been started.
//!
//! An attempt to connect is shared by all requests that come while it lasts, and outlives them: a request waits for it as long
//! as its deadline allows and goes on to another node, and the next request finds the node connected. A node that could not
//! be reached is in [`Quarantine`] for a while.

mod link;
mod outward;
mod quarantine;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use model::{NodeId, RequestId, SpawnId};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};
use tracing::{Instrument, debug, debug_span};
use wire::v1;

use self::link::{Link, Lost};
pub(crate) use self::outward::outward;
use self::quarantine::Quarantine;

/// An attempt to connect is given up after this time. Requests wait for a part of it, see [`connect_timeout`].
const CONNECT: Duration = Duration::from_secs(10);
/// A request waits at least and at most this long for the first connection that it needs.
const MIN_CONNECT: Duration = Duration::from_secs(1);
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// And for each further one while other nodes may have room.
pub(crate) const FURTHER_CONNECT: Duration = Duration::from_millis(250);
/// Most connections kept.
const MAX_LINKS: usize = 10_000;
/// For calls that are not `Spawn`.
const SHORT_CALL: Duration = Duration::from_secs(5);
/// A log of the most lines that can be asked for.
const LARGEST_REPLY: usize = 64 << 20;
/// Metadata key of an agent's own node, in the answer to a call that was meant for another.
const NODE: &str = "x-hatchery-node";

/// Why an agent's call did not do what it should. The variants differ in what the caller may do next.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nothing reached the agent. Another node may be tried.
    #[error("the agent could not be reached: {why}")]
    NotSent {
        why: String,
        /// The attempt to connect goes on.
        connecting: bool,
    },
    /// The agent said no: nothing was started. Another node may be tried.
    #[error("the agent refused ({}): {detail}", word(*reason))]
    Refused { reason: v1::refused::Reason, detail: String },
    /// The request was sent, the answer is missing: it may have been started.
    #[error("the agent's answer is missing: {why}")]
    Unknown {
        why: String,
        /// There was none before the deadline.
        deadline: bool,
    },
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
    quarantine: Arc<Quarantine>,
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
        Self { links: Mutex::default(), quarantine: Arc::default(), tls, tasks: TaskTracker::new() }
    }

    /// A connection to a node's agent: the one there is, or a new one.
    /// Waits for it up to `wait`.
    pub(crate) async fn link(
        &self,
        node: &NodeId,
        advertise: &str,
        wait: Duration,
    ) -> Result<Link, AgentError> {
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
        let (why, connecting) = match timeout(wait, connecting).await {
            Ok(Ok(link)) => return Ok(link),
            Ok(Err(why)) => (why.as_ref().to_owned(), false),
            Err(_) => (format!("not connected within {wait:?}"), true),
        };
        self.quarantine.put(node);
        Err(AgentError::NotSent { why, connecting })
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
        let mut link = self.link(node, advertise, SHORT_CALL).await?;
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

    /// Gives an agent the order of an operator. Once it has answered, it follows the order with the number in its
    /// answer.
    pub(crate) async fn set_eligibility(
        &self,
        node: &NodeId,
        advertise: &str,
        message: v1::SetEligibilityRequest,
        request: &RequestId,
    ) -> Result<v1::SetEligibilityReply, AgentError> {
        let mut link = self.link(node, advertise, SHORT_CALL).await?;
        short(link.client.set_eligibility(tagged(message, request))).await
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
        let link = self.link(node, advertise, SHORT_CALL).await?;
        let message = v1::ReadLogRequest { spawn_id: spawn.to_string(), lines, node: node.to_string() };
        let mut client = link.client.max_decoding_message_size(LARGEST_REPLY);
        let call = timeout(SHORT_CALL, client.read_log(tagged(message, request))).await;
        match call {
            Ok(Ok(reply)) => Ok(Some(reply.into_inner().lines)),
            Ok(Err(status)) if status.code() == Code::NotFound => Ok(None),
            Ok(Err(status)) => Err(failure(&status)),
            Err(_) => Err(no_answer()),
        }
    }

    /// Nodes that could not be reached a moment ago: the last choice.
    pub(crate) fn unreachable(&self) -> Vec<NodeId> {
        self.quarantine.nodes()
    }

    /// Whether the node could not be reached a moment ago.
    pub(crate) fn is_unreachable(&self, node: &NodeId) -> bool {
        self.quarantine.has(node)
    }

    /// The node's agent is not at its address.
    pub(crate) fn is_elsewhere(&self, node: &NodeId) {
        self.quarantine.put(node);
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
        let (node, quarantine) = (node.clone(), Arc::clone(&self.quarantine));
        let span = debug_span!("agent", node.id = %node, advertise);
        let attempt = self.tasks.spawn(
            async move {
                let link = timeout(CONNECT, Link::open(&node, &advertise, tls.as_ref(), &tasks))
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {CONNECT:?}")))?;
                quarantine.release(&node);
                Ok::<_, String>(link)
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

/// How long a request waits for a connection when this much of its deadline is left.
pub(crate) fn connect_timeout(left: Duration) -> Duration {
    (left / 16).clamp(MIN_CONNECT, MAX_CONNECT).min(left)
}

impl Links {
    fn put(&mut self, node: &NodeId, entry: Entry) {
        if self.by_node.len() >= MAX_LINKS
            && !self.by_node.contains_key(node)
            && let Some(oldest) = self.by_node.iter().min_by_key(|(_, e)| e.last_use).map(|(n, _)| n.clone())
        {
            self.by_node.remove(&oldest);
        }
        self.by_node.insert(node.clone(), entry);
    }
}

fn no_answer() -> AgentError {
    AgentError::Unknown { why: format!("no answer within {SHORT_CALL:?}"), deadline: false }
}

async fn short<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, AgentError> {
    match timeout(SHORT_CALL, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_) => Err(no_answer()),
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
            return AgentError::NotSent { why: error.to_string(), connecting: false };
        }
        cause = error.source();
    }
    if status.code() == Code::FailedPrecondition
        && let Some(found) = status.metadata().get(NODE)
    {
        let found = found.to_str().unwrap_or("another node");
        return AgentError::NotSent { why: format!("{found} is at its address"), connecting: false };
    }
    match status.code() {
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            AgentError::Refused {
                reason: v1::refused::Reason::Unspecified,
                detail: status.message().to_owned(),
            }
        }
        code => AgentError::Unknown { why: format!("{code:?}: {}", status.message()), deadline: false },
    }
}

#[cfg(test)]
mod tests;
