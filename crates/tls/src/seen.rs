//! A bounded memory of what was met before, so that it is logged once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// Most values remembered. When there are more, all are forgotten: some are then logged again, but memory stays bounded.
const MAX_SEEN: usize = 1024;

#[derive(Debug)]
pub(crate) struct Seen<T>(Mutex<HashSet<T>>);

impl<T> Default for Seen<T> {
    fn default() -> Self {
        Self(Mutex::new(HashSet::new()))
    }
}

impl<T: Eq + Hash> Seen<T> {
    /// Whether it was not met before; it is remembered.
    pub(crate) fn is_new(&self, value: T) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN && !seen.contains(&value) {
            seen.clear();
        }
        seen.insert(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_new_once_and_memory_is_bounded() {
        let seen = Seen::default();
        assert!(seen.is_new(0) && !seen.is_new(0));
        for value in 1..10 * MAX_SEEN {
            assert!(seen.is_new(value));
            assert!(seen.0.lock().unwrap().len() <= MAX_SEEN);
        }
    }
}
