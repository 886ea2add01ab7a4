//! What was: operators' orders (`GET /v1/audit`), and counts of each minute (`GET /v1/history`), as clients see them. The registry
//! keeps both within bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::audit::{Audit, OrderKind};
use crate::minute::{FarmSlots, Minute};
use crate::spawn::ExitReason;
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

/// The order that has ended a spawn, for those that may see the spawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndOrder {
    /// `stop`, or `drain` of its node.
    pub order: OrderKind,
    /// When it was given, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who gave it: the name of the API key, or the owner that the credential stands for; absent where callers need no credential.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub by: Option<String>,
    /// Of a drain: the operator's words.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reason: Option<String>,
}

/// Answer of `GET /v1/audit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditList {
    /// The entries of this page, the newest first.
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
    pub minutes: Vec<HistoryMinute>,
}

/// Counts of one minute. Callers without the scope `operate` see when it began and its slots alone: the rest is about others' spawns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryMinute {
    /// Beginning of the minute, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Spawns whose process was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started: Option<u64>,
    /// Spawns that became ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<u64>,
    /// Spawns that ended, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub ended: BTreeMap<ExitReason, u64>,
    /// Requests for a spawn that were answered with an error, by its code.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub refused: BTreeMap<String, u64>,
    /// Slots of the nodes that are up, and those in use, as a front door last saw them in this minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<FarmSlots>,
}

impl HistoryMinute {
    /// All that was counted.
    #[must_use]
    pub fn whole(minute: &Minute) -> Self {
        let Minute { at, started, ready, ended, refused, slots } = minute.clone();
        Self { at, started: Some(started), ready: Some(ready), ended, refused, slots }
    }

    /// What is about no spawn; `None` where nothing is left.
    #[must_use]
    pub fn slots_alone(minute: &Minute) -> Option<Self> {
        let slots = minute.slots?;
        let (ended, refused) = (BTreeMap::new(), BTreeMap::new());
        Some(Self { at: minute.at, started: None, ready: None, ended, refused, slots: Some(slots) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_alone_are_without_any_count() {
        let refused = BTreeMap::from([("no-capacity".to_owned(), 3)]);
        let slots = Some(FarmSlots { total: 8, used: 1 });
        let minute = Minute { started: 2, refused, slots, ..Minute::default() };
        let members = |minute: &HistoryMinute| {
            let json = serde_json::to_value(minute).unwrap();
            json.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(members(&HistoryMinute::whole(&minute)), ["at", "ready", "refused", "slots", "started"]);
        assert_eq!(members(&HistoryMinute::slots_alone(&minute).unwrap()), ["at", "slots"]);
        assert_eq!(HistoryMinute::slots_alone(&Minute { slots: None, ..minute }), None);
    }
}
