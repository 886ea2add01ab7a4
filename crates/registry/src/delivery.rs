//! Who delivers the events of a farm to a webhook, and up to which event they were delivered.

use model::Timestamp;
use uuid::Uuid;

use crate::ask::Position;

/// The event up to which everything was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor {
    /// The event's number; 0 before the first that the registry has.
    pub seq: u64,
    /// The identity of the registry that has given the number, see [`crate::Registry::incarnation`].
    pub incarnation: Option<Uuid>,
}

impl Cursor {
    /// The same as a place to follow the stream from. `wakeup` is that of a follower that begins now.
    #[must_use]
    pub const fn position(self, wakeup: u64) -> Position {
        Position { seq: self.seq, wakeup, seen: self.seq, incarnation: self.incarnation }
    }
}

impl From<Position> for Cursor {
    fn from(position: Position) -> Self {
        Self { seq: position.seq, incarnation: position.incarnation }
    }
}

/// The outcome of asking for a delivery, see [`crate::Registry::delivery`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// Whether it is the caller's now.
    pub mine: bool,
    /// Where it stands; `None` when it was never begun.
    pub cursor: Option<Cursor>,
    /// The present, by the registry's clock.
    pub now: Timestamp,
}
