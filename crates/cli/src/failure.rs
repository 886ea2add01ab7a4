//! Why a command did not do what it was asked, in words for people and an exit code for scripts.

use std::io::{self, Write};

use crate::call_error::CallError;
use crate::exit::Exit;
use crate::output::{count, counts};
use crate::standard_error::say;

/// Why a command failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A call to the front door.
    Call(CallError),
    /// Standard output cannot be written to; a reader that has seen enough is not an error.
    Output(io::Error),
    /// Anything else, said in one sentence.
    Said(Exit, String),
}

/// Who reads what a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// People, on standard error.
    People,
    /// Programs too, on standard output: with `--json`.
    Programs,
}

impl Readers {
    /// With `--json` or without.
    pub(crate) fn of(json: bool) -> Self {
        if json { Self::Programs } else { Self::People }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl Failure {
    /// The command line or the configuration is wrong.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Said(Exit::Usage, message.into())
    }

    /// It did not work.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Said(Exit::Failed, message.into())
    }

    /// It works, and the answer is no.
    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Said(Exit::Refused, message.into())
    }

    /// The exit code for scripts.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Call(error) => error.exit(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Output(_) => Exit::Failed,
            Self::Said(exit, _) => *exit,
        }
    }

    /// Reports to these readers. An error of a stream itself has nowhere to go.
    pub(crate) fn report(&self, readers: Readers) -> Exit {
        match self {
            Self::Call(error) => {
                if let (Readers::Programs, Some(problem)) = (readers, error.problem_json()) {
                    let mut stdout = io::stdout().lock();
                    stdout.write_all(problem).and_then(|()| stdout.write_all(b"\n")).ok();
                }
                say(&format!("error: {error}"));
                for attempt in error.attempts() {
                    say(&format!("  tried {}: {} ({})", attempt.node, attempt.reason, attempt.code));
                }
                if let Some(reasons) = error.reasons() {
                    let nodes = count(reasons.values().sum::<u32>(), "node");
                    say(&format!("  {nodes}: {} (`hatchery explain` says it node by node)", counts(reasons)));
                }
                for line in error.log() {
                    say(&format!("  | {line}"));
                }
            }
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Self::Output(error) => say(&format!("error: standard output cannot be written to: {error}")),
            Self::Said(_, message) => say(&format!("error: {message}")),
        }
        self.exit()
    }
}
