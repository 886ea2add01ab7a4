//! gRPC to the agents: one HTTP/2 connection per node, and errors that say whether anything may have been started.
//!
//! Owns: the connections, and the [`Quarantine`] of nodes that could not be reached a moment ago.
//!
//! Invariants: an attempt to connect is shared by all requests that come while it lasts, and outlives them. A request waits for it
//! as long as its deadline allows and goes on to another node, and the next request finds the node connected.
//!
//! Failure: [`AgentError`] says whether a process may have been started. Only what is certain to have changed nothing is `NotSent`
//! or `Refused`.

mod dial;
mod error;
mod link;
mod message;
mod outward;
mod quarantine;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use model::api::Unreachable;
use model::{NodeId, RequestId, SpawnId};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use tonic::{Code, Status};
use tracing::{Instrument, debug, debug_span};
use wire::v1;

pub use self::dial::Dial;
pub(crate) use self::dial::Dialer;
pub(crate) use self::error::{AgentError, failure, word};
use self::link::Link;
use self::message::tagged;
pub(crate) use self::message::{Ended, StartOutcome};
pub(crate) use self::outward::outward;
use self::quarantine::Quarantine;

/// An attempt to connect is given up after this time. Requests wait for a part of it, see [`connect_timeout`].
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A request waits at least and at most this long for the first connection that it needs.
const MIN_CONNECT: Duration = Duration::from_secs(1);
const MAX_CONNECT: Duration = Duration::from_secs(5);
/// And for each further one while other nodes may have room.
pub(crate) const FURTHER_CONNECT: Duration = Duration::from_millis(250);
const MAX_LINKS: usize = 10_000;
/// For every call but `Spawn`.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// A log of the most lines that can be asked for.
const MAX_REPLY: usize = 64 << 20;

/// Why an agent is asked to end a spawn.
#[derive(Debug, Clone, Copy)]
pub(crate) enum StopReason {
    Stopped,
    Cancelled,
}

/// Connections to all agents.
pub(crate) struct Agents {
    /// Never held across an await.
    links: Mutex<Links>,
    quarantine: Arc<Quarantine>,
    /// `None`: calls are in the clear.
    tls: Option<tls::Client>,
    dialer: Dialer,
    tasks: TaskTracker,
}

#[derive(Default)]
struct Links {
    uses: u64,
    by_node: HashMap<NodeId, Entry>,
}

struct Entry {
    advertise: String,
    /// Requests that come while a connection is being made share the attempt, and its failure.
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
    pub(crate) fn new(tls: Option<tls::Client>, dialer: Dialer) -> Self {
        Self { links: Mutex::default(), quarantine: Arc::default(), tls, dialer, tasks: TaskTracker::new() }
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
        self.quarantine.put(node, &outward(&why));
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
        let mut link = self.link(node, advertise, CALL_TIMEOUT).await?;
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

    /// Sets how long a spawn may live, from its start.
    pub(crate) async fn set_life(
        &self,
        node: &NodeId,
        advertise: &str,
        spawn: SpawnId,
        life: Duration,
        request: &RequestId,
    ) -> Result<v1::set_life_reply::Outcome, AgentError> {
        let mut link = self.link(node, advertise, CALL_TIMEOUT).await?;
        let max_life_ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
        let message = v1::SetLifeRequest { spawn_id: spawn.to_string(), node: node.to_string(), max_life_ms };
        let reply = short(link.client.set_life(tagged(message, request))).await?;
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
        let mut link = self.link(node, advertise, CALL_TIMEOUT).await?;
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
        let link = self.link(node, advertise, CALL_TIMEOUT).await?;
        let message = v1::ReadLogRequest { spawn_id: spawn.to_string(), lines, node: node.to_string() };
        let mut client = link.client.max_decoding_message_size(MAX_REPLY);
        let call = timeout(CALL_TIMEOUT, client.read_log(tagged(message, request))).await;
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

    /// Why, and since when, there is no connection to the node's agent; `None` where there is one or none was tried.
    pub(crate) fn unreached(&self, node: &NodeId) -> Option<Unreachable> {
        self.quarantine.failed(node)
    }

    /// Nodes without a connection that were tried, the least recently tried first.
    pub(crate) fn all_unreached(&self) -> Vec<NodeId> {
        self.quarantine.all_failed()
    }

    /// Forgets why other nodes than these could not be reached.
    pub(crate) fn keep_unreached(&self, is_kept: impl Fn(&NodeId) -> bool) {
        self.quarantine.keep(is_kept);
    }

    /// Whether there is a connection to the node's agent, or an attempt.
    pub(crate) fn is_connected(&self, node: &NodeId, advertise: &str) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let known = links.by_node.get(node).filter(|entry| entry.advertise == advertise);
        known.is_some_and(|entry| match entry.connecting.peek() {
            Some(Ok(link)) => !link.is_closed(),
            Some(Err(_)) => false,
            None => true,
        })
    }

    /// The node's agent is not at its address.
    pub(crate) fn is_elsewhere(&self, node: &NodeId) {
        self.quarantine.put_elsewhere(node);
    }

    /// Lets go of every connection.
    pub(crate) async fn close(&self, limit: Duration) {
        self.links.lock().unwrap_or_else(PoisonError::into_inner).by_node.clear();
        self.tasks.close();
        if timeout(limit, self.tasks.wait()).await.is_err() {
            debug!(connections = self.tasks.len(), "connections to agents still open");
        }
    }

    /// Connects in a task of its own, so that an attempt goes on to its end when no request waits for it any more.
    fn connect(&self, node: &NodeId, advertise: &str) -> Connecting {
        let (advertise, tasks, tls) = (advertise.to_owned(), self.tasks.clone(), self.tls.clone());
        let dialer = self.dialer.clone();
        let (node, quarantine) = (node.clone(), Arc::clone(&self.quarantine));
        let span = debug_span!("agent", node.id = %node, advertise);
        let attempt = self.tasks.spawn(
            async move {
                let opened = Link::open(&node, &advertise, tls.as_ref(), &dialer, &tasks);
                let link = timeout(CONNECT_TIMEOUT, opened)
                    .await
                    .unwrap_or_else(|_| Err(format!("no answer within {CONNECT_TIMEOUT:?}")))?;
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
    AgentError::Unknown { why: format!("no answer within {CALL_TIMEOUT:?}"), deadline: false }
}

async fn short<T>(call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T, AgentError> {
    match timeout(CALL_TIMEOUT, call).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(failure(&status)),
        Err(_) => Err(no_answer()),
    }
}

#[cfg(test)]
mod tests;
