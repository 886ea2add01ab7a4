//! Why a request would be placed where it would, or nowhere: the answer of `POST /v1/explain`, with a verdict for each node. True for
//! the moment it was made.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::problem::ErrorCode;
use crate::id::NodeId;

/// Answer of `POST /v1/explain`: what `POST /spawn` with the same body would do now. Nothing was reserved or started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The node that would be chosen; absent when none would. Where several are equally good, one of them: the others have the
    /// verdict `equal`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    #[schema(value_type = Option<String>)]
    pub chosen: Option<NodeId>,
    /// In words: why that node, or why none.
    pub why: String,
    /// Without a chosen node: the code with which `POST /spawn` would refuse.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub code: Option<ErrorCode>,
    /// How many nodes are not chosen, by verdict; all nodes count, those included that are not listed.
    pub reasons: BTreeMap<String, u32>,
    /// The nodes with their verdicts, the nearest to being chosen first; at most 200. Empty for callers that may not see nodes
    /// (without the scope `read`).
    pub nodes: Vec<ExplainedNode>,
    /// Nodes that are counted and not listed.
    pub unlisted: u32,
    /// Where this was found out.
    pub source: ExplanationSource,
}

/// One node, and why it is chosen or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedNode {
    /// The node that the verdict is about.
    #[schema(value_type = String)]
    pub node: NodeId,
    /// For programs: `chosen`; `equal`, `outranked` where it has room; `failing`, `in line`, `quota`, `full`, `gpu full`, `draining`,
    /// `cordoned`, `stale`, `down`, `unreachable`, `renderer`, `pool`, `dedicated`, `unreadable`; or `label` and the name of the label
    /// that it lacks.
    pub verdict: String,
    /// The verdict as a sentence for people.
    pub why: String,
}

/// What an explanation was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ExplanationSource {
    /// The registry, by the code that places.
    Registry,
    /// The front door's last snapshot of the farm, from which it places while the registry is away: the less loaded of two random
    /// nodes is chosen then.
    Snapshot,
}
