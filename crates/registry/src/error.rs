//! What can go wrong with the registry itself.

use std::path::PathBuf;

/// Why a registry could not be opened: always a wrong setting, never an absent server.
///
/// The texts name the flag, for the command line.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The URL is not one this build understands.
    #[error(
        "invalid --registry: expected `embedded`, redis://[user:password@]host[:port][/db] (rediss:// with TLS), \
         redis-sentinel://host[:port],…/master-name or redis-cluster://host[:port],…, got {url:?}: {why}"
    )]
    Url {
        /// What was given, without its password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// The file with the password cannot be used.
    #[error("--registry-password-file {}: {why}", file.display())]
    PasswordFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The farm's name would not make a key.
    #[error("--farm {0}")]
    Farm(#[from] model::NameError),
}

/// Why a call to the registry failed. The call may have happened or not, unless [`RegistryError::is_refusal`] says that it has not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// Redis cannot be reached, refuses, or did not answer in time. The text is the server's own, and may name addresses:
    /// callers get [`RegistryError::outward`].
    #[error("the registry cannot be reached: {0}")]
    Away(String),
    /// Redis answered something that this version does not understand: a defect, or keys that something else has written.
    #[error("the registry answered something unexpected to {call}: {what}")]
    Unexpected {
        /// The call.
        call: &'static str,
        /// What is wrong.
        what: String,
    },
}

impl RegistryError {
    /// Of a call that was not made, because the one before failed for this reason.
    #[must_use]
    pub fn unsent(why: &str) -> Self {
        Self::Away(format!("{UNSENT}{why}"))
    }

    /// Whether the call certainly changed nothing: the server refused it, or it was never sent. Without that it may have happened.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Away(why) if why.starts_with(CUT) => false,
            Self::Away(why) if why == UNCONNECTED || why.starts_with(UNSENT) => true,
            Self::Away(why) => {
                outward(why).is_some_and(|word| CODES.contains(&word) || word == "connection refused")
            }
            Self::Unexpected { .. } => false,
        }
    }

    /// Whether the server refuses what may grow it, because it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Away(why) if outward(why) == Some("OOM"))
    }

    /// The text for callers: no addresses, and of the server's own words only the code.
    #[must_use]
    pub fn outward(&self) -> String {
        match self {
            Self::Away(why) => match outward(why) {
                Some(why) => format!("the registry cannot be reached: {why}"),
                None => "the registry cannot be reached".to_owned(),
            },
            Self::Unexpected { .. } => "the registry answered something unexpected".to_owned(),
        }
    }
}

/// Before the error of a call that was sent again: the first time, its connection broke before the answer.
pub(crate) const CUT: &str = "the connection broke under the call; again: ";
/// Before the reason for which a call was not made.
const UNSENT: &str = "not asked after: ";
/// No connection was there in time for the call.
pub(crate) const UNCONNECTED: &str = "not connected in time";

/// The codes with which Redis refuses. Each tells an operator what to look for, and nothing about where the server is.
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

/// The part of a failure's text that callers may see: a code of Redis or the kind of failure; `None` when it shows neither.
#[must_use]
pub fn outward(why: &str) -> Option<&'static str> {
    let mut words = why.split(|c: char| !c.is_ascii_alphabetic());
    let code = words.find_map(|word| CODES.into_iter().find(|code| *code == word));
    let said = why.to_ascii_lowercase();
    let kinds = [
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("in time", "no answer in time"),
        ("within", "no answer in time"),
        ("certificate", "its certificate was not accepted"),
    ];
    code.or_else(|| kinds.into_iter().find(|(word, _)| said.contains(word)).map(|(_, kind)| kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_says_so() {
        for (why, is_full) in
            [("OOM command not allowed when used memory > 'maxmemory'.", true), ("READONLY no room", false)]
        {
            assert_eq!(RegistryError::Away(why.to_owned()).is_full(), is_full, "{why}");
        }
    }

    #[test]
    fn what_was_refused_or_never_sent_has_not_happened() {
        for (why, is_refusal) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", true),
            ("READONLY You can't write against a read only replica.", true),
            ("Connection refused (os error 111)", true),
            (UNCONNECTED, true),
            (&format!("{UNSENT}timed out"), true),
            ("timed out", false),
            ("broken pipe", false),
            (&format!("{CUT}Connection refused (os error 111)"), false),
        ] {
            assert_eq!(RegistryError::Away(why.to_owned()).is_refusal(), is_refusal, "{why}");
        }
        assert!(!RegistryError::Unexpected { call: "forget", what: "READONLY".into() }.is_refusal());
    }

    #[test]
    fn what_leaves_the_farm_names_a_kind_and_no_address() {
        for (why, told) in [
            ("10.0.0.5:6379: Connection refused (os error 111)", Some("connection refused")),
            ("redis.farm.internal:6379: NOAUTH Authentication required.", Some("NOAUTH")),
            ("s1:26379: no answer in time; s2:26379: WRONGPASS invalid", Some("WRONGPASS")),
            ("READONLY You can't write against a read only replica.", Some("READONLY")),
            (
                "invalid peer certificate: certificate not valid for name \"redis.internal\"",
                Some("its certificate was not accepted"),
            ),
            ("MOVED 3999 10.0.0.9:6381", None),
            ("lost again", None),
        ] {
            assert_eq!(outward(why), told, "{why}");
            let said = RegistryError::Away(why.to_owned()).outward();
            assert!(!said.contains("10.0.0") && !said.contains("internal") && !said.contains("s1"), "{said}");
        }
        let unexpected = RegistryError::Unexpected { call: "reserve", what: "10.0.0.5".into() };
        assert!(!unexpected.outward().contains("10.0.0.5"));
    }
}
