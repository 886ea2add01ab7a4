//! A bounded set of what was logged before, so that each thing is logged once.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

/// The most values remembered. Beyond that all are dropped, and some are logged again: the price of a bound.
const MAX_SEEN: usize = 1024;

/// What was logged before.
#[derive(Debug)]
pub struct LoggedOnce<T>(Mutex<HashSet<T>>);

impl<T> Default for LoggedOnce<T> {
    fn default() -> Self {
        Self(Mutex::new(HashSet::new()))
    }
}

impl<T: Eq + Hash> LoggedOnce<T> {
    /// Whether the value is new. Remembers it.
    #[must_use]
    pub fn is_new(&self, value: T) -> bool {
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
        let seen = LoggedOnce::default();
        assert!(seen.is_new(0) && !seen.is_new(0));
        for value in 1..10 * MAX_SEEN {
            assert!(seen.is_new(value));
            assert!(seen.0.lock().unwrap().len() <= MAX_SEEN);
        }
    }
}
