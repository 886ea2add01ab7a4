//! Identifiers and names: one type each, with one parser, so that no two kinds can be mixed up.
//!
//! A value of these types has passed its check, however it arrived: by `parse`, from JSON, from the command line. Random
//! ids are minted as UUIDs of version 7 (RFC 9562), so they sort by the time of their minting.
//!
//! ```
//! use model::{NameError, NodeId, SpawnId};
//!
//! let node: NodeId = "node-a".parse()?;
//! assert_eq!(node.as_str(), "node-a");
//! assert_eq!("".parse::<NodeId>(), Err(NameError::Empty));
//! assert!("a/b".parse::<NodeId>().is_err(), "names stand in paths and URLs");
//!
//! let spawn = SpawnId::mint();
//! assert_eq!(spawn.to_string().parse(), Ok(spawn));
//! # Ok::<(), NameError>(())
//! ```

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a name or an id was refused. The text is the end of a sentence that begins with what was named.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name has no characters.
    #[error("must not be empty")]
    Empty,
    /// The name is longer than its kind allows.
    #[error("must be at most {max} characters, not {len}")]
    TooLong {
        /// Most characters that a name of its kind may have.
        max: usize,
        /// Characters of the name that was given.
        len: usize,
    },
    /// The name holds a character outside its alphabet.
    #[error("must be made of {allowed}, not {found:?}")]
    BadCharacter {
        /// The alphabet in words.
        allowed: &'static str,
        /// The first character that is not of the alphabet.
        found: char,
    },
    /// It means a directory, and names stand in paths of files and URLs.
    #[error("must not be {0:?}, which means a directory")]
    Directory(String),
    /// The text is no UUID.
    #[error("must be a UUID")]
    NotUuid,
}

fn check(name: &str, max: usize, allowed: &'static str, ok: fn(char) -> bool) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if let Some(found) = name.chars().find(|c| !ok(*c)) {
        return Err(NameError::BadCharacter { allowed, found });
    }
    if name.len() > max {
        return Err(NameError::TooLong { max, len: name.len() });
    }
    Ok(())
}

/// Checks a name that an operator gives to a node, a pool or a label: 1 to 63 of `A-Z a-z 0-9 . _ -`.
///
/// # Errors
/// The rule that the name breaks.
pub fn check_name(name: &str) -> Result<(), NameError> {
    check(name, 63, "letters, digits, '.', '_' and '-'", |c| {
        c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
    })
}

/// Checks a node's name: [`check_name`], and it names no directory.
fn check_node(name: &str) -> Result<(), NameError> {
    match name {
        "." | ".." => Err(NameError::Directory(name.to_owned())),
        _ => check_name(name),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                $check(s)?;
                Ok(Self(s.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(s: String) -> Result<Self, NameError> {
                $check(&s)?;
                Ok(Self(s))
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name!(
    /// The operator's name of a node: 1 to 63 of `A-Z a-z 0-9 . _ -`, but not `.` or `..`.
    NodeId,
    check_node
);

fn check_request_id(s: &str) -> Result<(), NameError> {
    check(s, 128, "visible ASCII characters other than quotes and backslash", |c| {
        c.is_ascii_graphic() && !matches!(c, '"' | '\'' | '\\')
    })
}

name!(
    /// Ties one HTTP request to its log lines in every process: 1 to 128 visible ASCII characters without quotes and
    /// backslash, so that it cannot break a log line.
    RequestId,
    check_request_id
);

fn check_owner(s: &str) -> Result<(), NameError> {
    check(s, 255, "visible ASCII characters", |c| c.is_ascii_graphic())
}

name!(
    /// The caller that a spawn belongs to, where callers are authenticated: 1 to 255 visible ASCII characters, `key:` and
    /// the id of an API key or `jwt:` and the subject of a token.
    Owner,
    check_owner
);

impl RequestId {
    /// Mints a new id, for a request that came without a usable one.
    #[must_use]
    pub fn mint() -> Self {
        Self(Uuid::now_v7().to_string())
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Mints a new one; later ones of the same process sort after earlier ones.
            #[must_use]
            pub fn mint() -> Self {
                Self(Uuid::now_v7())
            }

            /// The UUID behind it.
            #[must_use]
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(s: &str) -> Result<Self, NameError> {
                Uuid::try_parse(s).map(Self).map_err(|_| NameError::NotUuid)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }
    };
}

uuid_id!(
    /// One spawn, and the reservation it starts as: each attempt to start a process mints its own.
    SpawnId
);
uuid_id!(
    /// One life of an agent. A restarted agent has a new one.
    AgentEpoch
);
uuid_id!(
    /// One place in the line of requests that wait for capacity.
    TicketId
);

impl From<Uuid> for TicketId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_however_they_arrive() {
        for (text, good) in [
            ("node-a", true),
            ("A.b_c-9", true),
            ("...", true),
            (".", false),
            ("..", false),
            ("", false),
            ("a b", false),
            ("a/b", false),
            ("n\u{e9}", false),
            ("a{b", false),
        ] {
            assert_eq!(text.parse::<NodeId>().is_ok(), good, "{text:?}");
            let json = serde_json::to_string(text).unwrap();
            assert_eq!(serde_json::from_str::<NodeId>(&json).is_ok(), good, "{text:?} as JSON");
        }
        assert!("x".repeat(63).parse::<NodeId>().is_ok());
        assert_eq!("x".repeat(64).parse::<NodeId>(), Err(NameError::TooLong { max: 63, len: 64 }));
    }

    #[test]
    fn a_request_id_that_could_break_a_log_line_is_refused() {
        assert!("req-1:abc/def=".parse::<RequestId>().is_ok());
        for bad in ["", "a b", "a\nb", "a\"b", "\u{1b}[31m"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?}");
        }
        assert!("x".repeat(129).parse::<RequestId>().is_err());
    }

    #[test]
    fn spawn_ids_are_bare_uuids_in_order_of_minting() {
        let (a, b) = (SpawnId::mint(), SpawnId::mint());
        assert!(a < b);
        assert_eq!(a.to_string().len(), 36);
        assert_eq!(a.to_string().parse::<SpawnId>(), Ok(a));
        assert!("nope".parse::<SpawnId>().is_err());
    }
}
