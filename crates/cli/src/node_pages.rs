//! All nodes that a filter means, read page by page: a large farm is many, and a front door makes no answer of all of them.

use model::FarmCause;
use model::api::{ErrorCode, Node};
use serde_json::{Value, json};

use crate::call_error::CallError;
use crate::client::Client;

/// The most a front door lists in one answer.
const PAGE: u32 = 1000;

/// Reads the list of nodes page by page, by name.
#[derive(Debug, Default)]
pub(crate) struct NodePages {
    pub(crate) nodes: Vec<Node>,
    /// The same as they came, with fields that this version does not know.
    pub(crate) raw: Vec<Value>,
    /// As of the first page.
    pub(crate) farm_cause: Option<FarmCause>,
}

impl NodePages {
    /// Reads all that match the names and values of a query.
    pub(crate) async fn read(client: &Client, query: &[(&str, String)]) -> Result<Self, CallError> {
        let mut all = Self::default();
        let mut cursor: Option<String> = None;
        loop {
            let answer = match client.nodes_page(query, PAGE, cursor.as_deref()).await {
                // A front door of the release before this one knows no parameters, and lists all nodes.
                Err(CallError::Refused { problem, .. })
                    if cursor.is_none() && problem.code == ErrorCode::InvalidRequest =>
                {
                    client.nodes().await?
                }
                answer => answer?,
            };
            let mut page: Value = serde_json::from_slice(&answer.json).unwrap_or_default();
            if let Some(Value::Array(raw)) = page.get_mut("nodes").map(Value::take) {
                all.raw.extend(raw);
            }
            if cursor.is_none() {
                all.farm_cause = answer.value.farm_cause;
            }
            all.nodes.extend(answer.value.nodes);
            let next = answer.value.next_cursor;
            // One that stands still would be followed for ever.
            if next.is_none() || next == cursor {
                return Ok(all);
            }
            cursor = next;
        }
    }

    /// As one answer for programs.
    pub(crate) fn into_json(self) -> Value {
        let mut list = json!({ "nodes": self.raw });
        if let Some(cause) = self.farm_cause {
            list["farmCause"] = json!(cause);
        }
        list
    }
}
