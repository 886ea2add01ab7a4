use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
const RSA_PRIVATE: &[u8] = include_bytes!("../../testdata/rsa.pem");
const RSA_PUBLIC: &[u8] = include_bytes!("../../testdata/rsa.pub.pem");
const RSA_1024: &[u8] = include_bytes!("../../testdata/rsa-1024.pub.pem");

fn encoded(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// A token, put together by hand: the library would not make the bad ones.
fn token(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encoded(header), encoded(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn hs256(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    move |message| hmac::sign(&key, message).as_ref().to_vec()
}

fn rs256(message: &[u8]) -> Vec<u8> {
    let der = PrivateKeyDer::from_pem_slice(RSA_PRIVATE).unwrap();
    let key = RsaKeyPair::from_pkcs8(der.secret_der()).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&signature::RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
    signature
}

/// A key of the curve P-256.
fn p256() -> EcdsaKeyPair {
    let (algorithm, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
}

/// A public key as `openssl` writes it: two object identifiers, and the point.
fn p256_pem(key: &EcdsaKeyPair) -> Vec<u8> {
    let mut der = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
    der.extend_from_slice(key.public_key().as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)).into_bytes()
}

fn edwards() -> Ed25519KeyPair {
    let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
    Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).unwrap()
}

fn spki_pem(key: &Ed25519KeyPair) -> Vec<u8> {
    let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend_from_slice(key.public_key().as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der)).into_bytes()
}

/// A number of so many bits, as a key set has it.
fn modulus(bits: usize) -> String {
    let mut bytes = vec![0xff; bits.div_ceil(8)];
    bytes[0] = 0xff >> (bytes.len() * 8 - bits);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds from now.
fn at(seconds: i64) -> i64 {
    i64::try_from(Timestamp::now().millis() / 1000).unwrap() + seconds
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": at(300), "scope": "spawn openid"})
}

fn judged(token: &str, file: &[u8]) -> Result<Caller, DenialReason> {
    judged_for(token, file, &Demands::default())
}

fn judged_for(token: &str, file: &[u8], demands: &Demands) -> Result<Caller, DenialReason> {
    let keys = keys::parse(file).unwrap();
    check(token, keys.iter(), demands, CallerLimits::default()).map_err(|denied| denied.reason)
}

#[test]
fn a_token_speaks_for_its_subject_whatever_it_is_signed_with() {
    let edwards = edwards();
    let eddsa = |message: &[u8]| edwards.sign(message).as_ref().to_vec();
    let spki = spki_pem(&edwards);
    let curve = p256();
    let es256 = |message: &[u8]| curve.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    let curve_pem = p256_pem(&curve);
    let (x, y) = curve.public_key().as_ref()[1..].split_at(32);
    let set = json!({"keys": [
        {"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA", "kid": "other"},
        {"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "p",
         "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)},
        {"kty": "RSA", "use": "enc", "n": "AQ", "e": "AQ", "kid": "other"},
        {"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": "e",
         "x": URL_SAFE_NO_PAD.encode(edwards.public_key().as_ref())},
        {"kty": "oct", "kid": "h", "k": URL_SAFE_NO_PAD.encode(SECRET)},
    ]});
    let set = set.to_string().into_bytes();
    let by = |alg: &str| json!({"alg": alg, "typ": "JWT"});
    let named = |alg: &str, kid: &str| json!({"alg": alg, "kid": kid});
    for (token, file) in [
        (token(&by("HS256"), &claims(), hs256(SECRET)), SECRET),
        (token(&by("RS256"), &claims(), rs256), RSA_PUBLIC),
        (token(&by("ES256"), &claims(), es256), &curve_pem),
        (token(&named("ES256", "p"), &claims(), es256), &set),
        (token(&by("EdDSA"), &claims(), eddsa), &spki),
        (token(&named("EdDSA", "e"), &claims(), eddsa), &set),
        (token(&named("HS256", "h"), &claims(), hs256(SECRET)), &set),
        (token(&by("HS256"), &claims(), hs256(SECRET)), &set),
    ] {
        let caller = judged(&token, file).unwrap();
        assert_eq!((caller.owner.as_str(), caller.scopes.to_string()), ("jwt:alice", "spawn".to_owned()));
        let expires = caller.expires.unwrap();
        let end = Timestamp::from_millis(u64::try_from(at(330)).unwrap() * 1000);
        assert!(expires.since(end) <= Duration::from_secs(1) && end.since(expires) <= Duration::from_secs(1));
    }
    // The name chooses among the keys of a set.
    assert_eq!(judged(&token(&named("EdDSA", "h"), &claims(), eddsa), &set), Err(DenialReason::UnknownKey));
    assert_eq!(
        judged(&token(&named("HS256", "x"), &claims(), hs256(SECRET)), &set),
        Err(DenialReason::UnknownKey)
    );
}

#[test]
fn a_key_is_taken_for_nothing_but_what_it_is() {
    let edwards = edwards();
    let spki = spki_pem(&edwards);
    let curve = p256();
    let curve_pem = p256_pem(&curve);
    for alg in ["HS256", "HS384", "PS256"] {
        let header = json!({"alg": alg});
        // The public key, as everybody has it, for a secret.
        for (file, known) in [
            (RSA_PUBLIC, RSA_PUBLIC),
            (RSA_PUBLIC, RSA_PUBLIC.trim_ascii_end()),
            (&spki[..], &spki[..]),
            (&spki[..], edwards.public_key().as_ref()),
            (&curve_pem[..], curve.public_key().as_ref()),
        ] {
            let judged = judged(&token(&header, &claims(), hs256(known)), file);
            assert_eq!(judged, Err(DenialReason::UnknownKey), "{alg}");
        }
    }
    for (alg, file) in [("RS256", SECRET), ("EdDSA", SECRET), ("EdDSA", RSA_PUBLIC), ("RS256", &spki)] {
        let forged = token(&json!({"alg": alg}), &claims(), hs256(SECRET));
        assert_eq!(judged(&forged, file), Err(DenialReason::UnknownKey), "{alg}");
    }
    // Nor does a signature count that another key of the curve has made, that is all zeros, or that is cut.
    let es256 = json!({"alg": "ES256"});
    let random = SystemRandom::new();
    let other = |message: &[u8]| p256().sign(&random, message).unwrap().as_ref().to_vec();
    assert_eq!(judged(&token(&es256, &claims(), other), &curve_pem), Err(DenialReason::WrongSignature));
    let zeros = |_: &[u8]| vec![0; 64];
    assert_eq!(judged(&token(&es256, &claims(), zeros), &curve_pem), Err(DenialReason::WrongSignature));
    let short = |message: &[u8]| curve.sign(&random, message).unwrap().as_ref()[..63].to_vec();
    assert_eq!(judged(&token(&es256, &claims(), short), &curve_pem), Err(DenialReason::WrongSignature));
    // A key that comes with the token is nobody's.
    let jwk = json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode("x".repeat(32))});
    let brought = token(&json!({"alg": "HS256", "jwk": jwk}), &claims(), hs256(&[b'x'; 32]));
    assert_eq!(judged(&brought, SECRET), Err(DenialReason::WrongSignature));
}

#[test]
fn a_token_that_is_not_signed_is_none() {
    for alg in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": alg, "typ": "JWT"});
        for signature in ["", "AA"] {
            let unsigned = format!("{}.{}.{signature}", encoded(&header), encoded(&claims()));
            assert_eq!(judged(&unsigned, SECRET), Err(DenialReason::Malformed), "{alg}");
        }
    }
    let header = json!({"alg": "HS256"});
    let unsigned = format!("{}.{}.", encoded(&header), encoded(&claims()));
    assert_eq!(judged(&unsigned, SECRET), Err(DenialReason::WrongSignature));
    let critical = json!({"alg": "HS256", "crit": ["exp"], "exp": 1});
    assert_eq!(judged(&token(&critical, &claims(), hs256(SECRET)), SECRET), Err(DenialReason::Malformed));
}

#[test]
fn what_a_token_says_is_held_against_what_it_must_say() {
    let demands = Demands { issuer: Some("us".to_owned()), audience: Some("hatchery".to_owned()) };
    let with = |changes: Value| {
        let mut claims = json!({"sub": "a", "exp": at(300), "iss": "us", "aud": "hatchery"});
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
            if value == "gone" {
                claims.as_object_mut().unwrap().remove(name);
            }
        }
        claims
    };
    for (changes, wanted) in [
        (json!({}), None),
        (json!({"exp": at(-20)}), None),
        (json!({"exp": at(-60)}), Some(DenialReason::Expired)),
        (json!({"exp": 0}), Some(DenialReason::Expired)),
        (json!({"exp": at(300).to_string()}), Some(DenialReason::WrongClaims)),
        (json!({"exp": null}), Some(DenialReason::WrongClaims)),
        (json!({"exp": -1}), Some(DenialReason::WrongClaims)),
        (json!({"exp": [at(300)]}), Some(DenialReason::WrongClaims)),
        (json!({"exp": true}), Some(DenialReason::WrongClaims)),
        (json!({"exp": "gone"}), Some(DenialReason::WrongClaims)),
        (json!({"exp": 1e300}), Some(DenialReason::WrongClaims)),
        (json!({"exp": u64::MAX}), None),
        (json!({"nbf": at(20)}), None),
        (json!({"nbf": at(60)}), Some(DenialReason::NotYetValid)),
        (json!({"nbf": "now"}), Some(DenialReason::WrongClaims)),
        (json!({"nbf": null}), Some(DenialReason::WrongClaims)),
        (json!({"iss": "them"}), Some(DenialReason::WrongIssuer)),
        (json!({"iss": 7}), Some(DenialReason::WrongClaims)),
        (json!({"iss": ["us"]}), Some(DenialReason::WrongClaims)),
        (json!({"iss": ["them", "us"]}), Some(DenialReason::WrongClaims)),
        (json!({"iss": "gone"}), Some(DenialReason::WrongIssuer)),
        (json!({"aud": "other"}), Some(DenialReason::WrongAudience)),
        (json!({"aud": ["other", "hatchery"]}), None),
        (json!({"aud": []}), Some(DenialReason::WrongAudience)),
        (json!({"aud": {"hatchery": 1}}), Some(DenialReason::WrongAudience)),
        (json!({"aud": "gone"}), Some(DenialReason::WrongAudience)),
        (json!({"sub": "gone"}), Some(DenialReason::WrongClaims)),
        (json!({"sub": ""}), Some(DenialReason::WrongClaims)),
        (json!({"sub": "a b"}), None),
        (json!({"sub": "a\nb"}), Some(DenialReason::WrongClaims)),
        (json!({"sub": "x".repeat(252)}), Some(DenialReason::WrongClaims)),
        (json!({"sub": 7}), Some(DenialReason::WrongClaims)),
        (json!({"scope": 7}), Some(DenialReason::WrongClaims)),
        (json!({"scope": [7]}), Some(DenialReason::WrongClaims)),
        (json!({"scp": 7}), Some(DenialReason::WrongClaims)),
        (json!({"concurrentSpawns": 0}), Some(DenialReason::WrongClaims)),
        (json!({"concurrentSpawns": "5"}), Some(DenialReason::WrongClaims)),
        (json!({"concurrentSpawns": null}), Some(DenialReason::WrongClaims)),
        (json!({"spawnsPerMinute": null}), Some(DenialReason::WrongClaims)),
        (json!({"spawnsPerMinute": -1}), Some(DenialReason::WrongClaims)),
        (json!({"spawnsPerMinute": 4_294_967_296_u64}), Some(DenialReason::WrongClaims)),
    ] {
        let token = token(&json!({"alg": "HS256"}), &with(changes.clone()), hs256(SECRET));
        assert_eq!(judged_for(&token, SECRET, &demands).err(), wanted, "{changes}");
    }
    // Where nothing is demanded, anybody may have made a token; but one for somebody else is for somebody else.
    let made = |claims| token(&json!({"alg": "HS256"}), &with(claims), hs256(SECRET));
    judged(&made(json!({"iss": "them", "aud": "gone"})), SECRET).unwrap();
    for aud in [json!("x"), json!(["x"]), json!([]), json!(5), json!({})] {
        assert!(judged(&made(json!({"aud": aud})), SECRET).is_err(), "{aud}");
    }
}

#[test]
fn scopes_are_a_text_or_a_list_and_those_of_others_are_passed_over() {
    for (scope, wanted) in [
        (json!("operate spawn"), "spawn operate"),
        (json!(["read", "profile"]), "read"),
        (json!(["read spawn"]), ""),
        (json!("Spawn SPAWN spawn:all"), ""),
        (json!(""), ""),
        (json!(null), ""),
    ] {
        let claims = json!({"sub": "a", "exp": at(300), "scope": scope});
        let caller = judged(&token(&json!({"alg": "HS256"}), &claims, hs256(SECRET)), SECRET).unwrap();
        assert_eq!(caller.scopes.to_string(), wanted, "{scope}");
    }
}

#[test]
fn scopes_may_be_in_the_claim_scp() {
    for (claims, wanted) in [
        (json!({"scp": "spawn openid"}), "spawn"),
        (json!({"scp": ["operate", "profile"]}), "operate"),
        (json!({"scp": "read", "scope": "spawn"}), "spawn read"),
    ] {
        let mut all = json!({"sub": "a", "exp": at(300)});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let caller = judged(&token(&json!({"alg": "HS256"}), &all, hs256(SECRET)), SECRET).unwrap();
        assert_eq!(caller.scopes.to_string(), wanted, "{claims}");
    }
}

#[test]
fn a_token_states_limits_and_the_defaults_hold_where_it_states_none() {
    let count = NonZeroU32::new;
    let defaults = CallerLimits { per_minute: count(60), concurrent: count(5) };
    for (claims, per_minute, concurrent) in [
        (json!({}), 60, 5),
        (json!({"concurrentSpawns": 50}), 60, 50),
        (json!({"spawnsPerMinute": 1, "concurrentSpawns": 2}), 1, 2),
    ] {
        let mut all = json!({"sub": "a", "exp": at(300)});
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        let keys = keys::parse(SECRET).unwrap();
        let token = token(&json!({"alg": "HS256"}), &all, hs256(SECRET));
        let caller = check(&token, keys.iter(), &Demands::default(), defaults).unwrap();
        let wanted = CallerLimits { per_minute: count(per_minute), concurrent: count(concurrent) };
        assert_eq!(caller.limits, wanted, "{claims}");
    }
}

#[test]
fn any_subject_in_words_has_an_owner_of_its_own() {
    for (subject, owner) in [
        ("alice", Some("jwt:alice")),
        ("a%20b", Some("jwt:a%20b")),
        ("a b", Some("jwt-encoded:a%20b")),
        ("a%20 b", Some("jwt-encoded:a%2520%20b")),
        ("J\u{fc}rgen|42", Some("jwt-encoded:J%C3%BCrgen|42")),
        ("a\u{85}b", None),
        (&"\u{fc}".repeat(100), None),
    ] {
        let claims = json!({"sub": subject, "exp": at(300), "scope": "spawn"});
        let caller = judged(&token(&json!({"alg": "HS256"}), &claims, hs256(SECRET)), SECRET);
        assert_eq!(caller.as_ref().ok().map(|caller| caller.owner.as_str()), owner, "{subject:?}");
    }
}

#[test]
fn a_file_that_holds_no_key_of_use_says_why_and_nothing_of_what_is_in_it() {
    let set = |key: Value| json!({ "keys": [key] }).to_string().into_bytes();
    let private = URL_SAFE_NO_PAD.encode([7; 32]);
    let ssh = format!("ssh-ed25519 {} me@here", STANDARD.encode([7; 51]));
    let certificate = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let p384 = b"-----BEGIN PUBLIC KEY-----\nMHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEXHMA04NfasLslNwHGbG71tO8mMRjNiwt\n9TxxBy7kY4ZeNmnepzKc8wzlrjwjOk7/sHqyAG3bNfALyc8Se3fgxT2NdSdmhZb1\nLGcC5M7mWrNDftA3y54eKwgdI0GP3XHg\n-----END PUBLIC KEY-----\n";
    let compressed = b"-----BEGIN PUBLIC KEY-----\nMDkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDIgADBGrAwLYbVHDHmh21ZvJTX86BFieN\nLDcXSnx1pJQoTwQ=\n-----END PUBLIC KEY-----\n";
    let der = {
        let der = STANDARD.decode(
            RSA_PUBLIC.split(|b| *b == b'\n').filter(|l| !l.starts_with(b"-")).collect::<Vec<_>>().concat(),
        );
        der.unwrap()
    };
    for (file, named) in [
        (b"".to_vec(), "at least 32 bytes, not 0"),
        (b"hunter2\n".to_vec(), "at least 32 bytes, not 7"),
        (b"0123456789abcdef0123456789abcde\r\n".to_vec(), "at least 32 bytes, not 31"),
        (ssh.into_bytes(), "not a secret"),
        (STANDARD.encode(&der).into_bytes(), "not a secret"),
        (der, "not a secret"),
        (format!("[{}]", json!({"kty": "oct", "k": private})).into_bytes(), "not a secret"),
        (b"https://issuer.example/.well-known/jwks.json\n".to_vec(), "an address"),
        (b"0123456789abcdef\n0123456789abcdef".to_vec(), "one line"),
        (b"\xef\xbb\xbf{\"keys\": []}".to_vec(), "no key of the set"),
        (RSA_PRIVATE.to_vec(), "private key"),
        (RSA_1024.to_vec(), "2048 to 8192 bits, not 1024"),
        (certificate.to_vec(), "certificate"),
        (p384.to_vec(), "another kind"),
        (compressed.to_vec(), "uncompressed point"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_vec(), "damaged"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n".to_vec(), "no valid PEM"),
        (b"-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n".to_vec(), "no public key"),
        (b"{\"keys\": 0123456789abcdef0123456789abcdef}".to_vec(), "no JSON Web Key Set"),
        (b"{\"keys\": []}".to_vec(), "no key of the set"),
        (set(json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"})), "no key of the set"),
        (set(json!({"kty": "EC", "crv": "P-256"})), "key 1 of the set: x is missing"),
        (set(json!({"kty": "EC", "crv": "P-256", "x": private})), "key 1 of the set: y is missing"),
        (set(json!({"kty": "EC", "crv": "P-256", "x": private, "y": "AA"})), "y: must have 32 bytes, not 1"),
        (set(json!({"kty": "EC", "crv": "P-256", "x": private, "y": private, "d": private})), "private part"),
        (set(json!({"kty": "OKP", "crv": "X25519", "x": "AA"})), "no key of the set"),
        (set(json!({"kty": "RSA", "alg": "RS512", "n": "AA", "e": "AQAB"})), "no key of the set"),
        (set(json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"})), "key 1 of the set: an RSA key must have 2048"),
        (set(json!({"kty": "RSA", "e": "AQAB"})), "key 1 of the set: n is missing"),
        (set(json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"})), "32 bytes, not 1"),
        (set(json!({"kty": "OKP", "crv": "Ed25519", "x": private, "d": private})), "private part"),
        (set(json!({"kty": "oct", "k": "c2hvcnQ"})), "at least 32 bytes, not 5"),
        (b"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n".to_vec(), "can be guessed"),
        (b"secretsecretsecretsecretsecretsecret\n".to_vec(), "can be guessed"),
        (b"abcdefghijkabcdefghijkabcdefghijkabcdefghijk\n".to_vec(), "can be guessed"),
        (vec![0; 64], "can be guessed"),
        (
            set(json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode([0; 32])})),
            "k: an HS256 secret that can be guessed",
        ),
        (set(json!({"kty": "RSA", "n": modulus(2048), "e": "AQ"})), "exponent"),
        (set(json!({"kty": "RSA", "n": modulus(2048), "e": "AAAB"})), "exponent"),
        (set(json!({"kty": "RSA", "n": modulus(2048), "e": "Ag"})), "exponent"),
        (set(json!({"kty": "RSA", "n": modulus(2048), "e": ""})), "exponent"),
        (set(json!({"kty": "RSA", "n": modulus(2047), "e": "AQAB"})), "2048 to 8192 bits, not 2047"),
        (set(json!({"kty": "oct", "k": "not base64!"})), "k: must be base64url"),
    ] {
        let error = keys::parse(&file).unwrap_err();
        assert!(error.contains(named), "{named}: {error}");
        for secret in ["hunter2", "0123456789abcde", &private, "c2hvcnQ"] {
            assert!(!error.contains(secret), "{error}");
        }
    }
}

#[test]
fn keys_are_in_no_debug_output() {
    let shown = format!("{:?}", keys::parse(SECRET).unwrap());
    assert!(!shown.contains("0123") && !shown.contains("48, 49"), "{shown}");
}

#[test]
fn a_token_made_here_is_good_here_and_only_with_its_secret() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), SECRET).unwrap();
    let scopes = [Scope::Spawn, Scope::Operate].into_iter().collect();
    let mut new = NewToken::new("ci", scopes, Duration::from_secs(60));
    new.issuer = Some("us".to_owned());
    let signed = new.sign(file.path()).unwrap();
    let caller = judged(&signed, SECRET).unwrap();
    assert_eq!((caller.owner.as_str(), caller.scopes), ("jwt:ci", scopes));
    assert_eq!(judged(&signed, b"another secret that is long enough"), Err(DenialReason::WrongSignature));
    std::fs::write(file.path(), "short").unwrap();
    assert!(new.sign(file.path()).unwrap_err().to_string().contains("32 bytes"));
    new.sub = "a b".to_owned();
    assert_eq!(new.sign(file.path()), Err(SignError::Subject));
}

proptest! {
    #[test]
    fn a_token_with_any_change_is_good_no_more(at in 0_usize..200, new in "[A-Za-z0-9_.=-]") {
        let good = token(&json!({"alg": "HS256"}), &claims(), hs256(SECRET));
        prop_assume!(at < good.len());
        let changed = format!("{}{new}{}", &good[..at], &good[at + 1..]);
        prop_assume!(changed != good);
        judged(&changed, SECRET).unwrap_err();
        judged(&good[..at], SECRET).unwrap_err();
        judged(&good[at + 1..], SECRET).unwrap_err();
    }

    #[test]
    fn no_file_makes_reading_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80), der in proptest::bool::ANY) {
        if der {
            spki::parse(&bytes);
            let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(&bytes));
            keys::parse(pem.as_bytes()).ok();
        }
        keys::parse(&bytes).ok();
    }

    #[test]
    fn a_damaged_public_key_makes_nothing_panic(at in 0_usize..300, new in proptest::num::u8::ANY) {
        let base64: Vec<u8> = RSA_PUBLIC.split(|b| *b == b'\n').filter(|l| !l.starts_with(b"-")).collect::<Vec<_>>().concat();
        let mut der = STANDARD.decode(base64).unwrap();
        let length = der.len();
        der[at % length] = new;
        spki::parse(&der);
        spki::parse(&der[..at % length]);
    }
}
