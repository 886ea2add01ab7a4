//! The liveliness endpoint: where posts go, and their request line.
//!
//! The vendor's server posts `<endpoint>/<id>?liveliness=ready|ping|disconnect` with an empty body.

/// A parsed `--liveliness-endpoint`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host to connect to, an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host:port` as given, for the Host header.
    pub(crate) authority: String,
    /// Path of the base, without a slash at its end.
    base: String,
}

/// Why no posts can go to an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unusable {
    Https,
    Scheme,
    Authority,
}

impl Unusable {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Https => "the simulator does not do https; going on without liveliness",
            Self::Scheme => "liveliness-endpoint is not an http URL; going on without liveliness",
            Self::Authority => "liveliness-endpoint has no usable host and port; going on without liveliness",
        }
    }
}

/// What a server reports of itself, in the vendor's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Liveliness {
    Ready,
    Ping,
    Disconnect,
}

impl Liveliness {
    fn word(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Ping => "ping",
            Self::Disconnect => "disconnect",
        }
    }
}

impl Endpoint {
    /// Like curl, takes a URL without a scheme for http. A slash at the end is dropped, as the vendor's server must
    /// do: the vendor's own Node server passes one and answers 404 to a doubled slash.
    pub(crate) fn parse(url: &str) -> Result<Self, Unusable> {
        let rest = match url.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err(Unusable::Https);
            }
            Some(_) => return Err(Unusable::Scheme),
            None => url,
        };
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (authority, base) = rest.split_at(path_at);
        let (host, port) = split_port(authority).ok_or(Unusable::Authority)?;
        Ok(Self {
            host: host.to_owned(),
            port,
            authority: escaped(authority),
            base: escaped(base.strip_suffix('/').unwrap_or(base)),
        })
    }

    /// A whole request; it has no body.
    pub(crate) fn request(&self, id: &str, liveliness: Liveliness, slash: &str) -> String {
        let Self { authority, base, .. } = self;
        let (id, word) = (escaped(id), liveliness.word());
        format!(
            "POST {base}{slash}{id}?liveliness={word} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\nContent-Length: 0\r\n\r\n"
        )
    }
}

fn split_port(authority: &str) -> Option<(&str, u16)> {
    let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
        let (host, after) = bracketed.split_once(']')?;
        (host, after)
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let port = match port {
        "" => 80,
        port => port.strip_prefix(':')?.parse().ok()?,
    };
    (!host.is_empty() && !host.contains('@')).then_some((host, port))
}

/// Percent-encodes what a request line may not hold: an id may be any text.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, Liveliness, Unusable};

    #[test]
    fn a_post_goes_below_the_base_whatever_its_form() {
        let table = [
            ("http://127.0.0.1:7071", "127.0.0.1", 7071, "/a"),
            ("http://127.0.0.1:7071/", "127.0.0.1", 7071, "/a"),
            ("HTTP://h/liveliness", "h", 80, "/liveliness/a"),
            ("http://h/api/spawns/", "h", 80, "/api/spawns/a"),
            ("h:81/x", "h", 81, "/x/a"),
            ("http://[::1]:82/x", "::1", 82, "/x/a"),
            ("http://[::1]", "::1", 80, "/a"),
        ];
        for (url, host, port, path) in table {
            let endpoint = Endpoint::parse(url).unwrap();
            assert_eq!((endpoint.host.as_str(), endpoint.port), (host, port), "{url}");
            let request = endpoint.request("a", Liveliness::Ping, "/");
            let line = format!("POST {path}?liveliness=ping HTTP/1.1\r\n");
            assert!(request.starts_with(&line), "{url}: {request}");
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_posted_to_says_why() {
        let table = [
            ("https://h/x", Unusable::Https),
            ("ftp://h/x", Unusable::Scheme),
            ("http://", Unusable::Authority),
            ("http://h:http/", Unusable::Authority),
            ("http://[::1/", Unusable::Authority),
            ("http://me@h/", Unusable::Authority),
            ("", Unusable::Authority),
        ];
        for (url, why) in table {
            assert_eq!(Endpoint::parse(url), Err(why), "{url}");
        }
    }

    #[test]
    fn an_id_cannot_break_the_request_line() {
        let endpoint = Endpoint::parse("http://h").unwrap();
        let request = endpoint.request("a b\r\nc", Liveliness::Ready, "//");
        assert!(request.starts_with("POST //a%20b%0D%0Ac?liveliness=ready HTTP/1.1\r\n"));
    }
}
