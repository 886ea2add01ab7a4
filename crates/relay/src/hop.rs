//! Where a relay stands between a viewer and its server: alone, or one of two in a row that share a tag. The tag distinguishes their
//! own pings from the server's.

use crate::pings::Tag;

/// Where a relay stands. Two relays of one connection share a tag, which the one in front mints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hop {
    /// It is the only one.
    Alone,
    /// Another one follows, which hears of the viewer by the answers that are passed on to it, and sends pings with this tag.
    InFront(Tag),
    /// It is the one that follows.
    Behind(Tag),
}

impl Hop {
    /// The tag of the pings that this relay sends.
    pub(crate) fn tag(self) -> Tag {
        match self {
            Self::Alone => Tag::mint(),
            Self::InFront(tag) | Self::Behind(tag) => tag,
        }
    }
}
