//! The order that closes a node to new spawns. Unlike a drain it ends nothing, so it has a reason and no deadline.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Body of `POST /v1/nodes/{node}/cordon`. Every field is optional, and so is the body.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CordonRequest {
    /// Why, for people who look at the operators' orders; at most 500 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 500, pattern = "^[^\\u0000-\\u001F\\u007F-\\u009F]*$")]
    pub reason: Option<String>,
}
