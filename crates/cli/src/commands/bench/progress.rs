//! The progress bar of a run, on standard error and only where that is a terminal. It reads the tally and changes nothing.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::task::JoinHandle;
use tokio::time::{Instant, interval};

use super::load::Bounds;
use super::tally::{READY, SharedTally};

/// Often enough to look alive, seldom enough to cost nothing.
const REFRESH: Duration = Duration::from_millis(250);

/// A bar on standard error, or nothing.
#[derive(Debug)]
pub(crate) struct Progress(Option<(ProgressBar, JoinHandle<()>)>);

impl Progress {
    /// Shows a bar if it is wanted and standard error is a terminal.
    pub(crate) fn show(wanted: bool, bounds: &Bounds, tally: SharedTally) -> Self {
        if !wanted || !io::stderr().is_terminal() {
            return Self(None);
        }
        let length = bounds.count.or(bounds.duration.map(millis)).unwrap_or(0);
        let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{wide_bar} {percent:>3}% {msg}") {
            bar.set_style(style);
        }
        let by_count = bounds.count.is_some();
        let start = Instant::now();
        let drawn = bar.clone();
        let task = tokio::spawn(async move {
            let mut refresh = interval(REFRESH);
            loop {
                refresh.tick().await;
                let (ready, all) = {
                    let tally = tally.lock();
                    (tally.spawns.of(READY), tally.spawns.total() + tally.missed)
                };
                drawn.set_position(if by_count { all } else { millis(start.elapsed()) }.min(length));
                drawn.set_message(format!("{ready} ready, {} not", all - ready));
            }
        });
        Self(Some((bar, task)))
    }

    pub(crate) fn clear(self) {
        if let Some((bar, task)) = self.0 {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
