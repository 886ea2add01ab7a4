//! The flags of viewers that come through this front door: the public URL, which every endpoint begins with, pings, and how long
//! viewers may outlast a shutdown.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use axum::http::Uri;
use model::NodeId;

/// The path of a viewer's URL, as agents fill it in.
const FORM: &str = "/s/{node}/{id}/{token}";

/// What the command line says of them.
#[derive(Debug, Clone, clap::Args)]
#[group(id = "viewers")]
pub struct ViewerOptions {
    /// URL that this front door is reached by from outside: viewers connect to their spawns through it, and endpoints begin with it
    #[arg(long, env = "HATCHERY_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<PublicUrl>,

    /// How often viewers that are connected through here are pinged; one that does not answer is gone
    #[arg(long, env = "HATCHERY_RELAY_PING_INTERVAL", value_name = "DURATION", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub relay_ping_interval: Duration,

    /// How long viewers may stay connected through here once shutdown has begun
    #[arg(long, env = "HATCHERY_RELAY_DRAIN", value_name = "DURATION", default_value = "24h",
          value_parser = humantime::parse_duration)]
    pub relay_drain: Duration,
}

/// How viewers are connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ViewerSettings {
    /// What endpoints begin with; `None`: they are the agents' own.
    pub public_url: Option<PublicUrl>,
    /// Time between two pings of a viewer.
    pub ping_interval: Duration,
    /// How long viewers may stay once shutdown has begun.
    pub drain: Duration,
    /// The node whose spawns alone are served, for front doors and relays alone; `None`: spawns of all nodes, for viewers.
    pub own_node: Option<OwnNode>,
}

/// The node that a relay is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnNode {
    /// Name of that node.
    pub node: NodeId,
    /// gRPC URL of its agent; `None`: the registry knows it.
    pub agent: Option<String>,
}

impl OwnNode {
    /// Whether the registry is asked where the node's agent is.
    pub(crate) fn asks_registry(&self) -> bool {
        self.agent.is_none()
    }
}

impl Default for ViewerSettings {
    fn default() -> Self {
        Self {
            public_url: None,
            ping_interval: Duration::from_secs(30),
            drain: Duration::from_secs(24 * 3600),
            own_node: None,
        }
    }
}

/// The URL of a front door as viewers outside know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicUrl {
    /// `ws://` or `wss://`, an authority and a path without a slash at its end.
    Given(String),
    /// The address that the front door listens on, which is known once it does.
    Listener,
}

impl PublicUrl {
    /// The form of endpoints, for the agents.
    pub(crate) fn endpoint_form(&self, listener: SocketAddr, has_tls: bool) -> String {
        match self {
            Self::Given(base) => format!("{base}{FORM}"),
            Self::Listener => {
                let host = match listener.ip() {
                    ip if !ip.is_unspecified() => ip,
                    IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                    IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
                };
                let scheme = if has_tls { "wss" } else { "ws" };
                format!("{scheme}://{}{FORM}", SocketAddr::new(host, listener.port()))
            }
        }
    }

    /// The host in it, which requests may be sent to.
    pub(super) fn host(&self) -> Option<String> {
        match self {
            Self::Given(base) => base.parse::<Uri>().ok()?.host().map(ToOwned::to_owned),
            Self::Listener => None,
        }
    }
}

impl std::str::FromStr for PublicUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| format!("expected a URL such as https://farm.example.com, {why}");
        let uri: Uri = text.parse().map_err(|e| wrong(&format!("got {text:?}: {e}")))?;
        let scheme = match uri.scheme_str() {
            Some("http" | "ws") => "ws",
            Some("https" | "wss") => "wss",
            _ => return Err(wrong(&format!("got {text:?} without http:// or https://"))),
        };
        let authority = uri.authority().map(axum::http::uri::Authority::as_str).unwrap_or_default();
        if authority.is_empty() || authority.contains('@') {
            return Err(wrong("and no user or password in it"));
        }
        if uri.query().is_some() || text.contains(['#', '{', '}']) {
            return Err(wrong(&format!("got {text:?} with a query, a fragment or braces")));
        }
        Ok(Self::Given(format!("{scheme}://{authority}{}", uri.path().trim_end_matches('/'))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_begin_with_the_public_url() {
        for (given, form) in [
            ("https://farm.example.com", "wss://farm.example.com/s/{node}/{id}/{token}"),
            ("http://farm.example.com:8080/", "ws://farm.example.com:8080/s/{node}/{id}/{token}"),
            ("wss://[2001:db8::1]/viewers/", "wss://[2001:db8::1]/viewers/s/{node}/{id}/{token}"),
        ] {
            let url: PublicUrl = given.parse().unwrap();
            assert_eq!(url.endpoint_form("127.0.0.1:1".parse().unwrap(), false), form);
        }
        for (listener, has_tls, base) in [
            ("10.0.0.7:80", false, "ws://10.0.0.7:80"),
            ("0.0.0.0:1", true, "wss://127.0.0.1:1"),
            ("[::]:1", false, "ws://[::1]:1"),
        ] {
            let form = PublicUrl::Listener.endpoint_form(listener.parse().unwrap(), has_tls);
            assert_eq!(form, format!("{base}/s/{{node}}/{{id}}/{{token}}"));
        }
        assert_eq!(
            "https://a.example:1/x".parse::<PublicUrl>().unwrap().host().as_deref(),
            Some("a.example")
        );
    }

    #[test]
    fn what_is_no_public_url_is_refused() {
        for given in [
            "",
            "farm.example.com",
            "ftp://a",
            "https://",
            "https://u:p@a",
            "https://a?b",
            "https://a/#b",
            "https://a/{x}",
        ] {
            assert!(given.parse::<PublicUrl>().is_err(), "{given}");
        }
    }
}
