//! Where a list by when spawns ended goes on: a moment, and how many of those that ended in it were looked at.
//!
//! Many spawns may end in one millisecond, which is all that is kept. They are in one order all the same, and are dropped oldest first.

/// Places in one millisecond; a cursor is a number of at most 19 digits.
const AMONG: u64 = 100_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PlaceAmongEnds {
    /// In milliseconds.
    pub(crate) at: u64,
    pub(crate) among: u64,
}

impl PlaceAmongEnds {
    /// The place of the one after this, which ended then.
    pub(crate) fn next(self, at: u64) -> Self {
        let among = if at == self.at { (self.among + 1).min(AMONG - 1) } else { 1 };
        Self { at, among }
    }
}

impl From<u64> for PlaceAmongEnds {
    fn from(cursor: u64) -> Self {
        Self { at: cursor / AMONG, among: cursor % AMONG }
    }
}

impl From<PlaceAmongEnds> for u64 {
    fn from(place: PlaceAmongEnds) -> Self {
        place.at.saturating_mul(AMONG).saturating_add(place.among)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_a_number_of_at_most_19_digits() {
        let first = PlaceAmongEnds::default().next(1_767_225_600_123);
        let second = first.next(1_767_225_600_123);
        assert_eq!((first.among, second.among, second.next(1_767_225_600_122).among), (1, 2, 1));
        for place in [first, second] {
            assert_eq!(PlaceAmongEnds::from(u64::from(place)), place);
            assert!(u64::from(place).to_string().len() <= 19);
        }
    }
}
