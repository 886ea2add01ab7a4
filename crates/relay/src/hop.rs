//! Where a relay stands between a viewer and its server: alone, or one of two in a row that share a tag. The tag distinguishes their
//! own pings from the server's.

use crate::pings::PingTag;

/// Where a relay stands. Two relays of one connection share a tag, which the one in front mints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It is the only one.
    Alone,
    /// Another one follows, which hears of the viewer by the answers that are passed on to it, and sends pings with this tag.
    InFront(PingTag),
    /// It is the one that follows.
    Behind(PingTag),
}

impl Hop {
    /// The tag of the pings that this relay sends.
    pub(crate) fn tag(self) -> PingTag {
        match self {
            Self::Alone => PingTag::mint(),
            Self::InFront(tag) | Self::Behind(tag) => tag,
        }
    }
}
