//! What was: operators' orders, and counts of each minute.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::audit::Audit;
use crate::minute::Minute;
use crate::time::Timestamp;

/// One order of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// When it was given, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The order, and what came of it.
    #[serde(flatten)]
    pub audit: Audit,
}

/// Answer of `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditList {
    /// Newest first.
    pub audit: Vec<AuditEvent>,
    /// Where the next page starts; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Answer of `GET /v1/history`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The present, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub now: Timestamp,
    /// Oldest first. A minute in which nothing was counted is left out.
    pub minutes: Vec<Minute>,
}
