//! What operators write for the address of a Redis.

use super::url::{is_elsewhere, unprotected};

#[test]
fn an_address_with_mistakes_is_refused_without_its_password_or_read() {
    let words = [
        "redis://",
        "rediss://",
        "redis-sentinel://",
        "?ca=",
        "&insecure",
        "@",
        ",",
        "[::1]",
        ":6379",
        "%2F",
    ];
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/urls"), &words, |bytes| {
        let Ok(url) = std::str::from_utf8(bytes) else { return };
        assert!(!is_elsewhere(url) || url.contains("://"));
        if let Err(error) = unprotected(url, None) {
            // Where a password may be; elsewhere it is a host or a path by now.
            let behind = url.split_once("://").map_or(url, |(_, rest)| rest);
            let is_password = behind.split(['/', '?']).next().is_some_and(|hosts| hosts.contains(":hunter2"));
            let is_password = is_password && url.matches("hunter2").count() == 1;
            assert!(!is_password || !error.to_string().contains("hunter2"), "{url}: {error}");
        }
    });
}
