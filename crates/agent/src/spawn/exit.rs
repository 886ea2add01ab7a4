//! Explains an end, as a pure function of what the agent was doing, how far the spawn had come, how the process ended, and its last lines.

use model::{Exit, ExitReason, vendor};
use serde::{Deserialize, Serialize};

/// Why the agent ends a spawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// Through the API.
    Stopped,
    /// Its caller went away before the answer.
    Cancelled,
    /// It did not say `ready` in time.
    ReadyTimeout,
    /// The same, but its report may not have come through.
    Unheard,
    /// It went silent.
    LivelinessLost,
    /// It has lived as long as it may.
    Expired,
    /// Its viewer has sent nothing for too long.
    Idle,
    /// No viewer has come to it, and its server was too long in the pool to notice.
    InitialUse,
    /// Its node is emptied.
    Drained,
    /// It reported `disconnect` and did not end.
    Lingered,
    /// It reports to where no agent listens any more.
    Unreachable,
}

impl Cause {
    pub(crate) fn reason(self) -> ExitReason {
        match self {
            Self::Stopped => ExitReason::Stopped,
            // It says nothing about the node's servers.
            Self::Cancelled | Self::Unheard => ExitReason::Cancelled,
            Self::ReadyTimeout => ExitReason::ReadyTimeout,
            Self::LivelinessLost | Self::Unreachable => ExitReason::LivelinessLost,
            Self::Expired => ExitReason::Expired,
            Self::Idle => ExitReason::Idle,
            Self::InitialUse => ExitReason::InitialUseTimeout,
            Self::Drained => ExitReason::Drained,
            Self::Lingered => ExitReason::Disconnected,
        }
    }

    /// What the reason does not say.
    pub(crate) fn text(self) -> Option<String> {
        match self {
            Self::Unreachable => {
                Some("it reports to an address its agent does not listen on any more".to_owned())
            }
            Self::Unheard => Some(
                "not ready in time, but its reports could not arrive: the node's liveliness port is flooded"
                    .to_owned(),
            ),
            Self::Stopped
            | Self::Cancelled
            | Self::ReadyTimeout
            | Self::LivelinessLost
            | Self::Expired
            | Self::Idle
            | Self::InitialUse
            | Self::Drained
            | Self::Lingered => None,
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Code(i32),
    Signal(i32),
    /// It is gone, and it was not our child: its status is not known.
    Unknown,
    /// The same, and it went while no agent was looking.
    Unseen,
}

/// How far a spawn had come when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It had not said `ready`.
    Launching,
    /// It had said `ready`.
    Ready,
    /// It had said `disconnect`.
    Disconnected,
    /// We were ending it.
    Ending(Cause),
}

/// What the server writes when no viewer came.
const INITIAL_USE_TIMEOUT: &str = "initial-use timeout";
/// What it writes when its viewer has left.
const VIEWER_LEFT: &str = "server disconnect:";

/// How it ends when it could not listen on its port, and what it writes then: the vendor's `ScInitFailed`, and what its
/// library says of a busy port.
pub(crate) const CANNOT_LISTEN: Status = Status::Code(4);
const NO_CONTEXT: &str = "Can't create lws context";

/// Whether these lines say that it could not listen on its port.
pub(crate) fn says_it_cannot_listen(log: &[String]) -> bool {
    log.iter().any(|line| line.contains(NO_CONTEXT))
}

/// Whether these lines can change the explanation, so that they must be read.
pub(crate) fn depends_on_log(progress: Progress, status: Status) -> bool {
    matches!(progress, Progress::Ready | Progress::Disconnected)
        && matches!(status, Status::Code(0) | Status::Unknown | Status::Unseen)
}

/// Explains an end. `log` holds the last lines the process wrote.
pub(crate) fn explain(progress: Progress, status: Status, log: &[String]) -> Exit {
    let (code, signal) = match status {
        Status::Code(code) => (Some(code), None),
        Status::Signal(signal) => (None, Some(signal_name(signal))),
        Status::Unknown | Status::Unseen => (None, None),
    };
    let exit = |reason, text: Option<String>| Exit { reason, code, signal: signal.clone(), text };
    let wrote = |words| depends_on_log(progress, status) && log.iter().any(|line| line.contains(words));
    match (progress, status) {
        (Progress::Ending(cause), _) => exit(cause.reason(), cause.text()),
        _ if wrote(INITIAL_USE_TIMEOUT) => exit(ExitReason::InitialUseTimeout, None),
        (Progress::Disconnected, _) => exit(ExitReason::Disconnected, None),
        (Progress::Launching | Progress::Ready, Status::Signal(_)) => exit(ExitReason::Signaled, None),
        (Progress::Launching, Status::Code(0) | Status::Unknown) => {
            exit(ExitReason::Failed, Some("ended before it was ready".to_owned()))
        }
        (Progress::Ready, Status::Unknown | Status::Unseen) if wrote(VIEWER_LEFT) => {
            exit(ExitReason::Disconnected, None)
        }
        // To call it a normal end would be a guess.
        (Progress::Ready, Status::Unknown) => exit(
            ExitReason::Failed,
            Some("ended without a disconnect report, its exit code is not known".to_owned()),
        ),
        (Progress::Launching | Progress::Ready, Status::Unseen) => {
            exit(ExitReason::Failed, Some("ended while its agent was away".to_owned()))
        }
        (Progress::Launching | Progress::Ready, Status::Code(code)) if code != 0 => {
            exit(ExitReason::Failed, Some(vendor::exit_text(code).to_owned()))
        }
        (Progress::Launching | Progress::Ready, Status::Code(_)) => exit(ExitReason::Disconnected, None),
    }
}

/// The same for a spawn whose group the kernel ended something in, because it took more than `limit` bytes of memory.
pub(crate) fn out_of_memory(exit: Exit, limit: &str) -> Exit {
    match exit.reason {
        ExitReason::Signaled | ExitReason::Failed => {
            let text = format!("out of memory: it took more than {limit} bytes (--spawn-memory)");
            Exit { text: Some(text), ..exit }
        }
        // It went for another reason, whatever happened to a process of its on the way.
        _ => exit,
    }
}

fn signal_name(signal: i32) -> String {
    let name = match signal {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        16 => "SIGSTKFLT",
        24 => "SIGXCPU",
        25 => "SIGXFSZ",
        26 => "SIGVTALRM",
        27 => "SIGPROF",
        29 => "SIGIO",
        30 => "SIGPWR",
        31 => "SIGSYS",
        other => return format!("SIG{other}"),
    };
    name.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_explained() {
        use ExitReason as R;
        const TIMEOUT: &str = "12:00 ScServer: exiting due to initial-use timeout";
        const LEFT: &str = "12:00 server disconnect: viewer has left";
        const AWAY: &str = "ended while its agent was away";
        const NO_CODE: &str = "ended without a disconnect report, its exit code is not known";
        const NOWHERE: &str = "it reports to an address its agent does not listen on any more";
        let (code, signal) = (Status::Code, Status::Signal);
        for (progress, status, log, reason, text) in [
            (Progress::Launching, code(6), "", R::Failed, Some("invalid license")),
            (Progress::Launching, code(42), "", R::Failed, Some("unknown exit-code")),
            (Progress::Launching, code(0), "", R::Failed, Some("ended before it was ready")),
            (Progress::Launching, code(0), TIMEOUT, R::Failed, Some("ended before it was ready")),
            (Progress::Launching, signal(11), "", R::Signaled, None),
            (Progress::Ready, code(0), "", R::Disconnected, None),
            (Progress::Ready, code(0), TIMEOUT, R::InitialUseTimeout, None),
            (Progress::Ready, code(3), TIMEOUT, R::Failed, Some("internal error")),
            (Progress::Ready, signal(9), "", R::Signaled, None),
            (Progress::Ready, Status::Unknown, "", R::Failed, Some(NO_CODE)),
            (Progress::Ready, Status::Unknown, TIMEOUT, R::InitialUseTimeout, None),
            (Progress::Ready, Status::Unknown, LEFT, R::Disconnected, None),
            (Progress::Launching, Status::Unknown, LEFT, R::Failed, Some("ended before it was ready")),
            (Progress::Launching, Status::Unseen, "", R::Failed, Some(AWAY)),
            (Progress::Ready, Status::Unseen, "", R::Failed, Some(AWAY)),
            (Progress::Ready, Status::Unseen, LEFT, R::Disconnected, None),
            (Progress::Ready, Status::Unseen, TIMEOUT, R::InitialUseTimeout, None),
            (Progress::Disconnected, Status::Unseen, "", R::Disconnected, None),
            (Progress::Disconnected, Status::Unknown, "", R::Disconnected, None),
            (Progress::Ending(Cause::Stopped), Status::Unseen, LEFT, R::Stopped, None),
            (Progress::Ending(Cause::Unreachable), signal(15), "", R::LivelinessLost, Some(NOWHERE)),
            (Progress::Disconnected, code(0), "", R::Disconnected, None),
            (Progress::Disconnected, code(0), TIMEOUT, R::InitialUseTimeout, None),
            (Progress::Disconnected, code(3), "", R::Disconnected, None),
            (Progress::Disconnected, signal(6), "", R::Disconnected, None),
            (Progress::Ending(Cause::Stopped), signal(15), "", R::Stopped, None),
            (Progress::Ending(Cause::Cancelled), code(0), TIMEOUT, R::Cancelled, None),
            (Progress::Ending(Cause::ReadyTimeout), signal(9), "", R::ReadyTimeout, None),
            (Progress::Ending(Cause::LivelinessLost), code(1), "", R::LivelinessLost, None),
            (Progress::Ending(Cause::Drained), signal(15), "", R::Drained, None),
            (Progress::Ending(Cause::Lingered), signal(15), "", R::Disconnected, None),
        ] {
            let exit = explain(progress, status, &["first".to_owned(), log.to_owned()]);
            assert_eq!(exit.reason, reason, "{progress:?} {status:?}");
            assert_eq!(exit.text.as_deref(), text, "{progress:?} {status:?}");
            match status {
                Status::Code(code) => assert_eq!((exit.code, exit.signal), (Some(code), None)),
                Status::Signal(_) => assert!(exit.code.is_none() && exit.signal.unwrap().starts_with("SIG")),
                Status::Unknown | Status::Unseen => assert_eq!((exit.code, exit.signal), (None, None)),
            }
        }
    }

    #[test]
    fn an_end_for_want_of_memory_is_reported_as_such() {
        let killed = explain(Progress::Ready, Status::Signal(9), &[]);
        let exit = out_of_memory(killed, "4096");
        assert_eq!((exit.reason, exit.signal.as_deref()), (ExitReason::Signaled, Some("SIGKILL")));
        assert!(exit.text.unwrap().contains("more than 4096 bytes"));
        let adopted = explain(Progress::Ready, Status::Unknown, &[]);
        assert!(out_of_memory(adopted, "4096").text.unwrap().contains("out of memory"));
        let stopped = explain(Progress::Ending(Cause::Stopped), Status::Signal(9), &[]);
        assert_eq!(out_of_memory(stopped.clone(), "4096"), stopped);
    }

    #[test]
    fn signals_have_their_names() {
        assert_eq!(signal_name(9), "SIGKILL");
        assert_eq!(signal_name(15), "SIGTERM");
        assert_eq!(signal_name(64), "SIG64");
    }
}
