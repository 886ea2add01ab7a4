//! The URLs of spawns in answers: consumers split them at colons and keep what follows the last one, so they always have a port.

use std::net::SocketAddr;

use crate::settings::{Config, HoopsEndpoint, HoopsSettings, PublicUrl};
use crate::spawning::order::EndpointChoice;

/// The forms of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Forms {
    /// Of spawns that answers name.
    pub(super) answered: EndpointChoice,
    /// Of spawns whose viewer is connected already, which has the token in it.
    pub(super) proxied: EndpointChoice,
}

impl Forms {
    /// `listener`: where this listener is. `config.listen` is where the front door is.
    pub(super) fn new(config: &Config, settings: &HoopsSettings, listener: SocketAddr) -> Self {
        let has_tls = config.tls.http.is_some();
        let public = config.viewers.public_url.as_ref();
        let relay = public.map(|url| with_port(&url.endpoint_form(config.listen, has_tls)));
        // This listener leads to spawns by their token as well.
        let own = with_port(&PublicUrl::Listener.endpoint_form(listener, has_tls));
        let proxied = relay.clone().unwrap_or(own);
        let answered = match settings.endpoint {
            HoopsEndpoint::Direct => EndpointChoice::Agent,
            HoopsEndpoint::Relay => EndpointChoice::Given(proxied.clone()),
            HoopsEndpoint::Port => EndpointChoice::Given(of_port(relay.as_deref())),
        };
        Self { answered, proxied: EndpointChoice::Given(proxied) }
    }
}

/// The spawn's own port: on the public host where there is one, else on its node's.
fn of_port(relay: Option<&str>) -> String {
    let Some((base, _port)) = relay.and_then(|relay| {
        let authority = relay.find("://")? + 3;
        let end = relay[authority..].find('/').map_or(relay.len(), |at| authority + at);
        relay[..end].rsplit_once(':')
    }) else {
        return "ws://{host}:{port}".to_owned();
    };
    format!("{base}:{{port}}")
}

/// The same URL with its port, even if that is the scheme's own.
pub(super) fn with_port(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let after_host = authority.rfind(']').map_or(authority, |end| &authority[end..]);
    if after_host.contains(':') {
        return url.to_owned();
    }
    let port = if scheme == "wss" { 443 } else { 80 };
    format!("{scheme}://{authority}:{port}{path}")
}

/// Whether viewers reach spawns by TLS.
pub(super) fn is_secure(form: &EndpointChoice) -> bool {
    matches!(form, EndpointChoice::Given(form) if form.starts_with("wss:"))
}

/// The port of an endpoint that is no more than scheme, host and port.
pub(super) fn bare_port(endpoint: &str) -> Option<u16> {
    let (_, rest) = endpoint.split_once("://")?;
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let (_host, port) = authority.rsplit_once(':')?;
    // Without one, what follows the last colon is part of an IPv6 address.
    port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_url_has_a_port() {
        for (url, wanted) in [
            ("wss://farm.example/s/{node}/{id}/{token}", "wss://farm.example:443/s/{node}/{id}/{token}"),
            ("ws://farm.example", "ws://farm.example:80"),
            ("ws://farm.example?x=1:2", "ws://farm.example:80?x=1:2"),
            ("ws://10.0.0.7:55001", "ws://10.0.0.7:55001"),
            ("wss://[2001:db8::1]/s", "wss://[2001:db8::1]:443/s"),
            ("wss://[2001:db8::1]:1/s", "wss://[2001:db8::1]:1/s"),
            ("wss://{host}/s/a:b", "wss://{host}:443/s/a:b"),
        ] {
            assert_eq!(with_port(url), wanted);
        }
    }

    #[test]
    fn a_port_stands_on_the_public_host_or_on_the_nodes() {
        for (relay, wanted) in [
            (None, "ws://{host}:{port}"),
            (Some("wss://farm.example:443/s/{node}/{id}/{token}"), "wss://farm.example:{port}"),
            (Some("ws://farm.example:8080/below/s/{id}"), "ws://farm.example:{port}"),
            (Some("wss://[::1]:443/s/{id}"), "wss://[::1]:{port}"),
        ] {
            assert_eq!(of_port(relay), wanted);
        }
    }

    #[test]
    fn only_an_endpoint_without_a_path_is_known_by_its_port() {
        for (endpoint, port) in [
            ("ws://10.0.0.7:55001", Some(55001)),
            ("wss://farm.example:55001/", Some(55001)),
            ("ws://[::1]:55001", Some(55001)),
            ("ws://[::1]", None),
            ("wss://farm.example", None),
            ("wss://farm.example:443/s/a/b/c", None),
            ("wss://farm.example:443/55001", None),
            ("ws://a:+1", None),
            ("ws://a:70000", None),
            ("", None),
        ] {
            assert_eq!(bare_port(endpoint), port, "{endpoint}");
        }
    }
}
