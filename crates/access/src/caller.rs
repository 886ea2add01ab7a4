//! What a credential comes to.

use std::fmt;
use std::num::NonZeroU32;

use model::{Owner, Timestamp};

use crate::scope::Scopes;

/// Whoever showed a credential that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// What it has spawned belongs to this name.
    pub owner: Owner,
    /// What it may do.
    pub scopes: Scopes,
    /// How much of it.
    pub limits: Limits,
    /// From then on its credential is good no more.
    pub expires: Option<Timestamp>,
}

/// How much a caller may spawn; without a number, as much as there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// Most spawns started in a minute.
    pub per_minute: Option<NonZeroU32>,
    /// Most spawns at once.
    pub concurrent: Option<NonZeroU32>,
}

/// A credential that is not good. What it says is for logs and figures; callers are told less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Why.
    pub reason: Reason,
    /// The id of the API key that was shown, or the `kid` of the token, where there is one.
    pub key: Option<String>,
}

/// Why a credential is not good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There was none.
    Missing,
    /// It is neither an API key nor a token, or a token that cannot be read.
    Malformed,
    /// No key of that id, or none that could have signed the token.
    UnknownKey,
    /// The id is that of a key, the secret is not.
    WrongSecret,
    /// The token's signature is wrong.
    WrongSignature,
    /// It was good once.
    Expired,
    /// The token is good later.
    NotYetValid,
    /// The token is of another issuer.
    WrongIssuer,
    /// The token is for somebody else.
    WrongAudience,
    /// The token lacks something, or says something that makes no sense.
    WrongClaims,
}

impl Reason {
    /// The reason as text.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Malformed => "malformed",
            Self::UnknownKey => "unknown-key",
            Self::WrongSecret => "wrong-secret",
            Self::WrongSignature => "wrong-signature",
            Self::Expired => "expired",
            Self::NotYetValid => "not-yet-valid",
            Self::WrongIssuer => "wrong-issuer",
            Self::WrongAudience => "wrong-audience",
            Self::WrongClaims => "wrong-claims",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Denied {
    /// There was no credential.
    #[must_use]
    pub const fn missing() -> Self {
        Self { reason: Reason::Missing, key: None }
    }

    pub(crate) const fn malformed() -> Self {
        Self { reason: Reason::Malformed, key: None }
    }
}
