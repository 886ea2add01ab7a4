//! Where a front door is: the URL of `--server`, read strictly, and the addresses that follow from it. It knows no credential and
//! opens no connection.

use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// Where a front door listens: `http://host[:port][/prefix]`, or with `https://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Without the slash at the end.
    base: String,
    by_tls: bool,
    here: bool,
}

impl FromStr for Server {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected http://host[:port] or https://host[:port]";
        let uri: Uri = text.parse().map_err(|e| format!("{expected}, got {text:?}: {e}"))?;
        // A user or a query may be a secret: what holds one is not repeated.
        let authority = uri.authority();
        if authority.is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(format!("{expected}, without a user"));
        }
        if uri.query().is_some() {
            return Err(format!("{expected}, without a query"));
        }
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(format!("{expected}, got {text:?}"));
        }
        let Some(host) = authority.map(|authority| authority.host()).filter(|host| !host.is_empty()) else {
            return Err(format!("{expected}, got {text:?}: there is no host"));
        };
        let by_tls = uri.scheme_str() == Some("https");
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        let here = host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|ip| ip.is_loopback());
        Ok(Self { base: text.trim_end_matches('/').to_owned(), by_tls, here })
    }
}

impl Server {
    /// Where its live feed is.
    pub(crate) fn live_url(&self) -> String {
        let rest = self.base.get("http".len()..).unwrap_or_default();
        format!("ws{rest}/v1/live")
    }

    /// Its host, as a resolver takes it, and its port.
    pub(crate) fn host_and_port(&self) -> (String, u16) {
        let uri: Uri = self.base.parse().unwrap_or_default();
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        (host, uri.port_u16().unwrap_or(if self.by_tls { 443 } else { 80 }))
    }

    /// Whether it is talked to by TLS.
    pub(crate) fn by_tls(&self) -> bool {
        self.by_tls
    }

    /// Whether what is sent there can be read on the way.
    pub(crate) fn is_exposed(&self) -> bool {
        !self.by_tls && !self.here
    }
}

impl std::fmt::Display for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_http_url() {
        for good in ["http://127.0.0.1:8080", "http://door", "http://door/prefix/", "http://[::1]:1"] {
            assert!(good.parse::<Server>().is_ok(), "{good}");
        }
        for bad in ["", "door:8080", "ftp://door", "http://", "http://me@door", "http://door?x=1", "/x"] {
            assert!(bad.parse::<Server>().is_err(), "{bad}");
        }
        for secret in ["http://me:hush@door", "https://hush@door", "http://door?token=hush"] {
            let why = secret.parse::<Server>().unwrap_err();
            assert!(!why.contains("hush"), "{why}");
        }
        let server = "http://door/prefix/".parse::<Server>().unwrap();
        assert_eq!(server.to_string(), "http://door/prefix");
        assert_eq!(server.live_url(), "ws://door/prefix/v1/live");
        let server = "https://door:8443".parse::<Server>().unwrap();
        assert!(server.by_tls());
        assert_eq!(server.live_url(), "wss://door:8443/v1/live");
        for (server, host, port) in [
            ("http://door/x", "door", 80),
            ("https://[::1]", "::1", 443),
            ("http://10.0.0.1:8080", "10.0.0.1", 8080),
        ] {
            let server: Server = server.parse().unwrap();
            assert_eq!(server.host_and_port(), (host.to_owned(), port), "{server}");
        }
    }

    #[test]
    fn what_is_sent_in_the_clear_beyond_this_machine_can_be_read_on_the_way() {
        for (server, exposed) in [
            ("http://127.0.0.1:8080", false),
            ("http://[::1]:8080", false),
            ("http://localhost", false),
            ("https://door", false),
            ("http://door", true),
            ("http://10.0.0.1", true),
        ] {
            assert_eq!(server.parse::<Server>().unwrap().is_exposed(), exposed, "{server}");
        }
    }
}
