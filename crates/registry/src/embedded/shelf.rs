//! The nodes of one kind that have room, ordered by load. Taking the best costs the same however many there are.

use std::collections::{BTreeMap, HashMap};

use model::{NodeId, Placement};

/// A node's load: the ratio of used to total slots. Orders as the ratio does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score(u64);

impl Score {
    /// `used / total`; equal fractions give equal scores.
    pub(super) fn ratio(used: u32, total: u32) -> Self {
        // The bits of a float that is not negative order as the float does.
        Self((f64::from(used) / f64::from(total.max(1))).to_bits())
    }

    /// The ratio itself.
    pub(super) fn value(self) -> f64 {
        f64::from_bits(self.0)
    }
}

/// Nodes with room, in levels of equal load.
#[derive(Debug, Default)]
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
            Placement::Pack => self.levels.last_key_value(),
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
        for node in ["a", "b", "c"] {
            shelf.take(&id(node));
        }
        assert!(shelf.is_empty() && shelf.levels.is_empty());
    }
}
