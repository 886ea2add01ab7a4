//! One API key: its line in the file, and its credential.
//!
//! A credential is `hatchery_<id>_<secret>`. The file holds the SHA-256 of the secret. For 32 random bytes a fast hash is
//! as good as a slow one, since there is no guessing, and a check costs nothing.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use model::text::is_deceptive;
use model::{Owner, Timestamp};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;

use crate::caller::{Caller, CallerLimits, DenialReason, Denied};
use crate::scope::Scopes;

/// The prefix of every credential, by which scanners for leaked secrets find them.
pub(crate) const PREFIX: &str = "hatchery_";
/// What the owners of keys begin with; the id follows.
pub(crate) const OWNER_PREFIX: &str = "key:";
/// Length of an id, in characters.
const ID: usize = 12;
/// Length of a secret, in characters: 32 bytes in base64url without padding.
const SECRET: usize = 43;
/// The characters of ids.
const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
/// The longest name, in characters.
const MAX_NAME: usize = 100;

/// A key as it stands in the file: JSON with these fields in camel case.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKey {
    /// The key's id, which is no secret.
    pub id: KeyId,
    /// The holder's name, for people.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "name")]
    pub name: Option<String>,
    /// The SHA-256 of the secret.
    pub sha256: Hash,
    /// What the holder may do.
    pub scopes: Scopes,
    /// The most spawns that the holder may start in a minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawns_per_minute: Option<NonZeroU32>,
    /// The most spawns that the holder may have at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent_spawns: Option<NonZeroU32>,
    /// When the key was generated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// From this moment on the key is refused; never when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// The settings of a key that is generated. The fields mean the same as those of [`ApiKey`].
#[derive(Debug, Clone, Default)]
pub struct NewKey {
    /// Name of the holder, for people; shown in lists of keys and never used for rights.
    pub name: Option<String>,
    /// What the holder may do.
    pub scopes: Scopes,
    /// The most spawns that the holder may start in a minute.
    pub spawns_per_minute: Option<NonZeroU32>,
    /// The most spawns that the holder may have at once.
    pub concurrent_spawns: Option<NonZeroU32>,
    /// From this moment on the key is refused.
    pub expires_at: Option<Timestamp>,
}

/// The system's random number generator failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoRandomness;

impl ApiKey {
    /// Generates a key and its credential. The key has only the hash: show the credential once, since it cannot be recovered.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn generate(new: NewKey) -> Result<(Self, Credential), NoRandomness> {
        let id = KeyId::random()?;
        let mut secret = [0; 32];
        SystemRandom::new().fill(&mut secret).map_err(|_| NoRandomness)?;
        let secret = URL_SAFE_NO_PAD.encode(secret);
        let credential = Credential(format!("{PREFIX}{id}_{secret}"));
        let key = Self {
            id,
            name: new.name,
            sha256: Hash::of(&secret),
            scopes: new.scopes,
            spawns_per_minute: new.spawns_per_minute,
            concurrent_spawns: new.concurrent_spawns,
            created_at: Some(Timestamp::now()),
            expires_at: new.expires_at,
        };
        Ok((key, credential))
    }

    /// The key's line in the file, without a line end.
    #[must_use]
    pub fn line(&self) -> String {
        // Plain data with string keys always has a JSON form.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The owner of what the holder spawns.
    pub(crate) fn owner(&self) -> Option<Owner> {
        self.id.owner()
    }

    /// The caller that shows this key; `defaults` are the limits where the key has none.
    pub(crate) fn caller(&self, defaults: CallerLimits) -> Option<Caller> {
        Some(Caller {
            owner: self.owner()?,
            scopes: self.scopes,
            limits: CallerLimits {
                per_minute: self.spawns_per_minute.or(defaults.per_minute),
                concurrent: self.concurrent_spawns.or(defaults.concurrent),
            },
            expires: self.expires_at,
        })
    }
}

/// Judges a credential that has the prefix of API keys. An unknown id takes as long as a known one, so timing shows nothing.
pub(crate) fn check<'k>(
    credential: &str,
    find: impl FnOnce(&str) -> Option<&'k ApiKey>,
    defaults: CallerLimits,
    now: Timestamp,
) -> Result<Caller, Denied> {
    let (id, secret) = parts(credential).ok_or_else(Denied::malformed)?;
    let denied = |reason| Denied { reason, key: Some(id.to_owned()) };
    let found = find(id);
    let wanted = found.map_or(Hash([0; 32]), |key| key.sha256);
    let right = bool::from(wanted.0.ct_eq(&Hash::of(secret).0));
    let key = found.ok_or_else(|| denied(DenialReason::UnknownKey))?;
    if !right {
        return Err(denied(DenialReason::WrongSecret));
    }
    if key.expires_at.is_some_and(|end| end <= now) {
        return Err(denied(DenialReason::Expired));
    }
    key.caller(defaults).ok_or_else(|| denied(DenialReason::Malformed))
}

/// The id and the secret of a credential.
fn parts(credential: &str) -> Option<(&str, &str)> {
    // Secrets may contain the separator, ids may not.
    let (id, secret) = credential.strip_prefix(PREFIX)?.split_once('_')?;
    let url_safe = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    (check_id(id).is_ok() && secret.len() == SECRET && secret.bytes().all(url_safe)).then_some((id, secret))
}

fn check_id(text: &str) -> Result<(), String> {
    if text.len() == ID && text.bytes().all(|byte| ALPHABET.contains(&byte)) {
        return Ok(());
    }
    Err(format!("must be {ID} of a-z and 0-9"))
}

fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let name = Option::<String>::deserialize(deserializer)?;
    name.as_deref().map_or(Ok(()), check_name).map_err(D::Error::custom)?;
    Ok(name)
}

/// Checks a holder's name: 1 to 100 characters, none of them deceptive.
///
/// # Errors
/// The rule that the name breaks.
pub fn check_name(name: &str) -> Result<(), String> {
    match name.chars().count() {
        1..=MAX_NAME if name.chars().any(is_deceptive) => Err("must not have control characters".to_owned()),
        1..=MAX_NAME => Ok(()),
        length => Err(format!("must have 1 to {MAX_NAME} characters, not {length}")),
    }
}

/// The id of a key: 12 of `a-z` and `0-9`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl KeyId {
    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The owner of what the holder of the key spawns.
    #[must_use]
    pub fn owner(&self) -> Option<Owner> {
        format!("{OWNER_PREFIX}{self}").parse().ok()
    }

    fn random() -> Result<Self, NoRandomness> {
        let mut id = String::with_capacity(ID);
        while id.len() < ID {
            let mut byte = [0];
            SystemRandom::new().fill(&mut byte).map_err(|_| NoRandomness)?;
            // 252 is the largest multiple of 36: beyond it some letters would come more often than others.
            if let Some(letter) =
                ALPHABET.get(usize::from(byte[0]) % ALPHABET.len()).filter(|_| byte[0] < 252)
            {
                id.push(char::from(*letter));
            }
        }
        Ok(Self(id))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        check_id(&text).map(|()| Self(text))
    }
}

impl std::str::FromStr for KeyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::try_from(text.to_owned())
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Hash([u8; 32]);

impl Hash {
    fn of(secret: &str) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        Self(hash)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hash(…)")
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let wrong = || D::Error::custom("must be 64 hexadecimal digits");
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut hash = [0; 32];
        for (at, byte) in hash.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

/// The credential of a key: what its holder sends. `Debug` hides it.
pub struct Credential(String);

impl Credential {
    /// The credential as text. Do not log it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credential(…)")
    }
}

#[cfg(test)]
#[path = "api_key_tests.rs"]
mod tests;
