//! What can go wrong with the registry itself: [`OpenError`] is a wrong setting, at start; [`RegistryError`] is a call whose outcome
//! is unknown unless it says otherwise. Their texts may name addresses, so callers get `outward` alone.

use std::path::PathBuf;

use crate::outage::{Outage, OutageKind};

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
    #[error("invalid --registry-password-file {}: {why}", file.display())]
    PasswordFile {
        /// Path of that file (`--registry-password-file`).
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The farm's name would not make a key.
    #[error("invalid --farm: it {0}")]
    Farm(#[from] model::NameError),
}

/// Why a call to the registry failed. The call may have happened or not, unless [`RegistryError::is_refusal`] says that it has not.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RegistryError {
    /// Redis cannot be reached, refuses, or did not answer in time. The text may name addresses: callers get [`RegistryError::outward`].
    #[error("the registry cannot be reached: {0}")]
    Away(Outage),
    /// Redis answered something that this version does not understand: a defect, or keys that something else has written.
    #[error("the registry answered something unexpected to {call}: {what}")]
    Unexpected {
        /// The registry's call, as its method is named.
        call: &'static str,
        /// What of the answer is not understood.
        what: String,
    },
}

impl RegistryError {
    /// Of a call that was given up before its answer came.
    #[must_use]
    pub fn late(detail: impl Into<String>) -> Self {
        Self::Away(Outage::new(OutageKind::NoAnswer, detail))
    }

    /// Whether the call certainly changed nothing: the server refused it, or it was never sent. Without that it may have happened.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Away(outage) if outage.changed_nothing())
    }

    /// Whether the server refuses what may grow it, because it is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Away(outage) if outage.kind() == OutageKind::Refused("OOM"))
    }

    /// The text for callers: no addresses, and of the server's own words only the code.
    #[must_use]
    pub fn outward(&self) -> String {
        match self {
            Self::Away(outage) => match outage.kind().outward() {
                Some(why) => format!("the registry cannot be reached: {why}"),
                None => "the registry cannot be reached".to_owned(),
            },
            Self::Unexpected { .. } => "the registry answered something unexpected".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_says_so() {
        for (code, is_full) in [("OOM", true), ("READONLY", false)] {
            let error = RegistryError::Away(Outage::new(OutageKind::of_code(code), "no room"));
            assert_eq!(error.is_full(), is_full, "{code}");
        }
    }

    #[test]
    fn what_leaves_the_farm_names_a_kind_and_no_address() {
        for (kind, said) in [
            (OutageKind::Refused("NOAUTH"), "the registry cannot be reached: NOAUTH"),
            (OutageKind::ConnectionRefused, "the registry cannot be reached: connection refused"),
            (OutageKind::Other, "the registry cannot be reached"),
        ] {
            let error = RegistryError::Away(Outage::new(kind, "redis.farm.internal:6379: 10.0.0.5"));
            assert_eq!(error.outward(), said);
        }
        let unexpected = RegistryError::Unexpected { call: "reserve", what: "10.0.0.5".into() };
        assert!(!unexpected.outward().contains("10.0.0.5") && !unexpected.is_refusal());
    }
}
