//! Says and keeps who ordered what.
//!
//! Every order of an operator becomes one line in the log and one entry in the registry, once it is known what came of it and before the
//! operator is answered: orders that are read after an answer include it.
//!
//! Failure: an order that the registry refuses is kept as refused; one whose answer is missing as unknown, for it may have taken hold.
//! While the registry is away the entry is repeated for as long as every clean-up is; the line in the log stands in any case.

use std::sync::Arc;

use model::api::ErrorCode;
use model::{Audit, AuditOutcome, OrderKind, Owner, RequestId};
use registry::RegistryError;
use tokio::time::Instant;
use tracing::{info, warn};
use uuid::Uuid;

use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::{Cleanups, persist};

/// An order's giver, and the request that brought it.
#[derive(Debug, Clone)]
pub(crate) struct Given {
    /// The name of the caller's key, or its owner; `None` where callers need no credential.
    pub(crate) by: Option<String>,
    /// The owner that the caller's credential stands for.
    pub(crate) owner: Option<Owner>,
    /// The caller's address.
    pub(crate) from: Option<String>,
    pub(crate) request: RequestId,
    pub(crate) at: Instant,
}

impl Given {
    /// The giver in a node's history: its owner, or else its address.
    pub(crate) fn name(&self) -> Option<String> {
        self.owner.as_ref().map(ToString::to_string).or_else(|| self.from.clone())
    }

    /// The order, as if it were done.
    pub(crate) fn order(&self, kind: OrderKind) -> Audit {
        Audit {
            by: self.by.clone(),
            owner: self.owner.clone(),
            from: self.from.clone(),
            ..Audit::done(kind, self.request.clone())
        }
    }
}

/// The same order, refused with this code.
pub(super) fn refused(audit: Audit, code: ErrorCode) -> Audit {
    failed(audit, code, false)
}

/// The same order, failed with this code.
pub(crate) fn failed(audit: Audit, code: ErrorCode, may_hold: bool) -> Audit {
    let outcome = if may_hold { AuditOutcome::Unknown } else { AuditOutcome::Refused };
    Audit { outcome, code: Some(code.as_str().to_owned()), ..audit }
}

/// An order that failed.
#[derive(Debug)]
pub(crate) struct Failed<E> {
    pub(crate) error: E,
    /// Whether it may have taken hold all the same.
    pub(crate) may_hold: bool,
}

impl From<RegistryError> for Failed<RegistryError> {
    fn from(error: RegistryError) -> Self {
        Self { may_hold: !error.is_refusal(), error }
    }
}

impl Failed<RegistryError> {
    /// The same order as it is kept.
    pub(super) fn audit(&self, audit: Audit) -> Audit {
        failed(audit, code_of(&self.error), self.may_hold)
    }
}

/// The code that an operator gets for this failure.
fn code_of(error: &RegistryError) -> ErrorCode {
    match error {
        RegistryError::Away(_) => ErrorCode::RegistryUnavailable,
        RegistryError::Unexpected { .. } => ErrorCode::Internal,
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Auditor {
    pub(crate) registry: Arc<RegistryClient>,
    pub(crate) cleanups: Cleanups,
}

impl Auditor {
    /// Says and keeps what came of an order.
    pub(crate) async fn record(&self, given: &Given, audit: Audit) {
        say(&audit);
        let (id, at) = (Uuid::new_v4(), given.at);
        let Err(error) = self.registry.audit(id, at.elapsed(), &audit).await else { return };
        warn!(%error, requestId = %audit.request_id, "an order is kept once the registry is back");
        let registry = Arc::clone(&self.registry);
        self.cleanups.spawn(async move {
            let keep = || registry.audit(id, at.elapsed(), &audit);
            if persist(&registry, "audit", keep).await.is_none() {
                warn!(requestId = %audit.request_id, "an order was not kept: the registry was away for too long");
            }
        });
    }
}

fn say(audit: &Audit) {
    info!(
        order = %audit.order,
        node.id = audit.node.as_ref().map(tracing::field::display),
        spawn.id = audit.spawn.as_ref().map(tracing::field::display),
        outcome = %audit.outcome,
        code = audit.code,
        by = audit.by.as_deref().unwrap_or("unknown"),
        owner = audit.owner.as_ref().map(tracing::field::display),
        from = audit.from,
        deadline_seconds = audit.deadline_seconds,
        reason = audit.reason,
        max_seconds = audit.max_seconds,
        "operator's order"
    );
}
