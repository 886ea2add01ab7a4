//! Tokens and files of keys, as strangers and operators get them wrong.

use super::*;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

#[test]
fn nothing_that_resembles_a_token_is_taken_for_one() {
    let words = ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9", ".", "..", "=", "e30"];
    let keys = keys::parse(SECRET).unwrap();
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/tokens"), &words, |bytes| {
        if let Ok(token) = std::str::from_utf8(bytes) {
            check(token, keys.iter(), &Demands::default(), CallerLimits::default()).unwrap_err();
        }
    });
}

#[test]
fn a_damaged_file_of_token_keys_is_refused_without_saying_what_is_in_it_or_read() {
    let words = [
        "-----BEGIN PUBLIC KEY-----",
        "-----END PUBLIC KEY-----",
        "\"kty\":\"RSA\"",
        "\"keys\":[",
        "\"alg\":",
    ];
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/token-keys"), &words, |bytes| {
        if let Err(why) = keys::parse(bytes) {
            assert!(!why.contains("c2VjcmV0"), "{why}");
        }
    });
}
