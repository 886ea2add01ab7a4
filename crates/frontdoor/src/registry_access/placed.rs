//! The outcome of looking for a slot, whether the registry was asked or the snapshot.

use registry::{Reservation, Reserved};

/// What there is for one demand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Placed<S> {
    /// A slot on a node.
    Slot(S),
    /// Every node that offers what was asked for is full, or was excluded.
    Full,
    /// No node offers what was asked for; `known`: some would if they were up and eligible.
    NoMatch { known: bool },
    /// The owner has as many spawns as it may have.
    OverQuota,
}

impl<S> Placed<S> {
    /// The word in traces.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Slot(_) => "slot",
            Self::Full => "full",
            Self::NoMatch { .. } => "no-match",
            Self::OverQuota => "over-quota",
        }
    }

    pub(crate) fn map<T>(self, slot: impl FnOnce(S) -> T) -> Placed<T> {
        match self {
            Self::Slot(found) => Placed::Slot(slot(found)),
            Self::Full => Placed::Full,
            Self::NoMatch { known } => Placed::NoMatch { known },
            Self::OverQuota => Placed::OverQuota,
        }
    }
}

impl From<Reserved> for Placed<Reservation> {
    fn from(reserved: Reserved) -> Self {
        match reserved {
            Reserved::Slot(slot) => Self::Slot(slot),
            Reserved::Full => Self::Full,
            Reserved::NoMatch { known, .. } => Self::NoMatch { known },
            Reserved::OverQuota => Self::OverQuota,
        }
    }
}
