//! The verdict on a credential: a caller with its owner, scopes, limits and end, or why it was denied. Plain data: nothing here
//! refers to a request. The reason of a denial is for logs and metrics; callers learn less.

use std::fmt;
use std::num::NonZeroU32;

use model::{Owner, Timestamp};

use crate::scope::Scopes;

/// A caller whose credential is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The owner of what it spawns.
    pub owner: Owner,
    /// What it may do.
    pub scopes: Scopes,
    /// How much it may spawn.
    pub limits: CallerLimits,
    /// When its credential expires; never when absent.
    pub expires: Option<Timestamp>,
}

/// How much a caller may spawn; absent limits do not apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallerLimits {
    /// Most spawns started in a minute.
    pub per_minute: Option<NonZeroU32>,
    /// Most spawns at once.
    pub concurrent: Option<NonZeroU32>,
}

/// A credential that was refused. For logs and metrics; callers get less.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// Why it was refused.
    pub reason: DenialReason,
    /// The id of the API key that was shown, or the `kid` of the token, where there is one.
    pub key: Option<String>,
}

/// Why a credential was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DenialReason {
    /// The request has no credential.
    Missing,
    /// It is neither an API key nor a token that can be parsed, or is too long.
    Malformed,
    /// There is no key with that id, or no key that could have signed the token.
    UnknownKey,
    /// There is a key with that id, and its secret is another one.
    WrongSecret,
    /// No known key has made the token's signature.
    WrongSignature,
    /// It has expired (`exp`).
    Expired,
    /// The token is not valid yet (`nbf`).
    NotYetValid,
    /// The token names another issuer than the expected one (`iss`).
    WrongIssuer,
    /// The token is for another audience (`aud`).
    WrongAudience,
    /// The token lacks a claim, or a claim has the wrong type.
    WrongClaims,
}

impl DenialReason {
    /// Every reason, for metrics that begin with 0.
    pub const ALL: [Self; 10] = [
        Self::Missing,
        Self::Malformed,
        Self::UnknownKey,
        Self::WrongSecret,
        Self::WrongSignature,
        Self::Expired,
        Self::NotYetValid,
        Self::WrongIssuer,
        Self::WrongAudience,
        Self::WrongClaims,
    ];

    /// The reason as text, as logs and metrics have it.
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

impl fmt::Display for DenialReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Denied {
    /// The verdict on a request without a credential.
    #[must_use]
    pub const fn missing() -> Self {
        Self { reason: DenialReason::Missing, key: None }
    }

    pub(crate) const fn malformed() -> Self {
        Self { reason: DenialReason::Malformed, key: None }
    }
}
