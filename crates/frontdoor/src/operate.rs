//! What operators want of a node: open, cordoned, or drained.
//!
//! The registry is told first: from then on no reserve chooses the node. Then its agent: from its answer on, reservations
//! that were under way are refused there and go to another node within their own requests. Only then is the operator
//! answered. An agent that does not answer learns it with its next heartbeat; until then the registry keeps the promise
//! for everything but what was under way already, which is why the answer says so.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use model::api::EligibilityAnswer;
use model::{Drain, Eligibility, NodeId, RequestId, Timestamp, timing};
use registry::RegistryError;
use serde::Deserialize;
use tokio::time::timeout;
use tracing::{info, warn};
use wire::v1;

use crate::door::Door;
use crate::strict::{self, Invalid, Number, check_printable};

/// An agent that takes longer than this is told by its next heartbeat.
const ACKNOWLEDGE: Duration = Duration::from_secs(2);
/// Longest deadline of a drain, in seconds: a week.
const LONGEST_DRAIN: u64 = 7 * 24 * 3600;
/// Most characters of a drain's reason.
const LONGEST_REASON: usize = 500;

/// What an operator orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operation {
    /// No new spawns. Of a draining node: those that run may stay after all.
    Cordon,
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
    /// For whoever looks at the node.
    pub(crate) reason: Option<String>,
}

/// The body of a drain as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Wish<'a> {
    deadline_seconds: Option<Number<LONGEST_DRAIN>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    force: Option<bool>,
}

/// A body without fields.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// Reads the body of a call that has nothing to say.
pub(crate) fn nothing(body: &[u8]) -> Result<(), Invalid> {
    strict::object::<Nothing>(body).map(|Nothing {}| ())
}

impl DrainOrder {
    /// Reads a body. An empty one orders what all defaults say.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Invalid> {
        let wish = strict::object::<Wish<'_>>(body)?;
        if let Some(reason) = &wish.reason {
            check_reason(reason).map_err(|why| Invalid::field("reason", why))?;
        }
        let deadline = match (wish.force, wish.deadline_seconds) {
            (Some(true), _) => Duration::ZERO,
            (_, Some(Number(seconds))) => Duration::from_secs(seconds),
            (_, None) => timing::DRAIN_DEADLINE,
        };
        let reason = wish.reason.filter(|reason| !reason.is_empty()).map(Cow::into_owned);
        Ok(Self { deadline, reason })
    }
}

fn check_reason(reason: &str) -> Result<(), String> {
    match reason.chars().count() {
        0..=LONGEST_REASON => check_printable(reason),
        length => Err(format!("must have at most {LONGEST_REASON} characters, not {length}")),
    }
}

impl Operation {
    fn eligibility(&self) -> Eligibility {
        match self {
            Self::Cordon => Eligibility::Cordoned,
            Self::Uncordon => Eligibility::Eligible,
            Self::Drain(_) => Eligibility::Draining,
        }
    }

    fn drain(&self) -> Option<&DrainOrder> {
        match self {
            Self::Drain(order) => Some(order),
            Self::Cordon | Self::Uncordon => None,
        }
    }
}

/// Does it; `None` when there is no such node. Once begun it is seen through, whether or not the caller stays.
pub(crate) async fn operate(
    door: &Arc<Door>,
    node: NodeId,
    operation: Operation,
    by: Option<String>,
    request: RequestId,
) -> Result<Option<EligibilityAnswer>, RegistryError> {
    let work = {
        let door = Arc::clone(door);
        async move {
            let drain = match operation.drain() {
                Some(order) => Some(drain(order, by.clone(), door.registry.now().await?)),
                None => None,
            };
            let eligibility = operation.eligibility();
            let order = door.registry.set_eligibility(&node, eligibility, drain.as_ref(), by.as_deref());
            let Some(generation) = order.await? else { return Ok(None) };
            let message = v1::SetEligibilityRequest {
                eligibility: v1::Eligibility::from(eligibility).into(),
                deadline_ms: operation
                    .drain()
                    .map(|order| u64::try_from(order.deadline.as_millis()).unwrap_or(u64::MAX)),
                reason: drain.as_ref().and_then(|drain| drain.reason.clone()),
                by: by.clone(),
                node: node.to_string(),
                generation,
            };
            let told = tell(&door, &node, message, &request).await?;
            let Some((remaining, agent_acknowledged)) = told else { return Ok(None) };
            door.metrics.operation(eligibility, agent_acknowledged);
            let by = by.as_deref().unwrap_or("unknown");
            let deadline = drain.map(|drain| drain.deadline);
            match deadline {
                Some(deadline) => {
                    info!(node.id = %node, %eligibility, remaining, %deadline, by, "node draining");
                }
                None => info!(node.id = %node, %eligibility, remaining, by, "eligibility changed"),
            }
            Ok(Some(EligibilityAnswer { node, eligibility, remaining, deadline, agent_acknowledged }))
        }
    };
    door.cleanups.finish(work).await
}

/// The deadline is in the registry's time, which is what the agent's remaining time is taken from.
fn drain(order: &DrainOrder, by: Option<String>, now: Timestamp) -> Drain {
    Drain { deadline: now.after(order.deadline), reason: order.reason.clone(), by, started_at: now }
}

/// How many spawns the node still has, and whether its agent has said so itself. `None`: there is no such node any more.
async fn tell(
    door: &Door,
    node: &NodeId,
    message: v1::SetEligibilityRequest,
    request: &RequestId,
) -> Result<Option<(u32, bool)>, RegistryError> {
    let Some(record) = door.registry.node(node).await? else { return Ok(None) };
    let call = door.agents.set_eligibility(node, &record.description.advertise, message, request);
    let why = match timeout(ACKNOWLEDGE, call).await {
        Ok(Ok(remaining)) => return Ok(Some((remaining, true))),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {ACKNOWLEDGE:?}"),
    };
    warn!(node.id = %node, why, "the agent has not confirmed, its next heartbeat will tell it");
    Ok(Some((record.used, false)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(nothing(br#"{"reason":"x"}"#).unwrap_err().field.as_deref(), Some("reason"));
        assert!(nothing(b"[]").is_err() && nothing(b"{}").is_ok() && nothing(b"").is_ok());
    }
}
