//! Which nodes' spawns subscriptions need, so that a front door reads no others.

use std::collections::HashMap;
use std::time::Duration;

use model::NodeId;
use tokio::time::Instant;

use super::view::Need;

/// How many subscriptions need something, and since when none does.
#[derive(Debug, Default)]
struct Claim {
    count: usize,
    left: Option<Instant>,
}

impl Claim {
    fn add(&mut self) {
        self.count += 1;
        self.left = None;
    }

    fn drop_one(&mut self) {
        self.count = self.count.saturating_sub(1);
        self.left = (self.count == 0).then(Instant::now);
    }

    /// Subscribers that were cut off come back.
    fn holds(&self, linger: Duration) -> bool {
        self.count > 0 || self.left.is_some_and(|left| left.elapsed() < linger)
    }
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Claims {
    all: Claim,
    of: HashMap<NodeId, Claim>,
}

impl Claims {
    pub(super) fn add(&mut self, need: &Need) {
        match need {
            Need::Nothing => {}
            Need::Of(node) => self.of.entry(node.clone()).or_default().add(),
            Need::All => self.all.add(),
        }
    }

    pub(super) fn remove(&mut self, need: &Need) {
        match need {
            Need::Nothing => {}
            Need::Of(node) => self.of.entry(node.clone()).or_default().drop_one(),
            Need::All => self.all.drop_one(),
        }
    }

    /// Forgets those that nobody has had for so long.
    pub(super) fn tidy(&mut self, linger: Duration) {
        self.of.retain(|_, claim| claim.holds(linger));
        if !self.all.holds(linger) {
            self.all.left = None;
        }
    }

    /// Whether those of all nodes are needed, or were a moment ago.
    pub(super) fn wants_all(&self) -> bool {
        self.all.count > 0 || self.all.left.is_some()
    }

    /// Whether those of this node are.
    pub(super) fn wants(&self, node: &NodeId) -> bool {
        self.wants_all() || self.of.contains_key(node)
    }

    /// The nodes that are asked for one by one.
    pub(super) fn nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.of.keys()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_nobody_needs_any_more_is_kept_for_those_that_come_back() {
        let linger = Duration::from_secs(60);
        let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let mut claims = Claims::default();
        claims.add(&Need::Nothing);
        assert!(!claims.wants(&a));
        claims.add(&Need::Of(a.clone()));
        claims.add(&Need::Of(a.clone()));
        claims.remove(&Need::Of(a.clone()));
        claims.add(&Need::All);
        assert!(claims.wants(&a) && claims.wants(&b) && claims.wants_all());
        claims.remove(&Need::All);
        claims.tidy(linger);
        assert!(claims.wants(&b), "it may come back");
        tokio::time::advance(linger).await;
        claims.tidy(linger);
        assert!(claims.wants(&a) && !claims.wants(&b) && !claims.wants_all());
        claims.remove(&Need::Of(a.clone()));
        tokio::time::advance(linger).await;
        claims.tidy(linger);
        assert_eq!((claims.wants(&a), claims.nodes().count()), (false, 0));
    }
}
