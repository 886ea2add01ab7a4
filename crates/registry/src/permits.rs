//! Rate limits of owners, by the generic cell rate algorithm (ITU-T I.371): a number of starts a minute, in any bursts.
//!
//! The whole state is one moment per owner: when the last start would have been due, had all come evenly. The registry
//! keeps it for the farm; a front door keeps its own [`Permits`] while the registry is away.

use std::collections::HashMap;
use std::time::Duration;

use model::Owner;

/// The time over which starts are counted, and how far an owner may run ahead.
const MINUTE: Duration = Duration::from_secs(60);

/// Whether an owner may start one more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may, and the start is counted.
    Granted,
    /// It may after this time. Nothing is counted.
    Wait(Duration),
}

impl Permit {
    pub(crate) fn after(wait: Duration) -> Self {
        if wait.is_zero() { Self::Granted } else { Self::Wait(wait) }
    }
}

/// The rate limits of one process.
///
/// ```
/// use std::time::Duration;
/// use registry::{Permit, Permits};
///
/// let (mut permits, owner) = (Permits::new(), "key:abc".parse().unwrap());
/// assert_eq!(permits.permit(&owner, 2, Duration::ZERO), Permit::Granted);
/// assert_eq!(permits.permit(&owner, 2, Duration::ZERO), Permit::Granted);
/// assert_eq!(permits.permit(&owner, 2, Duration::ZERO), Permit::Wait(Duration::from_secs(30)));
/// assert_eq!(permits.permit(&owner, 2, Duration::from_secs(30)), Permit::Granted);
/// ```
#[derive(Debug, Clone)]
pub struct Permits {
    due: HashMap<Owner, Duration>,
    /// With more owners than this, those whose starts are long past are dropped.
    crowd: usize,
}

impl Default for Permits {
    fn default() -> Self {
        Self::new()
    }
}

impl Permits {
    /// The number of owners at which old ones are first dropped.
    const CROWD: usize = 1024;

    /// No owner has started anything.
    #[must_use]
    pub fn new() -> Self {
        Self { due: HashMap::new(), crowd: Self::CROWD }
    }

    /// Asks for one start. `now` is the time since any fixed moment. With `per_minute` 0 no start is ever granted.
    pub fn permit(&mut self, owner: &Owner, per_minute: u32, now: Duration) -> Permit {
        if per_minute == 0 {
            return Permit::Wait(MINUTE);
        }
        // An owner runs ahead by a minute at the most. A moment further ahead comes from a clock that was set back since.
        let due =
            self.due.get(owner).copied().filter(|due| (now..=now + MINUTE).contains(due)).unwrap_or(now);
        let next = due + MINUTE / per_minute;
        if next > now + MINUTE {
            return Permit::Wait(next - now - MINUTE);
        }
        self.due.insert(owner.clone(), next);
        if self.due.len() > self.crowd {
            self.due.retain(|_, due| *due > now);
            self.crowd = Self::CROWD.max(self.due.len() * 2);
        }
        Permit::Granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(n: usize) -> Owner {
        format!("key:{n}").parse().unwrap()
    }

    #[test]
    fn a_clock_that_is_set_back_keeps_no_caller_out() {
        let (mut permits, late) = (Permits::new(), Duration::from_secs(90_000));
        assert_eq!(permits.permit(&owner(1), 1, late), Permit::Granted);
        let early = late / 2;
        assert_eq!(permits.permit(&owner(1), 1, early), Permit::Granted);
        assert_eq!(permits.permit(&owner(1), 1, early), Permit::Wait(MINUTE));
    }

    #[test]
    fn owners_that_have_long_started_nothing_are_dropped() {
        let mut permits = Permits::new();
        for n in 0..10 * Permits::CROWD {
            let now = MINUTE * 2 * u32::try_from(n / Permits::CROWD).unwrap();
            assert_eq!(permits.permit(&owner(n), 60, now), Permit::Granted);
        }
        assert!(permits.due.len() <= 2 * Permits::CROWD, "{}", permits.due.len());
    }
}
