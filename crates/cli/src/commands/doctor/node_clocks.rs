//! The clocks of nodes, as far as their agents can be asked from here: by the `Date` header of whatever answer their gRPC port gives.
//!
//! An agent with TLS answers front doors alone, and an operator's machine may not reach agents at all: of those nothing is said, and
//! `hatchery doctor --agent` looks at a node's clock on the node.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Empty;
use hyper::Uri;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use model::api::Node;
use model::finding::clock;
use model::{Availability, Finding, Level, Timestamp};
use tokio::time::timeout;

use super::date::ahead;
use crate::output::count;

/// So many agents are asked.
const MAX_ASKED: usize = 50;

/// Asks the agents that are up and have no TLS.
pub(super) async fn examine(nodes: &[Node], limit: Duration) -> Vec<Finding> {
    let client: Client<HttpConnector, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).http2_only(true).build(HttpConnector::new());
    let asked = nodes.iter().filter(|node| node.availability == Availability::Up);
    let asked = asked.filter_map(|node| {
        let uri: Uri = node.advertise.parse().ok()?;
        (uri.scheme_str() == Some("http")).then_some((node, uri))
    });
    let asked = asked.take(MAX_ASKED).map(async |(node, uri)| {
        let before = Timestamp::now();
        let answer = timeout(limit, client.get(uri)).await.ok()?.ok()?;
        Some(clock("clock", &format!("node {}", node.id), ahead(answer.headers(), before)?))
    });
    let found: Vec<Finding> = join_all(asked).await.into_iter().flatten().collect();
    let right = found.iter().filter(|finding| finding.level == Level::Ok).count();
    let mut findings: Vec<Finding> = found.into_iter().filter(|finding| finding.level != Level::Ok).collect();
    if right > 0 {
        let nodes = count(right, "node");
        findings.push(Finding::ok("clock", format!("the clocks of {nodes} and this machine agree")));
    }
    findings
}
