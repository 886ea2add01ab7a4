//! The path of `POST /spawn`: reserve, start, answer, and what to undo when it does not go well.

use std::sync::Arc;
use std::time::Duration;

use model::api::SpawnAnswer;
use model::{NodeId, RequestId, SpawnId};
use registry::RegistryError;
use tokio::time::Instant;
use tracing::{debug, info};
use wire::v1;
use wire::v1::refused::Reason;

use crate::agent_client::{AgentError, Outcome};
use crate::door::{Door, Got};
use crate::held::Held;
use crate::line;
use crate::metrics::{Attempt, Phase};
use crate::order::Order;

/// Most nodes tried before the farm counts as full.
const MOST_NODES: usize = 3;
/// When every try was refused although the registry saw room, the two disagree: they get this long to meet.
const DISAGREEMENT: Duration = Duration::from_millis(500);

/// Why there is no spawn.
#[derive(Debug)]
pub(crate) enum SpawnError {
    /// Every matching node is full, or said so.
    NoCapacity { why: String },
    /// The owner has as many as it may have.
    OverQuota { most: u32 },
    /// No node matches.
    NoMatchingNode { why: String },
    /// The process ended before it was ready.
    Failed { node: NodeId, spawn: SpawnId, exit: Box<v1::Exit>, log: Vec<String> },
    /// The process could not even be started.
    CannotStart { node: NodeId, spawn: SpawnId, why: String },
    /// The process was not ready in time, or its agent did not answer in time.
    NotReady { node: NodeId, spawn: SpawnId, log: Option<Vec<String>> },
    /// The agent found that the model leads outside its directories.
    BadModel { why: String },
    /// The registry is away.
    Registry(RegistryError),
}

/// Starts a spawn. While the registry is away, nodes are chosen from the last picture of the farm, unless the request is
/// `keyed`: its key's promise could not be kept. The caller who has handed the answer over must [`Held::keep`] what it got; dropping it, or this
/// future at any point, leaves nothing behind.
pub(crate) async fn spawn(
    door: &Arc<Door>,
    order: &Order,
    request: &RequestId,
    keyed: bool,
) -> Result<(SpawnAnswer, Held), SpawnError> {
    let mut search = Search::new(door, order, request, keyed);
    loop {
        let (mut held, deadline) = search.slot().await?;
        let (node, spawn) = (held.node().clone(), held.spawn());
        debug!(spawn.id = %spawn, node.id = %node, "slot reserved");
        match held.start(order, deadline).await {
            Ok(Outcome::Ready(ready)) => {
                door.metrics.attempt(Attempt::Ready);
                door.metrics.phase(Phase::StartToReady, Duration::from_micros(ready.start_to_ready_us));
                let answer = SpawnAnswer {
                    id: spawn,
                    endpoint: ready.endpoint,
                    renderer_type: order.demand.renderer,
                    node,
                };
                return Ok((answer, held));
            }
            Ok(Outcome::Ended(ended)) => {
                door.metrics.attempt(Attempt::Ended);
                held.keep();
                return Err(ended_early(node, spawn, ended));
            }
            Err(AgentError::Refused { reason: Reason::BadModel, detail }) => {
                door.metrics.attempt(Attempt::Refused);
                return Err(SpawnError::BadModel { why: detail });
            }
            Err(error @ (AgentError::NotSent { .. } | AgentError::Refused { .. })) => {
                // Nothing was started: dropping `held` releases the slot.
                door.metrics.attempt(if matches!(error, AgentError::NotSent { .. }) {
                    Attempt::NotSent
                } else {
                    Attempt::Refused
                });
                if let (true, AgentError::Refused { reason, .. }) = (held.is_improvised(), &error) {
                    door.picture.refused(&node, *reason);
                }
                search.pass_over(node, spawn, error);
            }
            Err(error @ AgentError::Unknown { .. }) => {
                door.metrics.attempt(Attempt::Unknown);
                // It may have been started: before anything else is tried, it is given up for good.
                let abandoned = held.abandon().await;
                if Instant::now() >= deadline {
                    return Err(SpawnError::NotReady { node, spawn, log: None });
                }
                abandoned.map_err(SpawnError::Registry)?;
                search.pass_over(node, spawn, error);
            }
        }
    }
}

/// The search of one request for a node that takes its spawn.
struct Search<'a> {
    door: &'a Arc<Door>,
    order: &'a Order,
    request: &'a RequestId,
    /// An `Idempotency-Key` is to be kept.
    keyed: bool,
    /// When waiting in line is over.
    patience: Instant,
    /// Counts from the first reservation; time in line does not count.
    deadline: Option<Instant>,
    /// Nodes tried, and not to be tried again.
    tried: Vec<NodeId>,
    last: Option<(NodeId, SpawnId, AgentError)>,
}

impl<'a> Search<'a> {
    fn new(door: &'a Arc<Door>, order: &'a Order, request: &'a RequestId, keyed: bool) -> Self {
        let patience = Instant::now() + order.wait;
        Self { door, order, request, keyed, patience, deadline: None, tried: Vec::new(), last: None }
    }

    /// A slot on a node that was not tried yet, and until when its spawn must be ready.
    async fn slot(&mut self) -> Result<(Held, Instant), SpawnError> {
        if let (Some(deadline), Some((node, spawn, _))) = (self.deadline, &self.last)
            && Instant::now() >= deadline
        {
            return Err(SpawnError::NotReady { node: node.clone(), spawn: *spawn, log: None });
        }
        let mut shortage = Got::Full;
        if self.tried.len() < MOST_NODES {
            match self.door.reserve(self.order, &self.tried, None, self.request).await {
                Ok(Got::Slot(held)) => return Ok((held, self.deadline())),
                Ok(over @ Got::OverQuota) => return Err(self.give_up(&over)),
                Ok(short) => {
                    shortage = short;
                    // What the registry lacks since it was wiped may be in the picture.
                    if self.door.registry.refilling()
                        && let Some(Got::Slot(held)) = self.improvise()
                    {
                        return Ok((held, self.deadline()));
                    }
                }
                Err(error) => return self.without_registry(error),
            }
        } else if self.door.registry.outage().is_some() {
            // The line is the registry's.
            return Err(self.give_up(&shortage));
        }
        if matches!(self.last, Some((_, _, AgentError::Refused { reason: Reason::CannotStart, .. })))
            || Instant::now() >= self.patience
            || (self.tried.is_empty() && matches!(shortage, Got::NoMatch { known: false }))
        {
            return Err(self.give_up(&shortage));
        }
        self.queue().await
    }

    /// Waits in line for a slot.
    async fn queue(&mut self) -> Result<(Held, Instant), SpawnError> {
        let began = Instant::now();
        if !self.tried.is_empty() {
            tokio::time::sleep_until(self.patience.min(began + DISAGREEMENT)).await;
            self.tried.clear();
        }
        let got = line::wait(self.door, self.order, self.patience, self.request).await;
        self.door.metrics.phase(Phase::Queue, began.elapsed());
        self.deadline = self.deadline.map(|deadline| deadline + began.elapsed());
        match got {
            Ok(Got::Slot(held)) => Ok((held, self.deadline())),
            Ok(short) => Err(self.give_up(&short)),
            Err(SpawnError::Registry(error)) => self.without_registry(error),
            Err(error) => Err(error),
        }
    }

    /// A node from the last picture of the farm, if there is one of use and no key that makes more of it than it is.
    fn improvise(&self) -> Option<Got> {
        if self.keyed {
            return None;
        }
        self.door.improvise(&self.order.demand, &self.tried, self.request)
    }

    /// The registry could not be asked.
    fn without_registry(&mut self, error: RegistryError) -> Result<(Held, Instant), SpawnError> {
        let got = match error {
            RegistryError::Away(_) => self.improvise(),
            RegistryError::Unexpected { .. } => None,
        };
        match got {
            Some(Got::Slot(held)) => Ok((held, self.deadline())),
            Some(short) => Err(self.give_up(&short)),
            None => Err(SpawnError::Registry(error)),
        }
    }

    fn deadline(&mut self) -> Instant {
        *self.deadline.get_or_insert_with(|| Instant::now() + self.door.config.spawn_deadline)
    }

    /// Notes that a node did not take the spawn.
    fn pass_over(&mut self, node: NodeId, spawn: SpawnId, error: AgentError) {
        info!(node.id = %node, spawn.id = %spawn, %error, "node passed over");
        self.tried.push(node.clone());
        self.last = Some((node, spawn, error));
    }

    fn give_up(&mut self, shortage: &Got) -> SpawnError {
        if let Got::OverQuota = shortage {
            return SpawnError::OverQuota { most: self.order.most.unwrap_or_default() };
        }
        let last = match self.last.take() {
            Some((node, spawn, AgentError::Refused { reason: Reason::CannotStart, detail })) => {
                return SpawnError::CannotStart { node, spawn, why: detail };
            }
            Some((node, _, error)) => format!("; last tried was {node}: {error}"),
            None => String::new(),
        };
        match shortage {
            Got::NoMatch { known: false } => {
                SpawnError::NoMatchingNode { why: format!("no node offers what was asked for{last}") }
            }
            Got::NoMatch { known: true } => SpawnError::NoMatchingNode {
                why: format!("the nodes that offer what was asked for are down, cordoned or draining{last}"),
            },
            Got::Full | Got::Slot(_) | Got::OverQuota => SpawnError::NoCapacity {
                why: format!("every node that offers what was asked for is full{last}"),
            },
        }
    }
}

fn ended_early(node: NodeId, spawn: SpawnId, ended: v1::Ended) -> SpawnError {
    let v1::Ended { exit, log } = ended;
    let exit = exit.unwrap_or_default();
    if exit.reason == model::ExitReason::ReadyTimeout.as_str() {
        return SpawnError::NotReady { node, spawn, log: Some(log) };
    }
    SpawnError::Failed { node, spawn, exit: Box::new(exit), log }
}

#[cfg(test)]
mod tests;
