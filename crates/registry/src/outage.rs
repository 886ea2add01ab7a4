//! Why the registry is away: a kind that code decides by, and a text for operators.
//!
//! Invariants: the kind is read from the error where it arises, never from a text. Only the kind leaves the farm, since the
//! text may name addresses.

use std::fmt::{self, Display, Formatter};

/// Why a call found the registry away, and whether the call can have happened.
///
/// Its text is for logs and operators: the server's own words, and addresses. Callers get [`OutageKind::outward`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outage {
    kind: OutageKind,
    delivery: Delivery,
    detail: String,
}

/// What keeps the registry from serving. Of several servers that were tried, the first kind in this order counts: it says most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutageKind {
    /// The server refuses with this code of Redis.
    Refused(&'static str),
    /// Nothing listens at its address.
    ConnectionRefused,
    /// It does not answer in time.
    NoAnswer,
    /// Its certificate was not accepted.
    Certificate,
    /// Anything else: a broken connection, a server that does not have the farm.
    Other,
}

/// How far a call came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delivery {
    /// It was never sent.
    Unsent,
    /// It was sent, and this became of it.
    Sent,
    /// It was sent again after its connection had broken. The first time may have happened.
    SentAgain,
}

/// The codes with which Redis refuses. Each shows an operator what to look for, and nothing about where the server is.
const CODES: [&str; 12] = [
    "NOAUTH",
    "WRONGPASS",
    "NOPERM",
    "NOREPLICAS",
    "READONLY",
    "MISCONF",
    "OOM",
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
];

impl Outage {
    /// Of a call that was sent.
    #[must_use]
    pub fn new(kind: OutageKind, detail: impl Into<String>) -> Self {
        Self { kind, delivery: Delivery::Sent, detail: detail.into() }
    }

    /// Of a call for which there was no connection.
    #[must_use]
    pub(crate) fn unconnected(self) -> Self {
        Self { delivery: Delivery::Unsent, ..self }
    }

    /// Of a call that was not made, because this is known of an earlier one.
    #[must_use]
    pub fn unsent(&self) -> Self {
        Self {
            kind: self.kind,
            delivery: Delivery::Unsent,
            detail: format!("not asked after: {}", self.detail),
        }
    }

    /// Of a call whose connection had broken under it the first time that it was sent.
    #[must_use]
    pub(crate) fn again(self) -> Self {
        let detail = format!("the connection broke under the call; again: {}", self.detail);
        Self { delivery: Delivery::SentAgain, detail, ..self }
    }

    /// What keeps the registry from serving.
    #[must_use]
    pub fn kind(&self) -> OutageKind {
        self.kind
    }

    /// Whether the call certainly changed nothing: the server refused it, or it was never sent.
    #[must_use]
    pub fn changed_nothing(&self) -> bool {
        match self.delivery {
            Delivery::Unsent => true,
            Delivery::Sent => matches!(self.kind, OutageKind::Refused(_) | OutageKind::ConnectionRefused),
            Delivery::SentAgain => false,
        }
    }
}

impl Display for Outage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl OutageKind {
    /// The kind of a refusal with this code; [`OutageKind::Other`] for a code that does not mean one.
    #[must_use]
    pub fn of_code(code: &str) -> Self {
        CODES.into_iter().find(|known| *known == code).map_or(Self::Other, Self::Refused)
    }

    /// The code with which the server refuses the credential, if that is what it does.
    #[must_use]
    pub fn refused_credential(self) -> Option<&'static str> {
        match self {
            Self::Refused(code @ ("NOAUTH" | "WRONGPASS" | "NOPERM")) => Some(code),
            _ => None,
        }
    }

    /// What callers may see of it; `None` when it says nothing that they could use.
    #[must_use]
    pub fn outward(self) -> Option<&'static str> {
        match self {
            Self::Refused(code) => Some(code),
            Self::ConnectionRefused => Some("connection refused"),
            Self::NoAnswer => Some("no answer in time"),
            Self::Certificate => Some("its certificate was not accepted"),
            Self::Other => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_or_never_sent_has_not_happened() {
        let refused = |code| Outage::new(OutageKind::of_code(code), code);
        let gone =
            Outage::new(OutageKind::ConnectionRefused, "10.0.0.5:6379: Connection refused (os error 111)");
        let late = Outage::new(OutageKind::NoAnswer, "timed out");
        for (outage, changed_nothing) in [
            (refused("OOM"), true),
            (refused("READONLY"), true),
            (refused("MOVED"), false),
            (gone.clone(), true),
            (late.clone(), false),
            (Outage::new(OutageKind::Other, "broken pipe"), false),
            (late.clone().unconnected(), true),
            (late.unsent(), true),
            (late.again(), false),
            (refused("OOM").again(), false),
            (gone.clone().again(), false),
            (gone.again().unsent(), true),
        ] {
            assert_eq!(outage.changed_nothing(), changed_nothing, "{outage:?}");
        }
    }

    #[test]
    fn of_several_kinds_a_refusal_says_most() {
        use OutageKind::{Certificate, ConnectionRefused, NoAnswer, Other, Refused};
        let kinds = [Other, Certificate, NoAnswer, ConnectionRefused, Refused("NOAUTH")];
        for pair in kinds.windows(2) {
            assert!(pair[1] < pair[0], "{pair:?}");
        }
    }

    #[test]
    fn each_code_is_a_kind_of_its_own_and_only_three_are_about_the_credential() {
        for code in CODES {
            assert_eq!(OutageKind::of_code(code).outward(), Some(code));
        }
        let credential: Vec<_> =
            CODES.into_iter().filter_map(|code| OutageKind::of_code(code).refused_credential()).collect();
        assert_eq!(credential, ["NOAUTH", "WRONGPASS", "NOPERM"]);
        assert_eq!(OutageKind::of_code("ERR").outward(), None);
    }
}
