//! The farm's cause: why starts fail alike on every node that such requests may use.
//!
//! A cause is a suspicion after the first request that failed in the same way wherever it was tried, and established after
//! three within a minute. It concerns what these requests wanted of a node. A success on a node that suits one of these demands shows that its
//! cause is not the farm's, and the last such success ends it: nodes of another pool prove nothing. Without news it lapses after ten minutes.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use model::{Concern, Demand, FarmCause, NodeKind, RendererType, Timestamp};

use crate::ask::SameEverywhere;

/// This many requests in a row establish a cause.
const REQUESTS: u32 = 3;
/// They come within this time.
pub(crate) const WITHIN: Duration = Duration::from_secs(60);
/// A cause without news for this long is over.
const MEMORY: Duration = Duration::from_secs(600);
/// Demands that a cause notes: requests may name any labels.
const MAX_DEMANDS: usize = 8;
/// What begins the name of the field that a demand has in Redis.
const DEMAND: &str = "d:";

/// Requests that failed alike everywhere. `redis/lua/learn.lua` keeps the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cause {
    reason: String,
    since: Timestamp,
    last: Timestamp,
    requests: u32,
    /// What they wanted of a node. Empty: a release that does not note it was the last to learn of the cause.
    demands: BTreeSet<Demand>,
}

impl Cause {
    /// One more such request.
    pub(crate) fn add(before: Option<Self>, same: &SameEverywhere, now: Timestamp) -> Self {
        let mut cause = match before.filter(|before| before.is_current(now)) {
            Some(before) => Self {
                reason: same.reason.clone(),
                last: now,
                requests: before.requests.saturating_add(1),
                ..before
            },
            None => Self {
                reason: same.reason.clone(),
                since: now,
                last: now,
                requests: 1,
                demands: BTreeSet::new(),
            },
        };
        if cause.demands.len() < MAX_DEMANDS {
            cause.demands.insert(same.demand.clone());
        }
        cause
    }

    /// After a success of this renderer on a node of this kind; `None` where that ends it.
    pub(crate) fn after_success(mut self, kind: &NodeKind, renderer: RendererType) -> Option<Self> {
        self.demands.retain(|demand| demand.renderer != renderer || !demand.suits(kind));
        (!self.demands.is_empty()).then_some(self)
    }

    /// Reads the fields of the Redis hash `cause`; `None` when one is missing or malformed.
    pub(crate) fn from_fields(fields: &HashMap<String, String>) -> Option<Self> {
        let time = |field: &str| fields.get(field)?.parse().ok().map(Timestamp::from_millis);
        Some(Self {
            reason: fields.get("reason")?.clone(),
            since: time("since")?,
            last: time("last")?,
            requests: fields.get("requests")?.parse().ok()?,
            demands: fields
                .keys()
                .filter_map(|field| serde_json::from_str(field.strip_prefix(DEMAND)?).ok())
                .collect(),
        })
    }

    /// Whether the cause, or the suspicion, has not lapsed.
    pub(crate) fn is_current(&self, now: Timestamp) -> bool {
        let (from, keep) = if self.requests >= REQUESTS { (self.last, MEMORY) } else { (self.since, WITHIN) };
        now.since(from).max(from.since(now)) <= keep
    }

    /// The cause, when it is established and has not lapsed.
    pub(crate) fn established(self, now: Timestamp) -> Option<FarmCause> {
        let is = self.requests >= REQUESTS && self.is_current(now);
        let concerns = self.demands.into_iter().map(Concern::from).collect();
        is.then_some(FarmCause { reason: self.reason, since: self.since, requests: self.requests, concerns })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_millis(1_000_000 + seconds * 1_000)
    }

    fn after(seconds: &[u64]) -> Cause {
        let demand = Demand { renderer: RendererType::Csr, pool: None, labels: BTreeMap::new() };
        let same = SameEverywhere { reason: "no licence".to_owned(), demand };
        let cause = seconds.iter().fold(None, |cause, s| Some(Cause::add(cause, &same, at(*s))));
        cause.unwrap()
    }

    #[test]
    fn three_requests_within_a_minute_make_a_cause_that_lapses_after_ten() {
        assert_eq!(after(&[0, 30]).established(at(30)), None);
        let cause = after(&[0, 30, 60]).established(at(60)).unwrap();
        assert_eq!((cause.reason.as_str(), cause.since, cause.requests), ("no licence", at(0), 3));
        assert_eq!(after(&[0, 30, 61]).established(at(61)), None, "the first is too old");
        assert!(after(&[0, 1, 2, 500]).established(at(1_100)).is_some(), "news keep it");
        assert_eq!(after(&[0, 1, 2, 500]).established(at(1_101)), None);
        assert!(!after(&[0]).is_current(at(61)));
    }
}
