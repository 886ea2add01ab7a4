//! The part of a failure's reason that callers may see. The whole reason names addresses and the contents of certificates, and is
//! for the log.

use std::borrow::Cow;

/// Said by Hatchery itself, without a word of where anything is.
const OURS: [&str; 6] = [
    "it is without TLS",
    "it needs TLS",
    "not connected within",
    "no answer",
    "the agent closed the connection",
    "the registry does not know",
];

/// The part of a reason that may leave the farm.
pub(crate) fn outward(why: &str) -> Cow<'_, str> {
    if OURS.iter().any(|ours| why.starts_with(ours)) || why.ends_with("is at its address") {
        return why.into();
    }
    let said = why.to_ascii_lowercase();
    let kinds = [
        ("certificate", "a certificate was not accepted"),
        ("unknownca", "a certificate was not accepted"),
        ("alert", "TLS failed"),
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("unreachable", "no route to it"),
        ("no route", "no route to it"),
        ("reset", "the connection broke off"),
        ("broken", "the connection broke off"),
        ("closed", "the connection broke off"),
    ];
    kinds
        .into_iter()
        .find(|(word, _)| said.contains(word))
        .map_or("the connection failed", |(_, kind)| kind)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_address_leaves_the_farm_and_the_kind_of_trouble_does() {
        for (why, shown) in [
            ("Connection refused (os error 111)", "connection refused"),
            ("received fatal alert: UnknownCA", "a certificate was not accepted"),
            ("received fatal alert: HandshakeFailure", "TLS failed"),
            (
                "invalid peer certificate: certificate not valid for name \"10.0.0.6\"; certificate is only valid for DnsName(\"n.internal\")",
                "a certificate was not accepted",
            ),
            ("http://10.0.0.6:7070/: connection closed before message completed", "the connection broke off"),
            ("\"ftp://10.0.0.6\" is not http://host:port or https://host:port", "the connection failed"),
            ("failed to lookup address information: n.internal", "the connection failed"),
            ("not connected within 1s", "not connected within 1s"),
            ("node-9 is at its address", "node-9 is at its address"),
            (
                "it needs TLS, and this front door has no --tls-client-ca",
                "it needs TLS, and this front door has no --tls-client-ca",
            ),
        ] {
            assert_eq!(outward(why), shown);
        }
    }
}
