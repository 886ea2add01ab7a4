//! The public key inside a `SubjectPublicKeyInfo` (RFC 5280), which is what stands between the lines of a PEM `PUBLIC KEY`.

/// `rsaEncryption`, 1.2.840.113549.1.1.1.
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// `id-ecPublicKey`, 1.2.840.10045.2.1.
const ELLIPTIC_CURVE: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// `prime256v1`, 1.2.840.10045.3.1.7: the curve P-256 of RFC 5480.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// `id-Ed25519`, 1.3.101.112.
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OBJECT_IDENTIFIER: u8 = 0x06;
const SEQUENCE: u8 = 0x30;

/// A public key of an X.509 `SubjectPublicKeyInfo` (RFC 5280, 4.1).
#[derive(Debug, PartialEq, Eq)]
pub(super) enum PublicKey<'a> {
    /// Modulus and exponent, without leading zeros.
    Rsa { n: &'a [u8], e: &'a [u8] },
    /// A point of the curve P-256 as SEC 1 writes it.
    P256(&'a [u8]),
    /// The 32 bytes of a point (RFC 8410).
    Ed25519(&'a [u8]),
    /// Of another kind.
    Other,
}

/// Reads it; `None` when it is something else.
pub(super) fn parse(der: &[u8]) -> Option<PublicKey<'_>> {
    let info = whole(der, SEQUENCE)?;
    let (algorithm, rest) = next(info, SEQUENCE)?;
    let key = whole(rest, BIT_STRING)?.strip_prefix(&[0])?;
    let (kind, parameters) = next(algorithm, OBJECT_IDENTIFIER)?;
    if kind == ED25519 {
        return Some(PublicKey::Ed25519(key));
    }
    if kind == ELLIPTIC_CURVE && whole(parameters, OBJECT_IDENTIFIER) == Some(P256) {
        return Some(PublicKey::P256(key));
    }
    if kind != RSA {
        return Some(PublicKey::Other);
    }
    let (n, rest) = next(whole(key, SEQUENCE)?, INTEGER)?;
    let e = whole(rest, INTEGER)?;
    Some(PublicKey::Rsa { n: without_zeros(n), e: without_zeros(e) })
}

/// Whether this is DER of some structure from its first byte to its last.
pub(super) fn is_der(bytes: &[u8]) -> bool {
    whole(bytes, SEQUENCE).is_some()
}

/// Big numbers as `ring` and JWK want them.
pub(super) fn without_zeros(mut number: &[u8]) -> &[u8] {
    while let [0, rest @ ..] = number {
        number = rest;
    }
    number
}

/// The contents of an element of this kind that is all there is.
fn whole(der: &[u8], tag: u8) -> Option<&[u8]> {
    next(der, tag).filter(|(_, rest)| rest.is_empty()).map(|(contents, _)| contents)
}

/// The contents of an element of this kind, and what comes after it.
fn next(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let rest = der.strip_prefix(&[tag])?;
    let (length, rest) = match rest {
        [short @ 0..=0x7f, rest @ ..] => (usize::from(*short), rest),
        [0x81, length, rest @ ..] => (usize::from(*length), rest),
        [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}
