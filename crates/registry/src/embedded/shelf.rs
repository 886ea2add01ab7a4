//! The nodes of one kind that have room, ordered by load. Taking the best costs the same however many there are.

use std::collections::{BTreeMap, HashMap};

use model::{NodeId, Placement, Supply};

/// What is added to a load for one step of [`model::Supply::handicap`]. All steps together are less than two loads differ by where
/// nodes have fewer than 10 000 slots. `redis/lua/indexes.lua` adds the same.
const HANDICAP: f64 = 1e-10;
/// Scores that are closer than this are of the same load.
const SAME_LOAD: f64 = HANDICAP * (Supply::MAX_HANDICAP as f64 + 1.0);

/// A node's load: the ratio of used to total slots, and a little more where it gives a spawn later than others. Orders as the
/// ratio does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score(u64);

impl Score {
    /// `used / total`; equal fractions give equal scores.
    pub(super) fn ratio(used: u32, total: u32) -> Self {
        // The bits of a float that is not negative order as the float does.
        Self((f64::from(used) / f64::from(total.max(1))).to_bits())
    }

    /// The same of a node that gives a spawn later.
    pub(super) fn with(self, handicap: u8) -> Self {
        Self((self.value() + HANDICAP * f64::from(handicap.min(Supply::MAX_HANDICAP))).to_bits())
    }

    /// Whether nodes with this score are better than those with the other one. Of the fullest nodes, too, those are better that give
    /// a spawn sooner.
    pub(super) fn is_better(self, other: Self, placement: Placement) -> bool {
        match placement {
            Placement::Spread => self < other,
            Placement::Pack if (self.value() - other.value()).abs() < SAME_LOAD => self < other,
            Placement::Pack => self > other,
        }
    }

    /// The ratio itself.
    pub(super) fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// Nodes with room, in levels of equal load.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    levels: BTreeMap<Score, Vec<NodeId>>,
    at: HashMap<NodeId, (Score, usize)>,
}

impl Shelf {
    pub(super) fn put(&mut self, node: &NodeId, score: Score) {
        if self.at.get(node).is_some_and(|(old, _)| *old == score) {
            return;
        }
        self.take(node);
        let level = self.levels.entry(score).or_default();
        self.at.insert(node.clone(), (score, level.len()));
        level.push(node.clone());
    }

    pub(super) fn take(&mut self, node: &NodeId) -> Option<Score> {
        let (score, index) = self.at.remove(node)?;
        let level = self.levels.get_mut(&score)?;
        level.swap_remove(index);
        if let Some(moved) = level.get(index) {
            self.at.insert(moved.clone(), (score, index));
        }
        if level.is_empty() {
            self.levels.remove(&score);
        }
        Some(score)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.at.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.at.len()
    }

    pub(super) fn has(&self, node: &NodeId) -> bool {
        self.at.contains_key(node)
    }

    /// The level that a placement chooses from.
    pub(super) fn best(&self, placement: Placement) -> Option<(Score, &[NodeId])> {
        let best = match placement {
            Placement::Spread => self.levels.first_key_value(),
            // Goes back to the first level with the load of the last one.
            Placement::Pack => self.levels.last_key_value().and_then(|(last, _)| {
                let below = Score((last.value() - SAME_LOAD).max(0.0).to_bits());
                self.levels.range(below..).find(|(score, _)| last.value() - score.value() < SAME_LOAD)
            }),
        };
        best.map(|(score, nodes)| (*score, nodes.as_slice()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_level_follows_every_change() {
        let id = |s: &str| s.parse::<NodeId>().unwrap();
        let mut shelf = Shelf::default();
        for (node, used) in [("a", 0), ("b", 0), ("c", 1)] {
            shelf.put(&id(node), Score::ratio(used, 4));
        }
        assert_eq!(shelf.best(Placement::Spread).unwrap().1.len(), 2);
        assert_eq!(shelf.best(Placement::Pack).unwrap().1, [id("c")]);
        shelf.put(&id("a"), Score::ratio(2, 8));
        assert_eq!(shelf.best(Placement::Spread).unwrap().1, [id("b")]);
        assert_eq!(shelf.best(Placement::Pack).unwrap().1.len(), 2, "2/8 and 1/4 are the same load");
        shelf.put(&id("b"), Score::ratio(1, 4).with(3));
        shelf.put(&id("d"), Score::ratio(0, 4).with(Supply::MAX_HANDICAP));
        assert_eq!(shelf.best(Placement::Spread).unwrap().1, [id("d")], "a load outranks all handicaps");
        assert_eq!(
            shelf.best(Placement::Pack).unwrap().1.len(),
            2,
            "of the fullest, those without a handicap"
        );
        for node in ["a", "b", "c", "d"] {
            shelf.take(&id(node));
        }
        assert!(shelf.is_empty() && shelf.levels.is_empty());
    }
}
