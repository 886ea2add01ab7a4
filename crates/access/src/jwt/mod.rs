//! JSON web tokens (RFC 7519): which claims a token must have, and the caller that it stands for.
//!
//! Reading order: `keys` (the keys of files), `spki` (parsing public keys), `provider` (the cryptography), then the claims,
//! here.
//!
//! A token must have `exp` and `sub`. `iss` must match `--jwt-issuer`, `aud` must match `--jwt-audience`; without that
//! flag, a token that names an audience is refused. `scope`, and `scp` (Entra ID, Okta), are a text or a list each, in which scopes
//! of other services are ignored. The owner is `jwt:` and the subject; a subject that is not visible ASCII is percent-encoded
//! behind `jwt-encoded:`, so that no two subjects have one owner.

mod keys;
mod provider;
mod spki;

use std::num::NonZeroU32;
use std::path::Path;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{EncodingKey, Header, Validation};
use model::{Owner, Timestamp};
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::caller::{Caller, CallerLimits, DenialReason, Denied};
use crate::scope::{Scope, Scopes};
pub(crate) use keys::{TokenKey, read};

/// The tolerated error of an issuer's clock.
const LEEWAY: Duration = Duration::from_secs(30);
/// The most characters of a `kid` that are kept for logs.
const MAX_KEY_ID: usize = 100;

/// The claims that the operator demands of tokens.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demands {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
}

/// The claims that matter here.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: serde_json::Number,
    /// One text (RFC 7519, 4.1.1): a list would let an issuer speak for another one beside itself.
    #[serde(default)]
    #[expect(dead_code, reason = "read for its type; its value is validated by the library")]
    iss: Option<String>,
    /// The audience, in any form.
    #[serde(default)]
    aud: Option<IgnoredAny>,
    #[serde(default)]
    scope: Option<ScopeClaim>,
    /// The same as `scope`, as some identity providers name it.
    #[serde(default)]
    scp: Option<ScopeClaim>,
    /// Limits of the subject, named as in the file of API keys.
    #[serde(default, rename = "spawnsPerMinute", deserialize_with = "stated")]
    spawns_per_minute: Option<NonZeroU32>,
    #[serde(default, rename = "concurrentSpawns", deserialize_with = "stated")]
    concurrent_spawns: Option<NonZeroU32>,
}

/// A limit that is there: `null` is none, and no number.
fn stated<'de, D: Deserializer<'de>>(claim: D) -> Result<Option<NonZeroU32>, D::Error> {
    NonZeroU32::deserialize(claim).map(Some)
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    /// Separated by spaces.
    Text(String),
    List(Vec<String>),
}

impl ScopeClaim {
    fn words(&self) -> Vec<&str> {
        match self {
            Self::Text(text) => text.split(' ').collect(),
            Self::List(words) => words.iter().map(String::as_str).collect(),
        }
    }
}

impl Claims {
    /// The scopes of this service among those of the token.
    fn scopes(&self) -> Scopes {
        let claims = [&self.scope, &self.scp].into_iter().flatten();
        claims.flat_map(ScopeClaim::words).filter_map(|word| word.parse::<Scope>().ok()).collect()
    }

    /// When the token expires, with [`LEEWAY`].
    fn expires(&self) -> Option<Timestamp> {
        let seconds = match self.exp.as_u64() {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::try_from_secs_f64(self.exp.as_f64()?.round()).ok()?,
        };
        Some(Timestamp::default().after(seconds).after(LEEWAY))
    }
}

/// Judges a token; `limits` are the limits where it states none.
pub(crate) fn check<'k>(
    token: &str,
    keys: impl Iterator<Item = &'k TokenKey>,
    demands: &Demands,
    limits: CallerLimits,
) -> Result<Caller, Denied> {
    provider::install();
    let header = jsonwebtoken::decode_header(token).map_err(|_| Denied::malformed())?;
    let key = header.kid.as_deref().map(|id| id.chars().take(MAX_KEY_ID).collect::<String>());
    let denied = |reason| Denied { reason, key: key.clone() };
    // `crit` names extensions that a verifier must understand (RFC 7515, 4.1.11), and none is known here.
    if header.crit.is_some() {
        return Err(denied(DenialReason::Malformed));
    }
    let named = |key: &&TokenKey| match (&key.id, &header.kid) {
        (Some(known), Some(named)) => known == named,
        _ => true,
    };
    let mut reason = DenialReason::UnknownKey;
    for key in keys.filter(|key| key.algorithm == header.alg).filter(named) {
        match jsonwebtoken::decode::<Claims>(token, &key.key, &validation(key, demands)) {
            Ok(token) if demands.audience.is_none() && token.claims.aud.is_some() => {
                return Err(denied(DenialReason::WrongAudience));
            }
            Ok(token) => {
                return caller(&token.claims, limits).ok_or_else(|| denied(DenialReason::WrongClaims));
            }
            Err(error) => reason = reason_of(error.kind()),
        }
        // A wrong signature may be another key's. Any other error holds for every key.
        if reason != DenialReason::WrongSignature {
            break;
        }
    }
    Err(denied(reason))
}

fn validation(key: &TokenKey, demands: &Demands) -> Validation {
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = LEEWAY.as_secs();
    validation.validate_nbf = true;
    let mut required = vec!["exp", "sub"];
    if let Some(issuer) = &demands.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    // A token that names an audience is for that audience alone (RFC 7519, 4.1.3).
    validation.validate_aud = true;
    if let Some(audience) = &demands.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn reason_of(error: &ErrorKind) -> DenialReason {
    match error {
        ErrorKind::InvalidSignature => DenialReason::WrongSignature,
        ErrorKind::ExpiredSignature => DenialReason::Expired,
        ErrorKind::ImmatureSignature => DenialReason::NotYetValid,
        ErrorKind::InvalidIssuer => DenialReason::WrongIssuer,
        ErrorKind::InvalidAudience => DenialReason::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => DenialReason::WrongIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => DenialReason::WrongAudience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            DenialReason::WrongClaims
        }
        _ => DenialReason::Malformed,
    }
}

fn caller(claims: &Claims, defaults: CallerLimits) -> Option<Caller> {
    let owner = owner(&claims.sub)?;
    let limits = CallerLimits {
        per_minute: claims.spawns_per_minute.or(defaults.per_minute),
        concurrent: claims.concurrent_spawns.or(defaults.concurrent),
    };
    Some(Caller { owner, scopes: claims.scopes(), limits, expires: Some(claims.expires()?) })
}

/// The owner that a subject stands for; `None` for an empty one, one with control characters, and one that is too long.
fn owner(subject: &str) -> Option<Owner> {
    if subject.is_empty() || subject.contains(char::is_control) {
        return None;
    }
    if subject.bytes().all(|byte| byte.is_ascii_graphic()) {
        return format!("jwt:{subject}").parse().ok();
    }
    let mut name = String::from("jwt-encoded:");
    for byte in subject.bytes() {
        match byte {
            b'%' => name.push_str("%25"),
            byte if byte.is_ascii_graphic() => name.push(char::from(byte)),
            byte => name.push_str(&format!("%{byte:02X}")),
        }
    }
    name.parse().ok()
}

/// Why a token could not be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The subject cannot be part of an owner's name.
    #[error("expected 1 to 251 visible ASCII characters")]
    Subject,
    /// The file holds no usable secret; the text says why.
    #[error("{0}")]
    Key(String),
}

/// The claims of a token to be signed, as `hatchery token` makes them.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken {
    /// The claim `sub` (RFC 7519, 4.1.2): the user, to whom the spawns belong.
    pub sub: String,
    /// The scopes, separated by spaces.
    pub scope: String,
    /// The claim `iss` (RFC 7519, 4.1.1), which `--jwt-issuer` of a front door asks for.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The claim `aud` (RFC 7519, 4.1.3), which `--jwt-audience` of a front door asks for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The most spawns that the subject may start in a minute.
    #[serde(rename = "spawnsPerMinute", skip_serializing_if = "Option::is_none")]
    pub spawns_per_minute: Option<NonZeroU32>,
    /// The most spawns that the subject may have at once.
    #[serde(rename = "concurrentSpawns", skip_serializing_if = "Option::is_none")]
    pub concurrent_spawns: Option<NonZeroU32>,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: u64,
    /// When it expires, in seconds since the Unix epoch.
    pub exp: u64,
}

impl NewToken {
    /// Claims for this subject and these scopes, valid from now on for `lifetime`.
    #[must_use]
    pub fn new(subject: &str, scopes: Scopes, lifetime: Duration) -> Self {
        let now = Timestamp::now();
        let seconds = |at: Timestamp| at.millis() / 1000;
        Self {
            sub: subject.to_owned(),
            scope: scopes.to_string(),
            issuer: None,
            audience: None,
            spawns_per_minute: None,
            concurrent_spawns: None,
            iat: seconds(now),
            exp: seconds(now.after(lifetime)),
        }
    }

    /// Signs the claims with the HS256 secret in this file.
    ///
    /// # Errors
    /// The subject is empty, too long or not ASCII, or the file holds no usable secret.
    pub fn sign(&self, key_file: &Path) -> Result<String, SignError> {
        provider::install();
        if format!("jwt:{}", self.sub).parse::<Owner>().is_err() || self.sub.is_empty() {
            return Err(SignError::Subject);
        }
        let bytes = keys::bytes(key_file).map_err(SignError::Key)?;
        let key = EncodingKey::from_secret(keys::secret(&bytes).map_err(SignError::Key)?);
        jsonwebtoken::encode(&Header::default(), self, &key).map_err(|e| SignError::Key(e.to_string()))
    }
}

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
