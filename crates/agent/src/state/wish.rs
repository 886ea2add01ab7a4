//! What the operator wants of the node, kept so that neither a new agent nor a registry that lost everything forgets it.

use std::io;
use std::time::Duration;

use model::{Eligibility, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Moment, StateDir};
use crate::table::wish::{Drain, Wish};

/// As it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    /// Absent in what agents kept that did not number orders.
    #[serde(default)]
    generation: u64,
    eligibility: Eligibility,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    drain: Option<KeptDrain>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeptDrain {
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
    pub(crate) fn keep_wish(&self, wish: &Wish) -> io::Result<()> {
        let now = Instant::now();
        let kept = Kept {
            generation: wish.generation,
            eligibility: wish.eligibility,
            drain: wish.drain.as_ref().map(|drain| KeptDrain {
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
        serde_json::to_vec(&kept)
            .map_err(io::Error::from)
            .and_then(|text| super::replace(&self.operator, &text))
    }

    /// What an earlier agent kept.
    pub(crate) fn kept_wish(&self) -> Option<Wish> {
        let text = match std::fs::read(&self.operator) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "failed to read what the operator wants of the node");
                return None;
            }
        };
        let kept: Kept = serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(%error, "what the operator wants of the node cannot be read"))
            .ok()?;
        let now = Instant::now();
        let drain = kept.drain.map(|drain| {
            let (deadline, started) = if drain.boot == self.clock.boot() {
                (self.clock.instant(drain.deadline), self.clock.instant(drain.started))
            } else {
                (now + Duration::from_millis(drain.left_ms), now)
            };
            Drain { deadline, started, reason: drain.reason, by: drain.by, named: drain.named }
        });
        Some(Wish { generation: kept.generation, eligibility: kept.eligibility, drain })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_kept_with_the_time_it_has_left() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path(), crate::disk::Lane::new("state", 1, 10).unwrap()).unwrap();
        assert_eq!(state.kept_wish(), None);
        let now = Instant::now();
        let drain = Drain {
            deadline: now + Duration::from_secs(600),
            started: now,
            reason: Some("kernel".to_owned()),
            by: None,
            named: Some(Timestamp::from_millis(1_700_000_000_000)),
        };
        let wish = Wish { generation: 7, eligibility: Eligibility::Draining, drain: Some(drain.clone()) };
        state.keep_wish(&wish).unwrap();
        let back = state.kept_wish().unwrap();
        let kept = back.drain.unwrap();
        assert_eq!(
            (back.generation, back.eligibility, kept.reason, kept.named),
            (7, wish.eligibility, drain.reason, drain.named)
        );
        let error = kept.deadline.max(drain.deadline) - kept.deadline.min(drain.deadline);
        assert!(error < Duration::from_millis(50), "{error:?}");
        state.keep_wish(&Wish::default()).unwrap();
        assert_eq!(state.kept_wish(), Some(Wish::default()));
        std::fs::write(dir.path().join("operator"), r#"{"eligibility":"cordoned"}"#).unwrap();
        let older = Wish { eligibility: Eligibility::Cordoned, ..Wish::default() };
        assert_eq!(state.kept_wish(), Some(older), "an agent wrote it that did not number orders");
        std::fs::write(dir.path().join("operator"), "{").unwrap();
        assert_eq!(state.kept_wish(), None);
    }
}
