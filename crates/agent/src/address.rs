//! Hosts and URLs: how this agent and its spawns are reached. Functions on texts alone: nothing here resolves a name or opens a
//! connection, so a host that is well-formed here may still lead nowhere.

use std::net::SocketAddr;

/// The machine's name for itself.
pub(crate) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A host name, an IPv4 address, or an IPv6 address with or without brackets; no port.
pub(crate) fn is_host(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if host.contains([':', '[', ']']) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !host.is_empty() && !host.contains(|c: char| !c.is_ascii_graphic() || "/{}@?#".contains(c))
}

/// The host of an `http://` or `https://` URL, as it is written there.
pub(crate) fn host_of(url: &str) -> Result<String, String> {
    let uri: axum::http::Uri = url.parse().map_err(|e| format!("{e}"))?;
    match uri.scheme_str() {
        Some("http" | "https") => {}
        Some(other) => return Err(format!("its scheme is {other}")),
        None => return Err("it has no scheme".to_owned()),
    }
    match uri.host() {
        Some(host) if !host.is_empty() => Ok(host.to_owned()),
        Some(_) | None => Err("it has no host".to_owned()),
    }
}

/// Whether it is `HOST:PORT`, with a host name, an IPv4 address, or an IPv6 address in brackets.
pub(crate) fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_bare_ipv6 = host.contains(':') && !host.starts_with('[');
    is_host(host) && !is_bare_ipv6 && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A host as it stands in a URL: addresses of IPv6 are in brackets there.
pub(crate) fn in_a_url(host: &str) -> String {
    match host.parse::<std::net::Ipv6Addr>() {
        Ok(address) => format!("[{address}]"),
        Err(_) => host.to_owned(),
    }
}

/// The URL by which others reach a listener when none was named.
pub(crate) fn default_advertise(addr: SocketAddr, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    if addr.ip().is_unspecified() {
        format!("{scheme}://{}:{}", host_name(), addr.port())
    } else {
        format!("{scheme}://{addr}")
    }
}

/// The address under which this machine reaches a listener of its own.
pub(crate) fn reachable(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => (std::net::Ipv6Addr::LOCALHOST, v6.port()).into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => addr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_host_is_a_name_or_an_address_without_a_port() {
        for (host, good) in [
            ("farm.example", true),
            ("10.0.0.7", true),
            ("::1", true),
            ("[::1]", true),
            ("", false),
            ("farm.example:80", false),
            ("[farm]", false),
            ("::1::2", false),
            ("a/b", false),
        ] {
            assert_eq!(is_host(host), good, "{host:?}");
        }
    }

    #[test]
    fn a_relay_is_named_by_host_and_port() {
        for (text, good) in [
            ("node-a:8091", true),
            ("10.0.0.7:8091", true),
            ("[fd00::7]:8091", true),
            ("", false),
            ("node-a", false),
            ("node-a:", false),
            ("node-a:0", false),
            ("node-a:65536", false),
            (":8091", false),
            ("fd00::7:8091", false),
            ("https://node-a:8091", false),
            ("node-a:8091/", false),
        ] {
            assert_eq!(is_host_and_port(text), good, "{text:?}");
        }
    }

    #[test]
    fn the_host_of_a_url_is_what_stands_there() {
        assert_eq!(host_of("http://10.0.0.7:7070"), Ok("10.0.0.7".into()));
        assert_eq!(host_of("https://node-a.example"), Ok("node-a.example".into()));
        assert_eq!(host_of("http://[::1]:7070"), Ok("[::1]".into()));
        assert!(host_of("node-a:7070").is_err());
        assert!(host_of("").is_err());
    }

    #[test]
    fn an_address_of_ipv6_stands_in_brackets_in_a_url() {
        for (host, want) in [
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("fd00::7", "[fd00::7]"),
            ("10.0.0.7", "10.0.0.7"),
            ("node-a.example", "node-a.example"),
        ] {
            assert_eq!(in_a_url(host), want);
        }
    }
}
