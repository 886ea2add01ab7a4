//! What operators order of a node: open, cordoned, or drained.
//!
//! ```text
//!  registry ─▶ agent ─▶ answer
//! ```
//!
//! Invariants: the registry comes first, so from then on no reserve chooses the node. Then its agent: from its answer on,
//! reservations that were under way are refused there and go to another node within their own requests. The operator is answered
//! last.
//!
//! Failure: an agent that does not answer gets the order with its next heartbeat. Until then the registry keeps the promise for
//! everything but what was under way already, which is why the answer says whether the agent acknowledged.

mod audit;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use model::api::{EligibilityAnswer, ErrorCode};
use model::{
    Audit, AuditOutcome, Availability, Drain, Eligibility, NodeId, OrderKind, RequestId, Timestamp, timing,
};
use registry::{Forgotten, RegistryError};
use serde::Deserialize;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use wire::v1;

use self::audit::refused;
pub(crate) use self::audit::{Auditor, Failed, Given, failed};
use crate::agent_client::Agents;
use crate::metrics::OperationMetrics;
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::Cleanups;
use crate::registry_access::desired_state::{DesiredStates, NodeOrder};
use crate::registry_access::snapshot::Snapshot;
use crate::strict_json::{self, Invalid, Number, check_printable};

/// An agent that takes longer than this, the connection included, gets the order with its next heartbeat.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(4);
/// An order whose number the agent does not follow is given again so often, after this time each: its next report shows the
/// registry which number to go on from.
const MAX_REPEATS: u32 = 4;
const REPEAT: Duration = Duration::from_millis(600);
/// The longest deadline of a drain: a week.
const MAX_DRAIN_SECONDS: u64 = 7 * 24 * 3600;
/// Characters of a drain's reason.
const MAX_REASON: usize = 500;

/// What an operator orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// No new spawns. Of a draining node: those that run may stay after all.
    Cordon {
        /// Kept with the order.
        reason: Option<String>,
    },
    /// New spawns again; undoes a drain, too.
    Uncordon,
    /// No new spawns, and an end to those that run. Replaces the drain there is.
    Drain(DrainOrder),
}

/// How a node is drained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DrainOrder {
    /// From now on; zero ends what runs at once.
    pub(crate) deadline: Duration,
    /// For people who look at the node.
    pub(crate) reason: Option<String>,
}

/// The body of a drain as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DrainBody<'a> {
    deadline_seconds: Option<Number<MAX_DRAIN_SECONDS>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    force: Option<bool>,
}

/// The body of a cordon as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct CordonBody<'a> {
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
}

/// Reads why a node is to be closed.
pub(crate) fn cordon_reason(body: &[u8]) -> Result<Option<String>, Invalid> {
    checked(strict_json::object::<CordonBody<'_>>(body)?.reason)
}

/// A body without fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Reads the body of a call that has nothing to say.
pub(crate) fn nothing(body: &[u8]) -> Result<(), Invalid> {
    strict_json::object::<Nothing>(body).map(|Nothing {}| ())
}

impl DrainOrder {
    /// Reads a body. An empty one orders what all defaults say.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let parsed = strict_json::object::<DrainBody<'_>>(body)?;
        let deadline = match (parsed.force, parsed.deadline_seconds) {
            (Some(true), _) => Duration::ZERO,
            (_, Some(Number(seconds))) => Duration::from_secs(seconds),
            (_, None) => timing::DRAIN_DEADLINE,
        };
        Ok(Self { deadline, reason: checked(parsed.reason)? })
    }
}

/// A reason that may be kept and shown; an empty one is none.
fn checked(reason: Option<Cow<'_, str>>) -> Result<Option<String>, Invalid> {
    if let Some(reason) = &reason {
        check_reason(reason).map_err(|why| Invalid::field("reason", why))?;
    }
    Ok(reason.filter(|reason| !reason.is_empty()).map(Cow::into_owned))
}

fn check_reason(reason: &str) -> Result<(), String> {
    match reason.chars().count() {
        0..=MAX_REASON => check_printable(reason),
        length => Err(format!("must have at most {MAX_REASON} characters, not {length}")),
    }
}

impl Operation {
    fn eligibility(&self) -> Eligibility {
        match self {
            Self::Cordon { .. } => Eligibility::Cordoned,
            Self::Uncordon => Eligibility::Eligible,
            Self::Drain(_) => Eligibility::Draining,
        }
    }

    /// The order as it is kept, as if it were done.
    fn audit(&self, node: &NodeId, given: &Given) -> Audit {
        let kind = match self {
            Self::Cordon { .. } => OrderKind::Cordon,
            Self::Uncordon => OrderKind::Uncordon,
            Self::Drain(_) => OrderKind::Drain,
        };
        Audit {
            node: Some(node.clone()),
            deadline_seconds: self.drain().map(|order| order.deadline.as_secs()),
            reason: match self {
                Self::Cordon { reason } | Self::Drain(DrainOrder { reason, .. }) => reason.clone(),
                Self::Uncordon => None,
            },
            ..given.order(kind)
        }
    }

    fn drain(&self) -> Option<&DrainOrder> {
        match self {
            Self::Drain(order) => Some(order),
            Self::Cordon { .. } | Self::Uncordon => None,
        }
    }
}

/// Gives operators' orders to nodes.
#[derive(Debug)]
pub(crate) struct Operations {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) agents: Arc<Agents>,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) desired_states: Arc<DesiredStates>,
    pub(crate) cleanups: Cleanups,
    pub(crate) metrics: OperationMetrics,
    pub(crate) auditor: Arc<Auditor>,
}

impl Operations {
    /// Carries out an operation; `None` when there is no such node. Once begun it is completed, whether or not the caller stays.
    pub(crate) async fn operate(
        self: &Arc<Self>,
        node: NodeId,
        operation: Operation,
        given: Given,
    ) -> Result<Option<EligibilityAnswer>, RegistryError> {
        let this = Arc::clone(self);
        let work = async move {
            let audit = operation.audit(&node, &given);
            let answer = this.carry_out(node, operation, &given).await;
            let audit = match &answer {
                Ok(Some(answer)) if answer.agent_acknowledged => audit,
                Ok(Some(_)) => Audit { outcome: AuditOutcome::Unacknowledged, ..audit },
                Ok(None) => refused(audit, ErrorCode::NotFound),
                Err(failed) => failed.audit(audit),
            };
            this.auditor.record(&given, audit).await;
            answer.map_err(|failed| failed.error)
        };
        self.cleanups.finish(work).await
    }

    async fn carry_out(
        &self,
        node: NodeId,
        operation: Operation,
        given: &Given,
    ) -> Result<Option<EligibilityAnswer>, Failed<RegistryError>> {
        let eligibility = operation.eligibility();
        let by = given.name();
        let mut repeats = 0;
        let (confirmation, drain) = loop {
            let Some((confirmation, drain)) =
                self.order(&node, &operation, by.as_deref(), &given.request).await.map_err(|failed| {
                    // An earlier number of it may hold.
                    Failed { may_hold: failed.may_hold || repeats > 0, ..failed }
                })?
            else {
                return Ok(None);
            };
            if confirmation != Confirmation::Outdated || repeats == MAX_REPEATS {
                break (confirmation, drain);
            }
            repeats += 1;
            sleep(REPEAT).await;
        };
        let (remaining, agent_acknowledged) = match confirmation {
            Confirmation::Confirmed { remaining } => (remaining, true),
            Confirmation::Unconfirmed { remaining } => (remaining, false),
            Confirmation::Outdated => (0, false),
        };
        self.metrics.count(eligibility, agent_acknowledged);
        let deadline = drain.map(|drain| drain.deadline);
        debug!(node.id = %node, %eligibility, remaining, deadline = deadline.map(tracing::field::display), "eligibility changed");
        Ok(Some(EligibilityAnswer { node, eligibility, remaining, deadline, agent_acknowledged }))
    }

    /// Has a node forgotten that will not come back. One that is up is not. Should it come back all the same, it registers as a new one.
    pub(crate) async fn forget(
        self: &Arc<Self>,
        node: NodeId,
        given: Given,
    ) -> Result<Forgotten, RegistryError> {
        let this = Arc::clone(self);
        let work = async move {
            let audit = Audit { node: Some(node.clone()), ..given.order(OrderKind::Forget) };
            let forgotten = this.registry.forget(&node, given.name().as_deref()).await.map_err(Failed::from);
            let audit = match &forgotten {
                Ok(Forgotten::Gone { .. }) => audit,
                Ok(Forgotten::Up) => refused(audit, ErrorCode::NodeUp),
                Ok(Forgotten::Unknown) => refused(audit, ErrorCode::NotFound),
                Err(failed) => failed.audit(audit),
            };
            if let Ok(Forgotten::Gone { ended }) = forgotten {
                this.desired_states.forget(&node);
                this.snapshot.forget(&node);
                info!(node.id = %node, ended, "node forgotten");
            }
            this.auditor.record(&given, audit).await;
            forgotten.map_err(|failed| failed.error)
        };
        self.cleanups.finish(work).await
    }

    /// Gives the order once: to the registry, then to the agent. `None`: there is no such node.
    async fn order(
        &self,
        node: &NodeId,
        operation: &Operation,
        by: Option<&str>,
        request: &RequestId,
    ) -> Result<Option<(Confirmation, Option<Drain>)>, Failed<RegistryError>> {
        let drain = match operation.drain() {
            Some(order) => {
                let now = self.registry.now().await.map_err(|error| Failed { error, may_hold: false })?;
                Some(drain(order, by.map(str::to_owned), now))
            }
            None => None,
        };
        let eligibility = operation.eligibility();
        let order = self.registry.set_eligibility(node, eligibility, drain.as_ref(), by);
        let Some(generation) = order.await? else { return Ok(None) };
        if generation < self.desired_states.generation(node) {
            // The registry has forgotten a higher number, which the next refresh of the snapshot repeats.
            return Ok(Some((Confirmation::Outdated, drain)));
        }
        self.desired_states.given(node, NodeOrder { generation, eligibility, drain: drain.clone() });
        self.snapshot.order(node, eligibility);
        let message = v1::SetEligibilityRequest {
            eligibility: v1::Eligibility::from(eligibility).into(),
            deadline_ms: operation
                .drain()
                .map(|order| u64::try_from(order.deadline.as_millis()).unwrap_or(u64::MAX)),
            reason: drain.as_ref().and_then(|drain| drain.reason.clone()),
            by: by.map(str::to_owned),
            node: node.to_string(),
            generation,
        };
        let confirmation = self.deliver(node, message, request).await;
        let confirmation = confirmation.map_err(|error| Failed { error, may_hold: true })?;
        Ok(confirmation.map(|confirmation| (confirmation, drain)))
    }

    /// Hands the order to the node's agent. `None`: there is no such node any more.
    async fn deliver(
        &self,
        node: &NodeId,
        message: v1::SetEligibilityRequest,
        request: &RequestId,
    ) -> Result<Option<Confirmation>, RegistryError> {
        let Some(record) = self.registry.node(node).await? else { return Ok(None) };
        if record.availability == Availability::Down {
            // Its spawns are lost, and whatever is at its address now is not its agent.
            return Ok(Some(Confirmation::Unconfirmed { remaining: 0 }));
        }
        let generation = message.generation;
        let call = self.agents.set_eligibility(node, &record.description.advertise, message, request);
        let why = match timeout(ACKNOWLEDGE_TIMEOUT, call).await {
            Ok(Ok(reply)) => return Ok(Some(judge(generation, &reply, record.generation))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {ACKNOWLEDGE_TIMEOUT:?}"),
        };
        warn!(node.id = %node, why, "the agent has not confirmed the order, its next heartbeat brings it");
        Ok(Some(Confirmation::Unconfirmed { remaining: record.used }))
    }
}

/// What is known of an order once it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Confirmation {
    /// The agent follows it, or a newer one that the registry knows as well.
    Confirmed { remaining: u32 },
    /// The agent has not acknowledged it.
    Unconfirmed { remaining: u32 },
    /// The agent has an order with a higher number than the registry knows: the registry went back to an older state, and
    /// learns the number from the agent's next report. The order must be given again.
    Outdated,
}

/// The deadline is in the registry's time, which is what the agent's remaining time is taken from.
fn drain(order: &DrainOrder, by: Option<String>, now: Timestamp) -> Drain {
    Drain { deadline: now.after(order.deadline), reason: order.reason.clone(), by, started_at: now }
}

/// What an agent's answer to the order with this number means. `known`: the number that the registry shows. Agents of the
/// release before this one answer 0.
fn judge(generation: u64, reply: &v1::SetEligibilityReply, known: u64) -> Confirmation {
    let remaining = reply.remaining;
    match reply.generation {
        0 => Confirmation::Confirmed { remaining },
        follows if follows < generation => Confirmation::Unconfirmed { remaining },
        follows if follows > generation.max(known) => Confirmation::Outdated,
        _ => Confirmation::Confirmed { remaining },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_counts_as_confirmed_when_the_agent_follows_it_or_a_newer_one_that_is_known() {
        let answer = |generation| v1::SetEligibilityReply { remaining: 2, generation };
        let (confirmed, unconfirmed) =
            (Confirmation::Confirmed { remaining: 2 }, Confirmation::Unconfirmed { remaining: 2 });
        for (given, follows, known, expected) in [
            (5, 5, 5, confirmed),
            (5, 0, 5, confirmed),
            (5, 4, 5, unconfirmed),
            (5, 6, 6, confirmed),
            (5, 7, 6, Confirmation::Outdated),
            (5, 9, 5, Confirmation::Outdated),
        ] {
            assert_eq!(judge(given, &answer(follows), known), expected, "{given} {follows} {known}");
        }
    }

    #[test]
    fn every_field_of_a_drain_is_optional() {
        let plain = DrainOrder { deadline: timing::DRAIN_DEADLINE, reason: None };
        for body in ["", "{}", r#"{"deadlineSeconds":null,"reason":null,"force":null}"#, r#"{"force":false}"#]
        {
            assert_eq!(DrainOrder::parse(body.as_bytes()).unwrap(), plain, "{body}");
        }
        let order =
            DrainOrder::parse(r#"{"deadlineSeconds":604800,"reason":"neuer Kernel, früh"}"#.as_bytes());
        let order = order.unwrap();
        assert_eq!(
            (order.deadline.as_secs(), order.reason.as_deref()),
            (604_800, Some("neuer Kernel, früh"))
        );
        let forced = DrainOrder::parse(br#"{"deadlineSeconds":60,"force":true}"#).unwrap();
        assert_eq!(forced.deadline, Duration::ZERO);
    }

    #[test]
    fn a_wrong_field_of_a_drain_is_named() {
        let long = "x".repeat(501);
        for (body, field) in [
            (r#"{"deadline":1}"#.to_owned(), "deadline"),
            (r#"{"deadline_seconds":1}"#.to_owned(), "deadline_seconds"),
            (r#"{"deadlineSeconds":604801}"#.to_owned(), "deadlineSeconds"),
            (r#"{"deadlineSeconds":-1}"#.to_owned(), "deadlineSeconds"),
            (r#"{"deadlineSeconds":1.5}"#.to_owned(), "deadlineSeconds"),
            (r#"{"deadlineSeconds":"60"}"#.to_owned(), "deadlineSeconds"),
            (r#"{"deadlineSeconds":1,"deadlineSeconds":2}"#.to_owned(), "deadlineSeconds"),
            (r#"{"force":1}"#.to_owned(), "force"),
            (r#"{"force":"true"}"#.to_owned(), "force"),
            (r#"{"reason":7}"#.to_owned(), "reason"),
            (r#"{"reason":"a\nb"}"#.to_owned(), "reason"),
            (r#"{"reason":"a\u001bb"}"#.to_owned(), "reason"),
            (format!("{{\"reason\":\"{long}\"}}"), "reason"),
        ] {
            let invalid = DrainOrder::parse(body.as_bytes()).unwrap_err();
            assert_eq!(invalid.field.as_deref(), Some(field), "{body}: {}", invalid.detail);
            assert!(invalid.detail.contains(field), "{body}: {}", invalid.detail);
        }
        assert!(DrainOrder::parse(format!("{{\"reason\":\"{}\"}}", "é".repeat(500)).as_bytes()).is_ok());
        assert_eq!(cordon_reason(br#"{"reason":"new disk"}"#), Ok(Some("new disk".to_owned())));
        assert_eq!((cordon_reason(b""), cordon_reason(br#"{"reason":""}"#)), (Ok(None), Ok(None)));
        let bell = cordon_reason(br#"{"reason":"\u0007"}"#).unwrap_err();
        assert_eq!(bell.field.as_deref(), Some("reason"));
        assert_eq!(nothing(br#"{"reason":"x"}"#).unwrap_err().field.as_deref(), Some("reason"));
        assert!(nothing(b"[]").is_err() && nothing(b"{}").is_ok() && nothing(b"").is_ok());
    }
}
