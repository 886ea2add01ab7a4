//! What operators ordered: who, when, from where, what, and what came of it.
//!
//! A front door makes an [`Audit`] when an order is done or refused; the registry gives it its time and keeps it, see
//! [`Timing::audit_count`](crate::Timing::audit_count). A caller's own calls about its own spawns are no orders.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{NodeId, Owner, RequestId, SpawnId};
use crate::words::words;

/// The orders that are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OrderKind {
    /// A node was closed to new spawns.
    Cordon,
    /// A node was opened again.
    Uncordon,
    /// A node was to be emptied.
    Drain,
    /// A node's record was to be removed.
    Forget,
    /// A spawn was to be ended.
    Stop,
    /// The life of a spawn was to be set.
    SetLife,
}
words!(OrderKind {
    Cordon = "cordon",
    Uncordon = "uncordon",
    Drain = "drain",
    Forget = "forget",
    Stop = "stop",
    SetLife = "set-life",
});

impl OrderKind {
    /// Whether it is given to a spawn. These are kept apart from orders to nodes: stopping ten thousand spawns must not push out who drained a node.
    pub fn concerns_spawn(self) -> bool {
        match self {
            Self::Stop | Self::SetLife => true,
            Self::Cordon | Self::Uncordon | Self::Drain | Self::Forget => false,
        }
    }
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AuditOutcome {
    /// It was carried out.
    Done,
    /// It stands, but the node's agent had not confirmed it when the operator was answered: its next heartbeat brings it.
    Unacknowledged,
    /// It was not carried out; `code` says why.
    Refused,
    /// It failed, with this `code`, after it may have taken hold: the registry's answer, or the agent's, is missing.
    Unknown,
}
words!(AuditOutcome {
    Done = "done",
    Unacknowledged = "unacknowledged",
    Refused = "refused",
    Unknown = "unknown",
});

/// An order and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// The kind of order.
    pub order: OrderKind,
    /// The node that it was given to, or that the spawn is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub node: Option<NodeId>,
    /// The spawn that it was about.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = Uuid)]
    pub spawn: Option<SpawnId>,
    /// Who gave it: the name of the API key, or else the owner that the credential stands for. Absent where callers need no credential.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The owner that the credential stands for, as records have it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub owner: Option<Owner>,
    /// The address that it came from, as the front door knows it; behind a `--trusted-proxy` the caller's, not the proxy's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The request's id, which log lines and the answer have, too.
    #[schema(value_type = String)]
    pub request_id: RequestId,
    /// What came of it.
    pub outcome: AuditOutcome,
    /// The code of the refusal, as the operator got it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Of a drain: how long what runs there had, in seconds; 0 with `force`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline_seconds: Option<u64>,
    /// Of a drain or a cordon: the operator's words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Of `set-life`: the life, in seconds from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_seconds: Option<u64>,
}

impl Audit {
    /// An order that was carried out. What else there is to say of it is filled in by the caller.
    #[must_use]
    pub fn done(order: OrderKind, request_id: RequestId) -> Self {
        Self {
            order,
            node: None,
            spawn: None,
            by: None,
            owner: None,
            from: None,
            request_id,
            outcome: AuditOutcome::Done,
            code: None,
            deadline_seconds: None,
            reason: None,
            max_seconds: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_leaves_out_what_is_not_known_and_is_read_back() {
        let audit = Audit::done(OrderKind::SetLife, RequestId::mint());
        let json = serde_json::to_value(&audit).unwrap();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["order", "outcome", "requestId"]);
        assert_eq!((&json["order"], &json["outcome"]), (&"set-life".into(), &"done".into()));
        assert_eq!(serde_json::from_value::<Audit>(json).unwrap(), audit);
    }
}
