//! The desired state of the node in the file `operator`, so that neither a new agent nor a registry that lost everything forgets it.

use std::io;
use std::time::Duration;

use model::{Eligibility, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::file::replace;
use super::{Moment, StateDir};
use crate::desired_state::{ActiveDrain, DesiredState};

/// As it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    /// Absent in what agents kept that did not number orders.
    #[serde(default)]
    generation: u64,
    eligibility: Eligibility,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    drain: Option<StoredDrain>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredDrain {
    boot: String,
    deadline: Moment,
    started: Moment,
    /// What was left of it when this was written; all there is after the machine was restarted.
    left_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    by: Option<String>,
    /// As the registry named it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    named: Option<Timestamp>,
}

impl StateDir {
    /// Keeps the desired state in one step, and returns once the disk has it: it must outlive the machine.
    pub(crate) fn store_desired(&self, desired: &DesiredState) -> io::Result<()> {
        let now = Instant::now();
        let kept = Stored {
            generation: desired.generation,
            eligibility: desired.eligibility,
            drain: desired.drain.as_ref().map(|drain| StoredDrain {
                boot: self.clock.boot().to_owned(),
                deadline: self.clock.moment(drain.deadline),
                started: self.clock.moment(drain.started),
                left_ms: u64::try_from(drain.deadline.saturating_duration_since(now).as_millis())
                    .unwrap_or(u64::MAX),
                reason: drain.reason.clone(),
                by: drain.by.clone(),
                named: drain.named,
            }),
        };
        serde_json::to_vec(&kept).map_err(io::Error::from).and_then(|text| replace(&self.operator, &text))
    }

    /// What an earlier agent kept.
    pub(crate) fn stored_desired(&self) -> Option<DesiredState> {
        let text = match std::fs::read(&self.operator) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "failed to read what the operator wants of the node");
                return None;
            }
        };
        let kept: Stored = serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "what the operator wants of the node cannot be read"))
            .ok()?;
        let now = Instant::now();
        let drain = kept.drain.map(|drain| {
            let (deadline, started) = if drain.boot == self.clock.boot() {
                (self.clock.instant(drain.deadline), self.clock.instant(drain.started))
            } else {
                (now + Duration::from_millis(drain.left_ms), now)
            };
            ActiveDrain { deadline, started, reason: drain.reason, by: drain.by, named: drain.named }
        });
        Some(DesiredState { generation: kept.generation, eligibility: kept.eligibility, drain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_desired_state_is_stored_with_the_time_it_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), crate::disk::Lane::new("state", 1, 10).unwrap()).unwrap();
        assert_eq!(state.stored_desired(), None);
        let now = Instant::now();
        let drain = ActiveDrain {
            deadline: now + Duration::from_secs(600),
            started: now,
            reason: Some("kernel".to_owned()),
            by: None,
            named: Some(Timestamp::from_millis(1_700_000_000_000)),
        };
        let desired =
            DesiredState { generation: 7, eligibility: Eligibility::Draining, drain: Some(drain.clone()) };
        state.store_desired(&desired).unwrap();
        let back = state.stored_desired().unwrap();
        let kept = back.drain.unwrap();
        assert_eq!(
            (back.generation, back.eligibility, kept.reason, kept.named),
            (7, desired.eligibility, drain.reason, drain.named)
        );
        let error = kept.deadline.max(drain.deadline) - kept.deadline.min(drain.deadline);
        assert!(error < Duration::from_millis(50), "{error:?}");
        state.store_desired(&DesiredState::default()).unwrap();
        assert_eq!(state.stored_desired(), Some(DesiredState::default()));
        std::fs::write(dir.path().join("operator"), r#"{"eligibility":"cordoned"}"#).unwrap();
        let older = DesiredState { eligibility: Eligibility::Cordoned, ..DesiredState::default() };
        assert_eq!(state.stored_desired(), Some(older), "an agent wrote it that did not number orders");
        std::fs::write(dir.path().join("operator"), "{").unwrap();
        assert_eq!(state.stored_desired(), None);
    }
}
