//! Nodes whose heartbeats arrive and whose agent a front door cannot reach. It is what one front door knows, and in no registry.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::time::Timestamp;

/// The front door that answers cannot reach the node's agent. Another front door may.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unreachable {
    /// When the first attempt failed since the last connection, by the front door's clock.
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    /// Why the last attempt failed, in words.
    pub reason: String,
}
