//! How far a spawn has come, on a terminal's standard error: one line that is drawn over. Nothing is drawn elsewhere, and none of it
//! is in the result.

use std::io::{self, IsTerminal};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{printable, short};
use crate::spawn_events::Stage;

/// The line turns so often, so that one sees that the command waits.
const TURN: Duration = Duration::from_millis(120);

/// A line that is taken away at the end.
#[derive(Debug)]
pub(super) struct Progress(ProgressBar);

impl Progress {
    /// `None` where a program reads: with `--json`, or where standard error is no terminal.
    pub(super) fn show(json: bool) -> Option<Self> {
        if json || !io::stderr().is_terminal() {
            return None;
        }
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(TURN);
        Some(Self(bar))
    }

    pub(super) fn set(&self, stage: &Stage) {
        self.0.set_message(printable(&words(stage)).into_owned());
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn words(stage: &Stage) -> String {
    match stage {
        Stage::Queued(queued) => {
            let estimate = queued
                .estimate_seconds
                .map(|seconds| format!(", about {} to go", short(Duration::from_secs(seconds.max(1)))));
            let place = match queued.position {
                1 => "next in line".to_owned(),
                position => format!("{} before it in line", position - 1),
            };
            place + &estimate.unwrap_or_default()
        }
        Stage::Starting(starting) => format!("starting on {}", starting.node),
    }
}

#[cfg(test)]
mod tests {
    use model::api::{SpawnQueued, SpawnStarting};

    use super::*;

    #[test]
    fn a_stage_is_said_in_words() {
        let queued = |position, estimate_seconds| Stage::Queued(SpawnQueued { position, estimate_seconds });
        for (stage, expected) in [
            (queued(1, None), "next in line"),
            (queued(1, Some(0)), "next in line, about 1s to go"),
            (queued(3, Some(75)), "2 before it in line, about 1m15s to go"),
            (Stage::Starting(SpawnStarting { node: "a".parse().unwrap() }), "starting on a"),
        ] {
            assert_eq!(words(&stage), expected);
        }
    }
}
