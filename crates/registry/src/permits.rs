//! How often an owner may start something: so many a minute, as many of them at once as it likes, by the generic cell rate
//! algorithm. All there is to keep is one moment per owner: when the last start would have been due, had all come evenly.

use std::collections::HashMap;
use std::time::Duration;

use model::Owner;

/// What an owner is allowed, and how far it may run ahead.
const MINUTE: Duration = Duration::from_secs(60);

/// Whether an owner may start one more now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// It may, and that is noted.
    Granted,
    /// It may once this time has passed.
    Wait(Duration),
}

impl Permit {
    pub(crate) fn after(wait: Duration) -> Self {
        if wait.is_zero() { Self::Granted } else { Self::Wait(wait) }
    }
}

/// The owners of one process.
#[derive(Debug)]
pub struct Permits {
    due: HashMap<Owner, Duration>,
    /// Owners whose starts are long past are dropped when there are more than this.
    crowd: usize,
}

impl Default for Permits {
    fn default() -> Self {
        Self::new()
    }
}

impl Permits {
    /// Looks through at this many owners first.
    const CROWD: usize = 1024;

    /// Nobody has started anything.
    #[must_use]
    pub fn new() -> Self {
        Self { due: HashMap::new(), crowd: Self::CROWD }
    }

    /// Asks for one start, `now` being the time since some moment that stays the same. None a minute is none ever.
    pub fn permit(&mut self, owner: &Owner, per_minute: u32, now: Duration) -> Permit {
        if per_minute == 0 {
            return Permit::Wait(MINUTE);
        }
        // What is further ahead than anybody can run is of a clock that was set back since.
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
    fn a_clock_that_is_set_back_keeps_nobody_out() {
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
