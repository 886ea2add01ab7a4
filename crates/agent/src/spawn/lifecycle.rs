//! The states of one spawn as a pure function: where it is, what happened, what time it is; where it goes, and what has
//! to be done.

#![warn(clippy::wildcard_enum_match_arm)]

use std::time::Duration;

use model::SpawnState;
use tokio::time::Instant;

use super::exit::{Cause, Progress};

/// The intervals that supervision goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rules {
    /// How often a report is due; none is expected when absent.
    pub(crate) ping_interval: Option<Duration>,
    /// Between TERM and KILL, and between `disconnect` and TERM.
    pub(crate) stop_grace: Duration,
}

/// What a silence may be longer than a whole number of intervals, as the vendor's server judges it.
const SLACK: Duration = Duration::from_secs(2);

/// An agent that did not run for this long cannot distinguish a silence from reports that it did not read.
pub(crate) fn stall_after(ping_interval: Duration) -> Duration {
    SLACK.min(ping_interval * 2)
}

/// Silent for this long a spawn is suspect.
pub(crate) fn suspect_after(ping_interval: Duration) -> Duration {
    ping_interval * 2 + SLACK
}

/// Silent for this long a spawn is ended.
pub(crate) fn lost_after(ping_interval: Duration) -> Duration {
    ping_interval * 3 + SLACK
}

/// Where a spawn is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until it says `ready`, or the time for that is over.
    Launching { until: Instant },
    /// It says that it is well.
    Ready,
    /// It has been silent for too long.
    Suspect,
    /// It reported `disconnect`; until then it may take its time.
    Disconnected { until: Instant },
    /// TERM was sent; KILL follows.
    Terminating { cause: Cause, kill_at: Instant },
    /// KILL was sent; nothing is left to do but wait.
    Killed { cause: Cause },
}

/// What can happen to a spawn while its process is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// It said `ready`.
    Ready,
    /// It said `disconnect`.
    Disconnect,
    /// Its end is wanted.
    End(Cause),
    /// Time has passed, or it was heard of.
    Tick { heard: Instant },
}

/// A signal to the whole process group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    Term,
    Kill,
}

impl Signal {
    /// The word in logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        }
    }
}

impl Input {
    /// The word in logs.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Disconnect => "disconnect",
            Self::End(cause) => cause.reason().as_str(),
            Self::Tick { .. } => "time",
        }
    }
}

/// What has to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Effects {
    /// The state to be published.
    pub(crate) enter: Option<SpawnState>,
    pub(crate) signal: Option<Signal>,
}

impl Effects {
    const NONE: Self = Self { enter: None, signal: None };

    fn enter(state: SpawnState) -> Self {
        Self { enter: Some(state), signal: None }
    }

    fn signal(signal: Signal) -> Self {
        Self { enter: None, signal: Some(signal) }
    }
}

impl Phase {
    /// The next phase, and what to do on the way.
    pub(crate) fn step(self, input: Input, now: Instant, rules: &Rules) -> (Self, Effects) {
        match (self, input) {
            (Self::Launching { .. }, Input::Ready) => (Self::Ready, Effects::enter(SpawnState::Ready)),
            (Self::Launching { until }, Input::Tick { .. }) if until <= now => {
                self.end(Cause::ReadyTimeout, now, rules)
            }
            (Self::Launching { .. }, Input::End(cause)) => self.end(cause, now, rules),
            // A disconnect report before `ready` changes nothing: the process ends by itself, or at its deadline.
            (Self::Launching { .. }, Input::Disconnect | Input::Tick { .. }) => (self, Effects::NONE),

            (Self::Suspect, Input::Ready) => (Self::Ready, Effects::enter(SpawnState::Ready)),
            (Self::Ready, Input::Ready) => (self, Effects::NONE),
            (Self::Ready | Self::Suspect, Input::Disconnect) => {
                let until = now + rules.stop_grace;
                (Self::Disconnected { until }, Effects::enter(SpawnState::Disconnected))
            }
            (Self::Ready | Self::Suspect, Input::Tick { heard }) => self.judge(heard, now, rules),
            (Self::Ready | Self::Suspect, Input::End(cause)) => self.end(cause, now, rules),

            (Self::Disconnected { until }, Input::Tick { .. }) if until <= now => {
                self.end(Cause::Lingered, now, rules)
            }
            (Self::Disconnected { .. }, Input::End(cause)) => self.end(cause, now, rules),
            (Self::Disconnected { .. }, Input::Ready | Input::Disconnect | Input::Tick { .. }) => {
                (self, Effects::NONE)
            }

            (Self::Terminating { cause, kill_at }, Input::Tick { .. }) if kill_at <= now => {
                (Self::Killed { cause }, Effects::signal(Signal::Kill))
            }
            // A second request to end: no more grace. The first cause stays.
            (Self::Terminating { cause, .. }, Input::End(_)) => {
                (Self::Killed { cause }, Effects::signal(Signal::Kill))
            }
            (Self::Terminating { .. }, Input::Ready | Input::Disconnect | Input::Tick { .. })
            | (Self::Killed { .. }, _) => (self, Effects::NONE),
        }
    }

    /// What a silence since `heard` makes of a spawn that was ready.
    fn judge(self, heard: Instant, now: Instant, rules: &Rules) -> (Self, Effects) {
        let Some(interval) = rules.ping_interval else { return (self, Effects::NONE) };
        let silent = now.saturating_duration_since(heard);
        if silent >= lost_after(interval) {
            self.end(Cause::LivelinessLost, now, rules)
        } else {
            let (next, state) = match silent >= suspect_after(interval) {
                true => (Self::Suspect, SpawnState::Suspect),
                false => (Self::Ready, SpawnState::Ready),
            };
            let effects = if next == self { Effects::NONE } else { Effects::enter(state) };
            (next, effects)
        }
    }

    /// The agent itself did not run for a while: what it waits for may be there and not read yet.
    pub(crate) fn extend(self, until: Instant) -> Self {
        match self {
            Self::Launching { until: before } => Self::Launching { until: before.max(until) },
            Self::Disconnected { until: before } => Self::Disconnected { until: before.max(until) },
            // Silence is counted anew from now on.
            Self::Ready | Self::Suspect => self,
            Self::Terminating { .. } | Self::Killed { .. } => self,
        }
    }

    fn end(self, cause: Cause, now: Instant, rules: &Rules) -> (Self, Effects) {
        let next = Self::Terminating { cause, kill_at: now + rules.stop_grace };
        (next, Effects { enter: Some(SpawnState::Stopping), signal: Some(Signal::Term) })
    }

    /// When a [`Input::Tick`] is due if nothing else happens before.
    pub(crate) fn deadline(self, heard: Instant, rules: &Rules) -> Option<Instant> {
        let silence = |after: fn(Duration) -> Duration| rules.ping_interval.map(|i| heard + after(i));
        match self {
            Self::Launching { until } | Self::Disconnected { until } => Some(until),
            Self::Ready => silence(suspect_after),
            Self::Suspect => silence(lost_after),
            Self::Terminating { kill_at, .. } => Some(kill_at),
            Self::Killed { .. } => None,
        }
    }

    /// How far it had come, for the explanation of its end.
    pub(crate) fn progress(self) -> Progress {
        match self {
            Self::Launching { .. } => Progress::Launching,
            Self::Ready | Self::Suspect => Progress::Ready,
            Self::Disconnected { .. } => Progress::Disconnected,
            Self::Terminating { cause, .. } | Self::Killed { cause } => Progress::Ending(cause),
        }
    }
}

#[cfg(test)]
#[path = "lifecycle_tests.rs"]
mod tests;
