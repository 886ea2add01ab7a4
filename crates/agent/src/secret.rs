//! The unguessable part of the URL that a spawn reports to: with it, only the spawn itself can report for the spawn.
//!
//! It is on the server's command line, because the vendor's server takes it nowhere else, and in the journal, for the next agent.
//! It is in no log: [`masked`] hides it in what servers write.

use std::fmt;

use ring::hmac;
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// The part of the path after the secret.
pub(crate) const PATH: &str = "/liveliness";
/// A run of so many hexadecimal digits before [`PATH`] may be a secret, or the end of one.
const MIN_MASKED: usize = 16;

/// How many digits a secret has.
const LENGTH: usize = 64;

/// 244 random bits of the operating system, as hexadecimal digits: what a spawn reports with, or its viewer is known by.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Secret {
    pub(crate) fn mint() -> Self {
        Self(format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()))
    }

    /// What the viewer of the spawn shows to a relay: 256 bits, made of the secret so that a process that knows the secret, the next agent
    /// too, knows the token, and not the other way round (HMAC-SHA-256, RFC 2104).
    pub(crate) fn viewer_token(&self) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.as_bytes());
        let tag = hmac::sign(&key, b"viewer token");
        Self(tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// The digits, for the process that is to know them.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether this is it. Takes as long for a wrong one of the same length as for the right one.
    pub(crate) fn is(&self, given: &str) -> bool {
        self.0.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

/// Where a spawn with this secret reports to; one of an earlier release has none. `origin` is `http://` and the receiver's address.
pub(crate) fn endpoint(origin: &str, secret: Option<&Secret>) -> String {
    match secret {
        Some(secret) => format!("{origin}/{}{PATH}", secret.0),
        None => format!("{origin}{PATH}"),
    }
}

/// The secret in an endpoint that leads to `origin`, if it has one; `Err` when it leads elsewhere.
pub(crate) fn of_endpoint(origin: &str, endpoint: &str) -> Result<Option<Secret>, ()> {
    let path = endpoint.strip_prefix(origin).and_then(|path| path.strip_suffix(PATH)).ok_or(())?;
    if path.is_empty() {
        return Ok(None);
    }
    match path.strip_prefix('/') {
        Some(secret) if !secret.is_empty() && !secret.contains('/') => Ok(Some(Secret(secret.to_owned()))),
        Some(_) | None => Err(()),
    }
}

/// Whether an endpoint has a secret of the form of those that [`Secret::mint`] makes, wherever it leads to.
pub(crate) fn is_in(endpoint: &str) -> bool {
    let last = endpoint.strip_suffix(PATH).and_then(|path| path.rsplit('/').next());
    last.is_some_and(|secret| secret.len() == LENGTH && secret.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The same text without secrets: servers write their settings, this URL among them, into their output.
pub(crate) fn masked(text: &str) -> String {
    let mut masked = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(PATH) {
        let before = &rest[..at];
        let kept = before.trim_end_matches(|c: char| c.is_ascii_hexdigit());
        if before.len() - kept.len() >= MIN_MASKED {
            masked.push_str(kept);
            masked.push('…');
        } else {
            masked.push_str(before);
        }
        masked.push_str(PATH);
        rest = &rest[at + PATH.len()..];
    }
    masked.push_str(rest);
    masked
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "http://127.0.0.1:7071";

    #[test]
    fn a_secret_is_found_again_in_its_endpoint_and_only_there() {
        let (secret, other) = (Secret::mint(), Secret::mint());
        assert!(secret.0.len() == 64 && secret != other);
        let url = endpoint(ORIGIN, Some(&secret));
        assert_eq!(of_endpoint(ORIGIN, &url), Ok(Some(secret.clone())));
        assert_eq!(of_endpoint(ORIGIN, &endpoint(ORIGIN, None)), Ok(None), "of an earlier release");
        assert!(is_in(&url) && !is_in(ORIGIN));
        for other in [
            endpoint(ORIGIN, None),
            format!("{ORIGIN}/abc{PATH}"),
            format!("{ORIGIN}/{}{PATH}", "g".repeat(64)),
        ] {
            assert!(!is_in(&other), "{other}");
        }
        for elsewhere in [
            "http://127.0.0.1:7072/liveliness",
            "http://127.0.0.1:70711/liveliness",
            "http://127.0.0.1:7071//liveliness",
            "http://127.0.0.1:7071/a/b/liveliness",
            "http://127.0.0.1:7071/",
            "",
        ] {
            assert_eq!(of_endpoint(ORIGIN, elsewhere), Err(()), "{elsewhere}");
        }
        assert!(
            secret.is(&secret.0) && !secret.is(&other.0) && !secret.is("") && !secret.is(&secret.0[..63])
        );
        assert!(!format!("{secret:?}").contains(&secret.0));
    }

    #[test]
    fn a_viewers_token_is_the_secrets_own_and_does_not_show_it() {
        let (secret, other) = (Secret::mint(), Secret::mint());
        let token = secret.viewer_token();
        assert!(token == Secret(secret.0.clone()).viewer_token(), "the next agent finds it again");
        assert!(token != other.viewer_token() && token != secret);
        assert_eq!(token.reveal().len(), LENGTH);
    }

    #[test]
    fn what_servers_write_shows_no_secret() {
        let secret = Secret::mint();
        let line =
            format!("a {} b {}/x, {}", endpoint(ORIGIN, Some(&secret)), endpoint(ORIGIN, Some(&secret)), "c");
        let shown = masked(&line);
        assert_eq!(shown, "a http://127.0.0.1:7071/…/liveliness b http://127.0.0.1:7071/…/liveliness/x, c");
        let cut = endpoint("", Some(&secret));
        assert_eq!(masked(&cut[20..]), "…/liveliness", "the end of one");
        for plain in ["", "http://127.0.0.1:7071/liveliness", "/add/liveliness", "é/liveliness"] {
            assert_eq!(masked(plain), plain);
        }
    }
}
