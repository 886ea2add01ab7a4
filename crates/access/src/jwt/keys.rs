//! The keys that tokens are signed with, as files hold them: a JWKS (RFC 7517), public keys in PEM, or an HS256 secret.
//!
//! A key is bound to one algorithm when it is read. A token's own header only chooses among keys of that algorithm, so it
//! can never have a public key taken for a secret.

use std::path::Path;
use std::{fmt, fs};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use rustls_pki_types::pem::{PemObject, SectionKind};
use serde::Deserialize;

use super::spki::{self, PublicKey};

/// The shortest secret, in bytes: as long as the output of HS256 (RFC 7518, 3.2).
pub(super) const MIN_SECRET: usize = 32;
/// The fewest different bytes of a secret. Of 32 random bytes some 30 are different, of 32 random hex digits some 14.
const MIN_DIFFERENT: usize = 8;
/// A secret must not repeat itself after fewer bytes than this.
const MIN_UNIT: usize = 16;
/// The shortest RSA key, in bits of its modulus (RFC 7518, 3.3), and the longest that `ring` takes.
const RSA_MODULUS: std::ops::RangeInclusive<usize> = 2048..=8192;
/// The bytes of one coordinate of a point of the curve P-256 (RFC 7518, 6.2.1.2): shorter numbers are padded.
const P256_COORDINATE: usize = 32;
/// The first byte of a point that has both coordinates (SEC 1, 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// The most keys in a file.
const MAX_KEYS: usize = 100;
/// Some editors write it at the start of a file.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// The largest file, in bytes.
const MAX_FILE: u64 = 1024 * 1024;

/// A key to check tokens with.
#[derive(Clone)]
pub(crate) struct TokenKey {
    /// The `kid` in a key set.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("id", &self.id)
            .field("algorithm", &self.algorithm)
            .finish_non_exhaustive()
    }
}

/// Reads a file of keys. The error says what is wrong with it, and nothing of what is in it.
pub(crate) fn read(path: &Path) -> Result<Vec<TokenKey>, String> {
    parse(&bytes(path)?)
}

pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, String> {
    if fs::metadata(path).map_err(|e| e.to_string())?.len() > MAX_FILE {
        return Err("it has more than 1 MiB".to_owned());
    }
    fs::read(path).map_err(|e| e.to_string())
}

pub(super) fn parse(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let text = bytes.trim_ascii_start();
    if text.starts_with(b"{") {
        return key_set(text);
    }
    if contains(bytes, b"-----BEGIN ") {
        return pem(bytes);
    }
    let key = DecodingKey::from_secret(secret(bytes)?);
    Ok(vec![TokenKey { id: None, algorithm: Algorithm::HS256, key }])
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// The secret in a file that holds nothing else; one line end after it does not count. A public key in any form is refused,
/// whatever its length, because it is no secret.
pub(super) fn secret(bytes: &[u8]) -> Result<&[u8], String> {
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    let text = bytes.trim_ascii_start();
    let known = contains(bytes, b"-----BEGIN ") || text.starts_with(b"{") || text.starts_with(b"[");
    let encoded = [STANDARD.decode(secret), URL_SAFE_NO_PAD.decode(secret)].into_iter().flatten();
    let der = spki::is_der(secret) || encoded.into_iter().any(|bytes| spki::is_der(&bytes));
    if known || der || secret.starts_with(b"ssh-") {
        return Err("it is a key of another kind, not a secret".to_owned());
    }
    if contains(secret, b"://") {
        return Err("it is an address, not a secret; have the file itself there".to_owned());
    }
    if secret.is_ascii() && contains(secret, b"\n") {
        return Err("a secret that is text is one line".to_owned());
    }
    if secret.len() < MIN_SECRET {
        return Err(format!(
            "an HS256 secret must have at least {MIN_SECRET} bytes, not {}; `openssl rand -hex 32` makes one",
            secret.len()
        ));
    }
    strong(secret)?;
    Ok(secret)
}

/// Refuses a secret that is not random: few different bytes, or a short part that repeats.
fn strong(secret: &[u8]) -> Result<(), String> {
    let different = secret.iter().collect::<std::collections::HashSet<_>>().len();
    let repeats = |unit: usize| secret.iter().zip(&secret[unit..]).all(|(a, b)| a == b);
    if different < MIN_DIFFERENT || (1..MIN_UNIT).any(repeats) {
        return Err("an HS256 secret that can be guessed; `openssl rand -hex 32` makes a good one".to_owned());
    }
    Ok(())
}

/// A set of keys (RFC 7517).
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Jwk>,
}

/// A key of a set; other members are ignored.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    #[serde(default)]
    d: Option<serde::de::IgnoredAny>,
}

/// Reads a key set. Keys of other kinds and for other uses are skipped, because issuers publish them all in one set.
fn key_set(text: &[u8]) -> Result<Vec<TokenKey>, String> {
    // The text of serde's error may quote the file, so only its place is used.
    let set: KeySet = serde_json::from_slice(text)
        .map_err(|e| format!("it is no JSON Web Key Set (line {}, column {})", e.line(), e.column()))?;
    if set.keys.len() > MAX_KEYS {
        return Err(format!("it has more than {MAX_KEYS} keys"));
    }
    let mut keys = Vec::new();
    for (at, jwk) in set.keys.iter().enumerate() {
        let key = jwk.understood().map_err(|why| format!("key {} of the set: {why}", at + 1))?;
        keys.extend(key.map(|(algorithm, key)| TokenKey { id: jwk.kid.clone(), algorithm, key }));
    }
    if keys.is_empty() {
        return Err("no key of the set is for RS256, ES256 (P-256), EdDSA (Ed25519) or HS256".to_owned());
    }
    Ok(keys)
}

impl Jwk {
    fn understood(&self) -> Result<Option<(Algorithm, DecodingKey)>, String> {
        let is = |wanted: &str| self.alg.as_deref().is_none_or(|alg| alg == wanted);
        if self.r#use.as_deref().is_some_and(|r#use| r#use != "sig") {
            return Ok(None);
        }
        let algorithm = match self.kty.as_str() {
            "RSA" if is("RS256") => Algorithm::RS256,
            "EC" if is("ES256") && self.crv.as_deref() == Some("P-256") => Algorithm::ES256,
            "OKP" if is("EdDSA") && self.crv.as_deref() == Some("Ed25519") => Algorithm::EdDSA,
            "oct" if is("HS256") => Algorithm::HS256,
            _ => return Ok(None),
        };
        if self.d.is_some() {
            return Err("it has its private part (d), which belongs to the issuer alone".to_owned());
        }
        let key = match algorithm {
            Algorithm::RS256 => rsa(&member("n", self.n.as_deref())?, &member("e", self.e.as_deref())?)?,
            Algorithm::ES256 => {
                let mut point = vec![UNCOMPRESSED];
                for (name, text) in [("x", &self.x), ("y", &self.y)] {
                    let coordinate = member(name, text.as_deref())?;
                    if coordinate.len() != P256_COORDINATE {
                        return Err(format!(
                            "{name}: must have {P256_COORDINATE} bytes, not {}",
                            coordinate.len()
                        ));
                    }
                    point.extend(coordinate);
                }
                p256(&point)?
            }
            Algorithm::EdDSA => ed25519(&member("x", self.x.as_deref())?)?,
            _ => {
                let secret = member("k", self.k.as_deref())?;
                if secret.len() < MIN_SECRET {
                    return Err(format!("k: must have at least {MIN_SECRET} bytes, not {}", secret.len()));
                }
                strong(&secret).map_err(|why| format!("k: {why}"))?;
                DecodingKey::from_secret(&secret)
            }
        };
        Ok(Some((algorithm, key)))
    }
}

fn member(name: &str, text: Option<&str>) -> Result<Vec<u8>, String> {
    let text = text.ok_or_else(|| format!("{name} is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{name}: must be base64url"))
}

fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, String> {
    let (n, e) = (spki::without_zeros(n), spki::without_zeros(e));
    let bits = n.first().map_or(0, |first| n.len() * 8 - first.leading_zeros() as usize);
    if !RSA_MODULUS.contains(&bits) {
        return Err(format!("an RSA key must have 2048 to 8192 bits, not {bits}"));
    }
    // With exponent 1 every text is its own signature. No valid exponent is even.
    if matches!(e, [] | [0..=2]) || e.last().is_some_and(|last| last % 2 == 0) {
        return Err("the exponent of an RSA key must be odd and 3 or more; 65537 is the usual one".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(n, e))
}

/// A point with both coordinates. `ring` checks that it is on the curve whenever it verifies a signature.
fn p256(point: &[u8]) -> Result<DecodingKey, String> {
    if point.len() != 1 + 2 * P256_COORDINATE || point.first() != Some(&UNCOMPRESSED) {
        return Err("a key for ES256 must be an uncompressed point (65 bytes); `openssl pkey -pubin -in FILE -pubout \
                    -ec_conv_form uncompressed` makes it one"
            .to_owned());
    }
    Ok(DecodingKey::from_ec_der(point))
}

fn ed25519(point: &[u8]) -> Result<DecodingKey, String> {
    if point.len() != 32 {
        return Err(format!("an Ed25519 key must have 32 bytes, not {}", point.len()));
    }
    Ok(DecodingKey::from_ed_der(point))
}

/// Reads public keys in PEM. A private key, a certificate or another section is refused rather than skipped: it is in the
/// wrong file.
fn pem(bytes: &[u8]) -> Result<Vec<TokenKey>, String> {
    let mut keys = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_| "it is no valid PEM".to_owned())?;
        let key = match kind {
            SectionKind::PublicKey => spki::parse(&der),
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                return Err(
                    "it is a private key; give the public one: openssl pkey -in FILE -pubout".to_owned()
                );
            }
            SectionKind::Certificate => {
                return Err(
                    "it is a certificate; give its key: openssl x509 -in FILE -noout -pubkey".to_owned()
                );
            }
            _ => return Err("it is no public key (-----BEGIN PUBLIC KEY-----)".to_owned()),
        };
        let (algorithm, key) = match key {
            Some(PublicKey::Rsa { n, e }) => (Algorithm::RS256, rsa(n, e)?),
            Some(PublicKey::P256(point)) => (Algorithm::ES256, p256(point)?),
            Some(PublicKey::Ed25519(point)) => (Algorithm::EdDSA, ed25519(point)?),
            Some(PublicKey::Other) => {
                return Err("it is a public key of another kind than RSA, P-256 and Ed25519".to_owned());
            }
            None => return Err("its public key is damaged".to_owned()),
        };
        keys.push(TokenKey { id: None, algorithm, key });
    }
    match keys.len() {
        0 => Err("it has no public key (-----BEGIN PUBLIC KEY-----)".to_owned()),
        count if count > MAX_KEYS => Err(format!("it has more than {MAX_KEYS} keys")),
        _ => Ok(keys),
    }
}
