//! What happened in one minute of a farm, as counts.
//!
//! The registry counts while it carries out what changes; front doors add what only they know: refusals and slots.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spawn::ExitReason;
use crate::time::Timestamp;

/// Slots of a farm, and those in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FarmSlots {
    /// Of all nodes that are up.
    pub total: u32,
    /// Slots that are reserved, or taken by a spawn that has not ended.
    pub used: u32,
}

/// Counts of one minute.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Minute {
    /// Beginning of the minute, by the registry's clock.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Spawns whose process was started.
    pub started: u64,
    /// Spawns that became ready.
    pub ready: u64,
    /// Spawns that ended, by the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    #[schema(value_type = BTreeMap<String, u64>)]
    pub ended: BTreeMap<ExitReason, u64>,
    /// Requests for a spawn that were answered with an error, by its code.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub refused: BTreeMap<String, u64>,
    /// Slots of the nodes that are up, and those in use, as a front door last saw them in this minute.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub slots: Option<FarmSlots>,
}

/// The minutes that are kept: a day.
pub const MINUTES_KEPT: u32 = 24 * 60;

/// The number of the minute that a moment is in, since the Unix epoch.
#[must_use]
pub const fn minute_of(at: Timestamp) -> u64 {
    at.millis() / 60_000
}
