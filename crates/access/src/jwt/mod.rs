//! JSON web tokens: who they speak for, and what they must say.
//!
//! Reading order: `keys` (what they are signed with), `spki` (reading public keys), `provider` (the cryptography), and here what a
//! token must say.

mod keys;
mod provider;
mod spki;

use std::path::Path;
use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{EncodingKey, Header, Validation};
use model::{Owner, Timestamp};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::caller::{Caller, Denied, Limits, Reason};
use crate::scope::{Scope, Scopes};
pub(crate) use keys::{TokenKey, read};

/// Clocks of issuers may be wrong by so much.
const LEEWAY: Duration = Duration::from_secs(30);
/// As much of a key's name as logs need.
const LONGEST_KEY_ID: usize = 100;

/// What a token must say beyond what all must.
#[derive(Debug, Clone, Default)]
pub(crate) struct Demands {
    pub(crate) issuer: Option<String>,
    pub(crate) audience: Option<String>,
}

/// What a token says, as far as it matters here.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: serde_json::Number,
    /// One text (RFC 7519, 4.1.1): a list would let an issuer speak for another one beside itself.
    #[serde(default)]
    #[expect(dead_code, reason = "read for its type; its value is validated by the library")]
    iss: Option<String>,
    /// Whom the token is for, in whatever form.
    #[serde(default)]
    aud: Option<IgnoredAny>,
    #[serde(default)]
    scope: Option<ScopeClaim>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ScopeClaim {
    /// Separated by spaces.
    Text(String),
    List(Vec<String>),
}

impl Claims {
    /// Scopes of other services are of no interest.
    fn scopes(&self) -> Scopes {
        let known = |word: &str| word.parse::<Scope>().ok();
        match &self.scope {
            None => Scopes::default(),
            Some(ScopeClaim::Text(text)) => text.split(' ').filter_map(known).collect(),
            Some(ScopeClaim::List(words)) => words.iter().filter_map(|word| known(word)).collect(),
        }
    }

    /// From then on the token is good no more.
    fn expires(&self) -> Option<Timestamp> {
        let seconds = match self.exp.as_u64() {
            Some(seconds) => Duration::from_secs(seconds),
            None => Duration::try_from_secs_f64(self.exp.as_f64()?.round()).ok()?,
        };
        Some(Timestamp::default().after(seconds).after(LEEWAY))
    }
}

/// Judges a token.
pub(crate) fn check<'k>(
    token: &str,
    keys: impl Iterator<Item = &'k TokenKey>,
    demands: &Demands,
    limits: Limits,
) -> Result<Caller, Denied> {
    provider::install();
    let header = jsonwebtoken::decode_header(token).map_err(|_| Denied::malformed())?;
    let key = header.kid.as_deref().map(|id| id.chars().take(LONGEST_KEY_ID).collect::<String>());
    let denied = |reason| Denied { reason, key: key.clone() };
    // It names what must be understood, and nothing of that kind is.
    if header.crit.is_some() {
        return Err(denied(Reason::Malformed));
    }
    let named = |key: &&TokenKey| match (&key.id, &header.kid) {
        (Some(known), Some(named)) => known == named,
        _ => true,
    };
    let mut reason = Reason::UnknownKey;
    for key in keys.filter(|key| key.algorithm == header.alg).filter(named) {
        match jsonwebtoken::decode::<Claims>(token, &key.key, &validation(key, demands)) {
            Ok(token) if demands.audience.is_none() && token.claims.aud.is_some() => {
                return Err(denied(Reason::WrongAudience));
            }
            Ok(token) => return caller(&token.claims, limits).ok_or_else(|| denied(Reason::WrongClaims)),
            Err(error) => reason = reason_of(error.kind()),
        }
        // Another key may have made it.
        if reason != Reason::WrongSignature {
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
    // A token that names whom it is for is for nobody else (RFC 7519, 4.1.3).
    validation.validate_aud = true;
    if let Some(audience) = &demands.audience {
        validation.set_audience(&[audience]);
        required.push("aud");
    }
    validation.set_required_spec_claims(&required);
    validation
}

fn reason_of(error: &ErrorKind) -> Reason {
    match error {
        ErrorKind::InvalidSignature => Reason::WrongSignature,
        ErrorKind::ExpiredSignature => Reason::Expired,
        ErrorKind::ImmatureSignature => Reason::NotYetValid,
        ErrorKind::InvalidIssuer => Reason::WrongIssuer,
        ErrorKind::InvalidAudience => Reason::WrongAudience,
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Reason::WrongIssuer,
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Reason::WrongAudience,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            Reason::WrongClaims
        }
        _ => Reason::Malformed,
    }
}

fn caller(claims: &Claims, limits: Limits) -> Option<Caller> {
    let owner = format!("jwt:{}", claims.sub).parse::<Owner>().ok().filter(|_| !claims.sub.is_empty())?;
    Some(Caller { owner, scopes: claims.scopes(), limits, expires: Some(claims.expires()?) })
}

/// Why a token is not made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It would speak for nobody.
    #[error("must be 1 to 251 visible ASCII characters")]
    Subject,
    /// There is nothing to sign it with.
    #[error("{0}")]
    Key(String),
}

/// What a new token is to say.
#[derive(Debug, Clone, Serialize)]
pub struct NewToken {
    /// Whom it speaks for.
    pub sub: String,
    /// What its bearer may do, separated by spaces.
    pub scope: String,
    /// Who made it.
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// Whom it is for.
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// When it was made, in seconds since the Unix epoch.
    pub iat: u64,
    /// When it ends, likewise.
    pub exp: u64,
}

impl NewToken {
    /// That somebody may do this from now on, for this long.
    #[must_use]
    pub fn new(subject: &str, scopes: Scopes, lifetime: Duration) -> Self {
        let now = Timestamp::now();
        let seconds = |at: Timestamp| at.millis() / 1000;
        Self {
            sub: subject.to_owned(),
            scope: scopes.to_string(),
            issuer: None,
            audience: None,
            iat: seconds(now),
            exp: seconds(now.after(lifetime)),
        }
    }

    /// Signs it by HS256 with the secret in this file.
    ///
    /// # Errors
    /// The subject can be nobody's name, or the file holds no such secret.
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
mod tests;
