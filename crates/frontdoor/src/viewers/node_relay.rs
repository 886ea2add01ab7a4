//! The relay of a node, which alone leads to the servers there: it is called by mutual TLS.
//!
//! It gets the viewer's handshake as it came, path included, and one header more, which it takes out again: [`HopHeader`]. What it
//! refuses is refused here in the same way. Nothing is sent before its certificate has shown that it is the relay of this node, and
//! a node that names a relay is reached in no other way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::Response;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use model::api::{ErrorCode, Problem};
use model::{NodeId, RequestId};
use relay::PingTag;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tracing::warn;

use super::attach::{Shown, Wanted};
use super::not_connected::NotConnected;
use super::per_node::{NodeHandshakes, NotBegun};
use super::server::{self, Upgraded};

/// Carries what the two relays of a connection agree on.
const HOP: HeaderName = HeaderName::from_static("hatchery-relay");
/// How long the relay of a node may take for its part of the handshake of TLS, and for the rest of a refusal.
const ANSWER: Duration = Duration::from_secs(5);
/// The type of a refusal.
const PROBLEM_JSON: &str = "application/problem+json";
/// The longest refusal that is read of a relay, in bytes.
const MAX_PROBLEM: usize = 16 * 1024;
/// What stands in the place of a token where a viewer has shown a port. No token has a hyphen.
const PORT: &str = "port-";

/// What the relay in front lets the one on the node know.
#[derive(Debug)]
pub(super) struct HopHeader {
    /// Of the pings of both.
    pub(super) tag: PingTag,
    /// Time between two pings of the viewer.
    pub(super) ping_interval: Duration,
    /// The viewer's request, in both logs.
    pub(super) request: RequestId,
}

impl HopHeader {
    fn value(&self) -> Option<HeaderValue> {
        let text = format!("{} {} {}", self.tag, self.ping_interval.as_millis(), self.request);
        HeaderValue::from_str(&text).ok()
    }

    /// Takes it out of the headers of a handshake; `None` when it is not there, or not understood.
    pub(super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let value = headers.remove(HOP)?;
        let mut words = value.to_str().ok()?.split(' ');
        let tag = words.next()?.parse().ok()?;
        let ping_interval = Duration::from_millis(words.next()?.parse().ok().filter(|ms| *ms > 0)?);
        Some(Self { tag, ping_interval, request: words.next()?.parse().ok()? })
    }
}

/// What a handshake that was passed on shows in the place of the token.
pub(crate) fn shown(token: String, may_show_ports: bool) -> Shown {
    let port = token.strip_prefix(PORT).filter(|_| may_show_ports).and_then(|port| port.parse().ok());
    port.map_or(Shown::Token(token), Shown::Port)
}

/// Calls relays of nodes.
#[derive(Debug, Clone)]
pub(crate) struct NodeRelays {
    tls: Option<tls::Client>,
    /// Whether the log has that there is no certificate.
    warned: Arc<AtomicBool>,
    /// Nodes of which the log has that frames of their viewers are not encrypted.
    in_the_clear: Arc<tls::LoggedOnce<NodeId>>,
    handshakes: NodeHandshakes,
}

impl NodeRelays {
    /// `None`: there is no certificate to show.
    pub(crate) fn new(tls: Option<tls::Client>) -> Self {
        Self {
            tls,
            warned: Arc::default(),
            in_the_clear: Arc::default(),
            handshakes: NodeHandshakes::default(),
        }
    }

    /// Logs, once for each node, that frames of its viewers cross the network in the clear though its agent is called by TLS. Returns whether
    /// it did.
    pub(super) fn note_without_relay(&self, node: &NodeId, advertise: &str) -> bool {
        let is_new =
            model::viewers_pass_in_the_clear(advertise, None) && self.in_the_clear.is_new(node.clone());
        if is_new {
            warn!(
                node.id = %node,
                "frames of viewers are not encrypted on their way to this node, whose agent has TLS: run `hatchery relay` there and name it \
                 with --viewer-relay, or keep that network your own (logged once for each node)"
            );
        }
        is_new
    }

    /// A connection to the node's relay, which has shown that it is that.
    async fn reach(
        tls: &tls::Client,
        (host, port): (&str, u16),
        wanted: &Wanted,
    ) -> Result<tls::ClientStream<TcpStream>, String> {
        let stream = server::connect(host, port, "relay").await?;
        let stream = match timeout(ANSWER, tls.connect(host, stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tls.refused(&wanted.node, &error);
                return Err("its relay is not trusted, or does not speak TLS".to_owned());
            }
            Err(_) => return Err("its relay does not answer".to_owned()),
        };
        // The log has the certificate's role.
        let checked = tls.check_relay(&stream, &wanted.node);
        checked.map_err(|_| "its relay has not the certificate of the node's relay".to_owned())?;
        Ok(stream)
    }

    /// Has the node's relay, at this host and port, connect the viewer. The connection comes with 101 alone. `is_down`: of the node.
    pub(super) async fn upgrade(
        &self,
        (relay, is_down): (&str, bool),
        wanted: &Wanted,
        head: &Parts,
        hop: &HopHeader,
    ) -> Result<(Response, Option<Upgraded>), NotConnected> {
        let no_relay = |why: String| NotConnected::Relay(wanted.node.clone(), why);
        let Some(tls) = &self.tls else {
            if !self.warned.swap(true, Ordering::Relaxed) {
                warn!(
                    node.id = %wanted.node,
                    "viewers reach this node through its relay alone, which takes --tls-client-ca and a certificate of it here (logged once)"
                );
            }
            return Err(no_relay(
                "its relay takes a certificate, and --tls-client-ca is missing here".to_owned(),
            ));
        };
        let (host, port) = relay.rsplit_once(':').unwrap_or((relay, ""));
        let port = port.parse().map_err(|_| no_relay("the address of its relay has no port".to_owned()))?;
        let handshake = self.handshakes.begin(&wanted.node, is_down).map_err(|why| match why {
            NotBegun::Resting => no_relay("its relay could not be reached a moment ago".to_owned()),
            NotBegun::Busy => NotConnected::Busy,
        })?;
        let stream = Self::reach(tls, (host, port), wanted).await.map_err(|why| {
            handshake.failed();
            no_relay(why)
        })?;
        handshake.answered();
        let mut headers = head.headers.clone();
        headers.remove(HOP);
        if let Some(value) = hop.value() {
            headers.insert(HOP, value);
        }
        let shown = match &wanted.shown {
            Shown::Token(token) => token.clone(),
            Shown::Port(port) => format!("{PORT}{port}"),
        };
        let path = format!("/s/{}/{}/{shown}", wanted.node, wanted.spawn);
        let upgraded = server::upgrade(stream, (&path, &head.uri), &headers, "relay").await;
        let (response, server) = upgraded.map_err(no_relay)?;
        if server.is_none() && is_problem(&response) {
            return Err(refusal(wanted, response).await);
        }
        Ok((response.map(Body::new), server))
    }
}

/// Servers do not answer so.
fn is_problem(response: &Response<Incoming>) -> bool {
    response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == PROBLEM_JSON)
}

/// A refusal of the node's relay as one of this one.
async fn refusal(wanted: &Wanted, response: Response<Incoming>) -> NotConnected {
    let status = response.status();
    let body = timeout(ANSWER, Limited::new(response.into_body(), MAX_PROBLEM).collect()).await;
    let problem = body
        .ok()
        .and_then(Result::ok)
        .and_then(|body| serde_json::from_slice::<Problem>(&body.to_bytes()).ok());
    match problem.map(|problem| (problem.code, problem.detail)) {
        Some((ErrorCode::NotFound, _)) => NotConnected::NotFound,
        Some((ErrorCode::AlreadyConnected, _)) => NotConnected::Taken,
        Some((ErrorCode::NoCapacity, _)) => NotConnected::Busy,
        Some((ErrorCode::NodeUnreachable, _)) => {
            let why = "the relay of the node reaches neither its agent nor its server, or one of them failed";
            NotConnected::Server(wanted.node.clone(), why.to_owned())
        }
        _ => NotConnected::Relay(wanted.node.clone(), format!("its relay answered {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_relays_agree_on_is_read_as_it_was_written_and_taken_out() {
        let hop = HopHeader {
            tag: PingTag::mint(),
            ping_interval: Duration::from_millis(1500),
            request: RequestId::mint(),
        };
        let mut headers = HeaderMap::new();
        headers.insert(HOP, hop.value().unwrap());
        let read = HopHeader::take(&mut headers).unwrap();
        assert!(headers.is_empty());
        assert_eq!((read.tag, read.ping_interval, &read.request), (hop.tag, hop.ping_interval, &hop.request));
        for wrong in ["", "x", "0011223344556677", "0011223344556677 0 a", "0011223344556677 x a", "g 1 a"] {
            headers.insert(HOP, HeaderValue::from_static(wrong));
            assert!(HopHeader::take(&mut headers).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_port_is_shown_by_those_alone_who_may() {
        let is_port = |token: &str, may| matches!(shown(token.to_owned(), may), Shown::Port(55_001));
        assert!(is_port("port-55001", true));
        assert!(!is_port("port-55001", false));
        assert!(!is_port("55001", true) && !is_port("port-", true) && !is_port("port-655361", true));
    }

    #[test]
    fn a_node_whose_frames_are_not_encrypted_is_logged_once() {
        let relays = NodeRelays::new(None);
        let (a, b): (NodeId, NodeId) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert!(!relays.note_without_relay(&a, "http://10.0.0.7:7070"));
        assert!(relays.note_without_relay(&a, "https://10.0.0.7:7070"));
        assert!(!relays.note_without_relay(&a, "https://10.0.0.7:7070"));
        assert!(relays.note_without_relay(&b, "https://10.0.0.8:7070"));
    }
}
