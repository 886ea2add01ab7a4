//! Whether nodes are closed to strangers where viewers come through a relay: the firewall's table of the deployment guide, seen from outside.
//!
//! A server takes the first connection for its viewer, so the first to find its port may have it. The ports of servers are not tried: to
//! connect to one is to take it. The same rule of a firewall closes the port of the agent, which can be tried without harm.
//!
//! Nothing is said where viewers go to the nodes themselves, nor of a node that is this machine.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::{Method, Uri};
use model::api::{Node, SpawnList};
use model::{Availability, Finding};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::context::Context;
use crate::output::count;

/// So many nodes are tried.
const MAX_TRIED: usize = 50;
/// So many nodes are named.
const MAX_NAMED: usize = 3;

/// Tries the agents of nodes that are up, where viewers of the newest spawns come through a relay.
pub(super) async fn examine(context: &Context, nodes: &[Node], limit: Duration) -> Option<Finding> {
    let answer = context.client.plain(Method::GET, "/v1/spawns?limit=100", "").await.ok()?;
    let list: SpawnList = serde_json::from_slice(answer.body()).ok()?;
    let hosts: HashSet<String> = nodes.iter().filter_map(|node| host(&node.advertise)).collect();
    let relayed = list.spawns.iter().any(|spawn| is_relayed(&spawn.endpoint, &hosts));
    if !relayed {
        return None;
    }
    let up = nodes.iter().filter(|node| node.availability == Availability::Up).take(MAX_TRIED);
    judge(
        join_all(up.map(async |node| Some((node.id.to_string(), reached(node, limit, is_own).await?)))).await,
    )
}

/// Whether an endpoint leads through a relay, and not to the machine of a node: a relay of a node is on it, and its port is for front doors.
fn is_relayed(endpoint: &str, nodes: &HashSet<String>) -> bool {
    let Ok(uri) = endpoint.parse::<Uri>() else { return false };
    uri.path().starts_with("/s/") && uri.host().is_some_and(|host| !nodes.contains(host))
}

fn host(url: &str) -> Option<String> {
    url.parse::<Uri>().ok()?.host().map(str::to_owned)
}

/// Whether an address is one of this machine: then a socket can have it.
fn is_own(address: IpAddr) -> bool {
    address.is_loopback() || UdpSocket::bind((address, 0)).is_ok()
}

/// The address under which the agent answers this machine, or none where none does. Outer `None`: it is unknown.
async fn reached(node: &Node, limit: Duration, is_own: fn(IpAddr) -> bool) -> Option<Option<SocketAddr>> {
    let uri: Uri = node.advertise.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let name = uri.host()?.trim_matches(['[', ']']).to_owned();
    let addresses: Vec<SocketAddr> = timeout(limit, lookup_host((name, port))).await.ok()?.ok()?.collect();
    if addresses.is_empty() || addresses.iter().any(|address| is_own(address.ip())) {
        return None;
    }
    for address in addresses {
        if matches!(timeout(limit, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return Some(Some(address));
        }
    }
    Some(None)
}

fn judge(tried: Vec<Option<(String, Option<SocketAddr>)>>) -> Option<Finding> {
    let tried: Vec<_> = tried.into_iter().flatten().collect();
    let open: Vec<String> =
        tried.iter().filter_map(|(node, address)| Some(format!("{node} ({})", address.as_ref()?))).collect();
    if tried.is_empty() {
        return None;
    }
    if open.is_empty() {
        let nodes = count(tried.len(), "node");
        return Some(Finding::ok("node-ports", format!("the agents of {nodes} are closed to this machine")));
    }
    let more = open.len().saturating_sub(MAX_NAMED);
    let named = open[..open.len() - more].join(", ");
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(Finding::warning(
        "node-ports",
        format!("this machine reaches the agents of {named}{others}, so probably their servers' ports, too"),
        "viewers come through the front doors: a stranger who finds a server's port before its viewer does has the server",
        "close a node's ports to all machines but front doors and relays (deploy/firewall/node.nft); if this machine is one of these, look from another",
    ))
}

#[cfg(test)]
mod tests {
    use model::Level;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    fn node(advertise: &str) -> Node {
        serde_json::from_value(json!({"id": "n", "eligibility": "eligible", "availability": "up",
            "slots": {"total": 4, "used": 1}, "gpus": [], "pool": "default", "labels": {}, "version": "1",
            "epoch": "01987a5e-2f30-7c41-9d5c-0123456789ab", "advertise": advertise, "endpoint": "ws://x:{port}",
            "load": {"cpu": 0.0, "memoryFreeBytes": 1}, "lastHeartbeatAt": "2026-03-01T12:00:00.000Z"}))
        .unwrap()
    }

    #[tokio::test]
    async fn a_node_that_this_machine_reaches_is_open_and_one_that_it_does_not_reach_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let limit = Duration::from_secs(5);
        let (open, closed) = (node(&format!("https://{address}")), node("http://127.0.0.1:1"));
        assert_eq!(reached(&open, limit, |_| false).await, Some(Some(address)));
        assert_eq!(reached(&closed, limit, |_| false).await, Some(None));
        assert_eq!(reached(&open, limit, is_own).await, None, "it is this machine");
        assert_eq!(reached(&node("http://nowhere.invalid"), limit, |_| false).await, None);
        assert!(!is_own("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn open_nodes_are_named_and_nothing_is_said_where_nothing_was_tried() {
        let address = Some("10.0.0.6:7070".parse().unwrap());
        let found = judge(vec![Some(("a".into(), None)), Some(("b".into(), address)), None]).unwrap();
        assert_eq!(found.level, Level::Warning);
        assert!(found.found.contains("agents of b (10.0.0.6:7070), so"), "{found:?}");
        let many = (0..5).map(|at| Some((format!("n{at}"), address))).collect();
        assert!(judge(many).unwrap().found.contains("and 2 more"));
        let closed = judge(vec![Some(("a".into(), None))]).unwrap();
        assert_eq!(
            (closed.level, closed.found.as_str()),
            (Level::Ok, "the agents of 1 node are closed to this machine")
        );
        assert_eq!(judge(vec![None]), None);
    }

    #[test]
    fn a_relay_is_known_by_the_endpoints_that_it_has_spawns_given() {
        let nodes = HashSet::from(["10.0.0.6".to_owned()]);
        for (endpoint, relayed) in [
            ("wss://farm.example.com/s/n/019f/token", true),
            ("ws://10.0.0.6:55000", false),
            ("wss://10.0.0.6/s/n/019f/token", false),
            ("", false),
        ] {
            assert_eq!(is_relayed(endpoint, &nodes), relayed, "{endpoint}");
        }
    }
}
