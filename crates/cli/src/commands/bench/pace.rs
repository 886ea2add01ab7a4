//! Arrivals on a fixed schedule.
//!
//! A thread of its own keeps the time: the runtime's timers are a millisecond coarse, and a lateness that the load
//! generator adds itself would be counted as the farm's.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The longest the thread sleeps without looking whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// When the `index`th arrival is due.
pub(crate) fn due(start: Instant, rate: f64, index: u64) -> Instant {
    #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 arrivals")]
    let seconds = index as f64 / rate;
    start + Duration::from_secs_f64(seconds)
}

/// A thread that sends the due time of each arrival when it comes; a full channel makes the arrivals after it late, not
/// lost. Ends with the channel, when cancelled, at `end`, or after `count`.
pub(crate) fn start(
    rate: f64,
    start: Instant,
    end: Option<Instant>,
    count: Option<u64>,
    enough: CancellationToken,
    arrivals: mpsc::Sender<Instant>,
) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name("pace".to_owned()).spawn(move || {
        for index in 0..count.unwrap_or(u64::MAX) {
            let due = due(start, rate, index);
            if end.is_some_and(|end| due >= end) {
                return;
            }
            while let Some(left) = due.checked_duration_since(Instant::now()).filter(|l| !l.is_zero()) {
                if enough.is_cancelled() {
                    return;
                }
                thread::park_timeout(left.min(LOOK));
            }
            if enough.is_cancelled() || arrivals.blocking_send(due).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schedule_does_not_drift() {
        let start = Instant::now();
        assert_eq!(due(start, 200.0, 0), start);
        assert_eq!(due(start, 200.0, 1), start + Duration::from_millis(5));
        assert_eq!(due(start, 200.0, 2_000_000), start + Duration::from_secs(10_000));
    }

    #[test]
    fn arrivals_carry_the_time_they_were_due_and_end_with_the_count() {
        let (sender, mut receiver) = mpsc::channel(4);
        let begin = Instant::now();
        let thread = super::start(1000.0, begin, None, Some(20), CancellationToken::new(), sender).unwrap();
        let mut got = Vec::new();
        while let Some(due) = receiver.blocking_recv() {
            assert!(Instant::now() >= due, "an arrival is never early");
            got.push(due);
        }
        thread.join().unwrap();
        assert_eq!(got, (0..20).map(|i| due(begin, 1000.0, i)).collect::<Vec<_>>());
    }
}
