//! How every command reports to a script what came of it: exit codes, which are a contract (`docs/user/command-line.md`). Of several calls the
//! worst outcome counts.

use std::process::ExitCode;

use model::api::ErrorCode;

/// The exit code of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    /// The command line, the environment or the configuration is wrong; nothing was done.
    Usage = 2,
    /// There is no such spawn or node.
    NotFound = 3,
    /// The farm works, and said no: refused, or no capacity.
    Refused = 4,
    /// It took too long, here or at the farm.
    TimedOut = 5,
}

impl Exit {
    /// From best to worst. The numbers are a contract, and do not rank.
    const ORDER: [Self; 6] =
        [Self::Done, Self::NotFound, Self::Refused, Self::TimedOut, Self::Failed, Self::Usage];

    /// The worse of two, for a command that does several things.
    pub(crate) fn worse(self, other: Self) -> Self {
        let rank = |exit| Self::ORDER.iter().position(|e| *e == exit);
        if rank(other) > rank(self) { other } else { self }
    }

    /// What an answer of the front door with this code means to a script.
    pub(crate) const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::NoCapacity
            | ErrorCode::NoMatchingNode
            | ErrorCode::Unauthenticated
            | ErrorCode::Forbidden
            | ErrorCode::OriginNotAllowed
            | ErrorCode::RateLimited
            | ErrorCode::QuotaExceeded
            | ErrorCode::IdempotencyConflict
            | ErrorCode::AlreadyConnected
            | ErrorCode::NodeUp
            | ErrorCode::SpawnEnded => Self::Refused,
            ErrorCode::ReadyTimeout => Self::TimedOut,
            ErrorCode::InvalidRequest | ErrorCode::BodyTooLarge | ErrorCode::HostNotAllowed => Self::Usage,
            ErrorCode::SpawnFailed
            | ErrorCode::RegistryUnavailable
            | ErrorCode::NodeUnreachable
            | ErrorCode::ShuttingDown
            | ErrorCode::MethodNotAllowed
            | ErrorCode::UnsupportedMediaType
            | ErrorCode::UpgradeRequired
            | ErrorCode::Internal => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_of_several_outcomes_counts() {
        assert_eq!(Exit::Done.worse(Exit::NotFound), Exit::NotFound);
        assert_eq!(Exit::Failed.worse(Exit::NotFound), Exit::Failed);
        assert_eq!(Exit::TimedOut.worse(Exit::Failed), Exit::Failed);
        assert_eq!(Exit::NotFound.worse(Exit::Done), Exit::NotFound);
    }

    #[test]
    fn the_numbers_are_a_contract() {
        let numbers: Vec<u8> =
            [Exit::Done, Exit::Failed, Exit::Usage, Exit::NotFound, Exit::Refused, Exit::TimedOut]
                .map(|e| e as u8)
                .to_vec();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5]);
    }
}
