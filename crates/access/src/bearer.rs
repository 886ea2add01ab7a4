//! The credential in an `Authorization` header: the scheme `Bearer`, in any case (RFC 6750). Nothing here judges it.

/// The credential in the value of an `Authorization` header; `None` where the scheme is another one.
#[must_use]
pub fn bearer(authorization: &str) -> Option<&str> {
    let (scheme, credential) = authorization.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim_start_matches(' '))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_shown_as_a_bearer_whatever_the_case_of_the_word() {
        for (header, credential) in [
            ("Bearer k", Some("k")),
            ("bearer  k", Some("k")),
            ("BEARER k l", Some("k l")),
            ("Bearer ", Some("")),
            ("Bearer", None),
            ("Basic k", None),
            ("", None),
        ] {
            assert_eq!(bearer(header), credential, "{header:?}");
        }
    }
}
