//! Chance in pauses, so that processes that wait for the same thing do not come back together.

use std::time::Duration;

/// Between half and all of a pause.
#[must_use]
pub fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// Any time within this, for those that all lost the same thing at once.
#[must_use]
pub fn spread(within: Duration) -> Duration {
    within.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_spread_comes_at_any_time_within() {
        let within = Duration::from_secs(8);
        let times: Vec<Duration> = (0..1000).map(|_| spread(within)).collect();
        assert!(times.iter().all(|time| *time <= within));
        assert!(
            times.iter().min().unwrap() < &(within / 8) && times.iter().max().unwrap() > &(within * 7 / 8)
        );
    }

    #[test]
    fn a_jittered_pause_is_between_half_and_all_of_it() {
        let pause = Duration::from_secs(8);
        let pauses: Vec<Duration> = (0..1000).map(|_| jittered(pause)).collect();
        assert!(pauses.iter().all(|some| (pause / 2..=pause).contains(some)));
        let least = pauses.iter().min().unwrap();
        let most = pauses.iter().max().unwrap();
        assert!(*most - *least > pause / 4, "{least:?} to {most:?}");
    }
}
