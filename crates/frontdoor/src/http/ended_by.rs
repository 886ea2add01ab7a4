//! Which order has ended a spawn: an operator's stop, or the drain of its node whose deadline had come. Records do not say it; the orders on
//! record do.
//!
//! Failure: nothing is said where the order is not on record any more, or the registry does not answer.

use std::time::Duration;

use model::api::EndOrder;
use model::{AuditOutcome, ExitReason, OrderKind, SpawnRecord};
use registry::AuditFilter;

use super::edge::Edge;

/// An agent hears of a deadline with a heartbeat, and gives the server its grace: a spawn ends at most so long after the deadline of its drain.
const MAX_GRACE: Duration = Duration::from_secs(120);
/// How late a record of an order may be beside that of an end.
const SLACK: Duration = Duration::from_secs(1);

/// See the module's documentation.
pub(super) async fn ended_by(edge: &Edge, spawn: &SpawnRecord) -> Option<EndOrder> {
    let (exit, ended) = (spawn.exit.as_ref()?, spawn.ended_at?);
    let filter = AuditFilter { until: Some(ended.after(SLACK)), limit: 1, ..AuditFilter::default() };
    let filter = match exit.reason {
        ExitReason::Stopped => AuditFilter { spawn: Some(spawn.id), order: Some(OrderKind::Stop), ..filter },
        ExitReason::Drained => {
            AuditFilter { node: Some(spawn.node.clone()), order: Some(OrderKind::Drain), ..filter }
        }
        _ => return None,
    };
    let (at, audit) = edge.registry.audits(&filter).await.ok()?.orders.into_iter().next()?;
    // An agent that is stopped drains its spawns without an order: an old one is not the cause.
    let deadline = at.after(Duration::from_secs(audit.deadline_seconds.unwrap_or_default()));
    let is_due = deadline <= ended.after(SLACK) && ended.since(deadline) <= MAX_GRACE;
    let holds = audit.outcome != AuditOutcome::Refused && (audit.order == OrderKind::Stop || is_due);
    holds.then_some(EndOrder { order: audit.order, at, by: audit.by, reason: audit.reason })
}
