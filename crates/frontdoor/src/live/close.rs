//! Why a live connection ends, and what its subscriber is sent last: a close code and a reason, which are part of the contract
//! (`docs/user/live-feed.md`), within a deadline that depends on why.

use std::time::Duration;

/// How long a close frame waits for the peer's.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
const SHORT_CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Enough to write a close frame where the peer reads.
const EVICTED_TIMEOUT: Duration = Duration::from_millis(10);

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its subscriber closed it.
    Peer(u16),
    Broken,
    /// Its subscriber did not answer a ping.
    Silent,
    /// Its queue was full.
    Slow,
    /// Its subscriber does not speak the protocol.
    Violations,
    /// This front door shuts down.
    Leaving,
    /// The registry is away, and there is no view from before.
    NoView,
    /// Its subscriber has not shown a good credential.
    Unauthenticated,
    /// Its subscriber's credential is not good any more.
    Expired,
    /// It had shown no credential, and was evicted.
    Crowded,
    /// Its caller has as many live connections as it may have.
    TooMany,
}

impl End {
    /// The word in the log.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Peer(_) => "closed-by-peer",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Slow => "slow",
            Self::Violations => "violations",
            Self::Leaving => "shutdown",
            Self::NoView => "no-view",
            Self::Unauthenticated => "unauthenticated",
            Self::Expired => "expired",
            Self::Crowded => "crowded",
            Self::TooMany => "too-many",
        }
    }

    /// The close code, and the reason in the close frame; `None`: no close frame is sent.
    pub(super) fn close(self) -> (u16, Option<&'static str>) {
        match self {
            Self::Peer(code) => (code, None),
            Self::Broken | Self::Silent => (1006, None),
            Self::Slow => (1008, Some("back-pressure threshold exceeded")),
            Self::Violations => (1008, Some("too many protocol violations")),
            Self::Leaving => (1001, Some("server shutting down")),
            Self::NoView => (1013, Some("registry unavailable")),
            Self::Unauthenticated => (1008, Some("authentication required")),
            Self::Expired => (1008, Some("credential expired")),
            Self::Crowded => (1013, Some("no place left")),
            Self::TooMany => (1013, Some("too many live connections of this caller")),
        }
    }

    /// How long the peer has to answer the close frame. A peer without a credential does not keep a place by being silent, and one
    /// whose place others need is not waited for at all.
    pub(super) fn close_timeout(self) -> Duration {
        match self {
            Self::Crowded => EVICTED_TIMEOUT,
            Self::Unauthenticated | Self::TooMany => SHORT_CLOSE_TIMEOUT,
            _ => CLOSE_TIMEOUT,
        }
    }

    /// The error that is sent before the close frame: its code and its message.
    pub(super) fn last_words(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Unauthenticated => {
                Some(("unauthenticated", "the first message must show a good credential"))
            }
            Self::Expired => Some(("unauthenticated", "the credential is not good any more")),
            Self::TooMany => {
                Some(("quota-exceeded", "this caller has as many live connections as it may have"))
            }
            _ => None,
        }
    }
}
