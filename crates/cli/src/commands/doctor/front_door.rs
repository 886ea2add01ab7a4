//! The way to the front door, step by step: name, connection, TLS, readiness, clock, credential, and then the farm.
//!
//! What a credential may do is found without doing it: a call that can never be carried out (a renderer and a node that cannot be) is
//! refused for its scope first, and for what it asks otherwise.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Method, Response, StatusCode};
use model::api::NodeList;
use model::finding::clock;
use model::{Finding, Level, Timestamp};
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::date::ahead;
use super::{farm, node_clocks};
use crate::connector::{Stream, innermost};
use crate::context::Context;
use crate::credential::WHERE;

const UNREACHED: &str = "no caller that uses this address gets anything";

/// Everything that can be seen from here.
pub(super) async fn examine(context: &Context, limit: Duration) -> Vec<Finding> {
    let (mut findings, reached) = connection(context, limit).await;
    if !reached {
        return findings;
    }
    let before = Timestamp::now();
    let ready = match context.client.plain(Method::GET, "/readyz", "", true).await {
        Ok(ready) => ready,
        Err(error) => {
            let advice =
                "see whether a front door listens there (its first line says where), and what is before it";
            findings.push(Finding::problem("front-door", error.to_string(), UNREACHED, advice));
            return findings;
        }
    };
    findings.extend(readiness(&ready));
    findings.extend(ahead(ready.headers(), before).map(|ahead| clock("clock", "the front door", ahead)));
    let version = version(context).await;
    let (found, nodes) = credential(context).await;
    findings.extend(found);
    if let Some(nodes) = nodes {
        findings.extend(farm::judge(&nodes, version.as_deref(), Timestamp::now()));
        findings.extend(node_clocks::examine(&nodes.nodes, limit).await);
    }
    findings
}

/// Name, connection and TLS; whether a call can be made.
async fn connection(context: &Context, limit: Duration) -> (Vec<Finding>, bool) {
    let server = context.client.server();
    let (host, port) = server.host_and_port();
    let dns = |why: String| {
        let found = format!("{host} does not resolve: {why}");
        let advice = "check the name in --server or HATCHERY_SERVER, and this machine's resolver";
        (vec![Finding::problem("front-door-dns", found, UNREACHED, advice)], false)
    };
    let addresses: Vec<SocketAddr> = match timeout(limit, lookup_host((host.as_str(), port))).await {
        Ok(Ok(found)) => found.collect(),
        Ok(Err(error)) => return dns(error.to_string()),
        Err(_) => return dns(format!("no answer within {}", humantime::format_duration(limit))),
    };
    let tries =
        addresses.iter().map(async |address| match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(_)) => None,
            Ok(Err(error)) => Some(format!("{address}: {}", innermost(&error))),
            Err(_) => Some(format!("{address}: no answer")),
        });
    let failed: Vec<String> = join_all(tries).await.into_iter().flatten().collect();
    if failed.len() == addresses.len() {
        let found = format!("nothing answers at {server} ({})", failed.join("; "));
        let advice =
            "start the front door (its --listen must be an address that others reach), or open the way to it";
        return (vec![Finding::problem("front-door-tcp", found, UNREACHED, advice)], false);
    }
    let mut findings = vec![match failed.first() {
        // A name of this machine has an address of IPv6 where nothing listens, as a rule.
        Some(why) if host != "localhost" => Finding::warning(
            "front-door-tcp",
            format!("{} of {} addresses of {host} do not answer: {why}", failed.len(), addresses.len()),
            "callers that try these first wait before they try the others",
            "take the address out of the name, or have the front door listen there too",
        ),
        _ => Finding::ok("front-door-tcp", format!("{server} answers")),
    }];
    if !server.by_tls() {
        if server.is_exposed() {
            findings.push(Finding::warning(
                "front-door-tls",
                format!("{server} is on another machine and is talked to without TLS"),
                "what is sent can be read and changed on the way, credentials and viewers' URLs among it",
                "give the front door --tls-cert and --tls-key, or put a load balancer with TLS before it",
            ));
        }
        return (findings, true);
    }
    let uri = server.to_string().parse().unwrap_or_default();
    let found = match timeout(limit, context.client.connector().clone().connect(uri)).await {
        Ok(Ok(stream)) => shown(&stream, &host),
        Ok(Err(error)) => tls_problem(&error.to_string()),
        Err(_) => tls_problem("it does not answer the TLS handshake"),
    };
    let reached = found.level != Level::Problem;
    findings.push(found);
    (findings, reached)
}

fn tls_problem(why: &str) -> Finding {
    let advice = if why.contains("authority") || why.contains("not of the CA") {
        "name the CA that the certificate is of: --ca FILE or HATCHERY_CA"
    } else if why.contains("not for") {
        "use a name that the certificate has, or make it again with this one (`hatchery certs new --renew --frontdoor NAME=HOST`)"
    } else if why.contains("expired") || why.contains("not valid yet") {
        "make the certificate again (`hatchery certs new --renew`, or as you did), and see that this machine's clock is right"
    } else {
        "see that the port is a front door's and speaks TLS"
    };
    Finding::problem("front-door-tls", why, "callers refuse the connection", advice)
}

/// The certificate that the front door has shown, which is good now.
fn shown(stream: &Stream, host: &str) -> Finding {
    let certificate = match stream {
        Stream::Tls(stream) => stream.get_ref().1.peer_certificates().and_then(<[_]>::first),
        Stream::Plain(_) => None,
    };
    match certificate {
        Some(certificate) => tls::examine_validity("front-door-tls", host, certificate),
        None => Finding::ok("front-door-tls", "TLS works"),
    }
}

/// The front door's own word on itself.
fn readiness(ready: &Response<Bytes>) -> Vec<Finding> {
    let body: Value = serde_json::from_slice(ready.body()).unwrap_or_default();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let registry = &body["dependencies"]["registry"];
    let detail = text(&registry["detail"]).unwrap_or_else(|| "it does not say why".to_owned());
    let since = text(&registry["since"]).map(|since| format!(" since {since}")).unwrap_or_default();
    let mut findings = match (ready.status(), body["status"].as_str(), body["code"].as_str()) {
        (StatusCode::OK, Some("ready"), _) => {
            let backend = text(&registry["backend"]).unwrap_or_default();
            vec![Finding::ok(
                "front-door",
                format!("the front door is ready, its registry ({backend}) is up"),
            )]
        }
        (StatusCode::OK, Some("degraded"), _) if registry["state"] == "away" => vec![Finding::problem(
            "front-door",
            format!("the front door is degraded: its registry is away{since}: {detail}"),
            "it places spawns from its last snapshot; calls with an Idempotency-Key, lists and operators' orders are refused",
            "look at Redis: `hatchery doctor --registry URL`",
        )],
        (StatusCode::OK, Some("degraded"), _) => vec![Finding::problem(
            "front-door",
            "the front door is degraded",
            "it refuses callers whose keys it cannot read",
            "see the warnings, and its log",
        )],
        (_, _, Some("registry-unavailable")) => vec![Finding::problem(
            "front-door",
            format!("the front door cannot serve: its registry is away{since}: {detail}"),
            "it has no snapshot of the farm, so it refuses every spawn",
            "look at Redis: `hatchery doctor --registry URL`",
        )],
        (_, _, Some("shutting-down")) => vec![Finding::problem(
            "front-door",
            "this front door is shutting down",
            "it takes no new calls",
            "ask another one; a load balancer takes it out by /readyz",
        )],
        (StatusCode::FORBIDDEN | StatusCode::NOT_FOUND, _, _) => vec![Finding::warning(
            "front-door",
            format!("/readyz is not passed on ({})", ready.status()),
            "whether the front door is ready cannot be seen from here",
            "ask from a network that the load balancer lets in, or the front door itself",
        )],
        (status, _, _) => vec![Finding::problem(
            "front-door",
            format!("/readyz is answered with {status}, which is not how a front door says it"),
            UNREACHED,
            "see that --server names a front door, and what is before it",
        )],
    };
    for warning in body["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        findings.push(Finding::warning(
            "front-door",
            warning,
            "the front door says so of itself",
            "do as it says; its log has more",
        ));
    }
    findings
}

/// The front door's version, as its description of itself has it.
async fn version(context: &Context) -> Option<String> {
    let answer = context.client.plain(Method::GET, "/openapi.json", "", true).await.ok()?;
    let document: Value = serde_json::from_slice(answer.body()).ok()?;
    document["info"]["version"].as_str().map(str::to_owned)
}

/// Whether the credential is accepted and what it may do; the nodes, if it may see them.
async fn credential(context: &Context) -> (Vec<Finding>, Option<NodeList>) {
    let has = context.client.credential().is_some();
    let nodes = match context.client.plain(Method::GET, "/v1/nodes", "", false).await {
        Ok(nodes) => nodes,
        Err(error) => return (vec![unanswered(&error.to_string())], None),
    };
    let problem: Value = serde_json::from_slice(nodes.body()).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("it does not say why").to_owned();
    match nodes.status() {
        StatusCode::UNAUTHORIZED => {
            let found = if has {
                format!("the credential is refused: {detail}")
            } else {
                "no credential was given".to_owned()
            };
            let advice = if has {
                "use a key that `hatchery key list` has and that has not expired; a token must be signed by a key of --jwt-keys"
            } else {
                WHERE
            };
            let why = "the front door serves nobody without one, but for its probes";
            (vec![Finding::problem("credential", found, why, advice)], None)
        }
        StatusCode::OK => {
            let list = serde_json::from_slice(nodes.body()).ok();
            let open = context.client.plain(Method::GET, "/v1/nodes", "", true).await;
            if open.is_ok_and(|open| open.status() == StatusCode::OK) {
                let found = "the front door asks nobody for a credential";
                return (vec![Finding::ok("credential", found)], list);
            }
            (vec![scopes(context, true).await], list)
        }
        StatusCode::FORBIDDEN => (vec![scopes(context, false).await], None),
        status => (vec![unanswered(&format!("GET /v1/nodes is answered with {status}: {detail}"))], None),
    }
}

fn unanswered(found: &str) -> Finding {
    let why = "nothing can be said of the nodes";
    Finding::problem("credential", found, why, "see the front door's log, and what is before it")
}

/// The scopes of a credential that is accepted.
async fn scopes(context: &Context, reads: bool) -> Finding {
    let may = async |method: Method, path: &str, body| {
        let answer = context.client.plain(method, path, body, false).await;
        answer.is_ok_and(|answer| {
            matches!(
                answer.status(),
                StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY
            )
        })
    };
    // There is no such renderer, and a node cannot have such a name.
    let spawns = may(Method::POST, "/spawn", r#"{"rendererType":"none"}"#).await;
    let operates = may(Method::DELETE, "/v1/nodes/%21", "").await;
    let all = [(spawns, "spawn"), (reads, "read"), (operates, "operate")];
    let has: Vec<&str> = all.iter().filter(|(has, _)| *has).map(|(_, scope)| *scope).collect();
    let found = format!("the credential is accepted; its scopes: {}", has.join(", "));
    if reads {
        return Finding::ok("credential", found);
    }
    Finding::warning(
        "credential",
        found,
        "without the scope read it may not see nodes, so nothing is said of them",
        "use a credential with the scope read or operate",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(status: u16, body: &'static str) -> Vec<(Level, String)> {
        let response = Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap();
        readiness(&response).into_iter().map(|finding| (finding.level, finding.found)).collect()
    }

    #[test]
    fn readiness_is_said_in_words() {
        for (status, body, level, words) in [
            (
                200,
                r#"{"status":"ready","dependencies":{"registry":{"state":"up","backend":"redis"}}}"#,
                Level::Ok,
                "(redis) is up",
            ),
            (
                200,
                r#"{"status":"degraded","dependencies":{"registry":{"state":"away","backend":"redis","detail":"NOAUTH"}}}"#,
                Level::Problem,
                "away: NOAUTH",
            ),
            (
                200,
                r#"{"status":"degraded","dependencies":{"registry":{"state":"up"}}}"#,
                Level::Problem,
                "is degraded",
            ),
            (503, r#"{"code":"registry-unavailable"}"#, Level::Problem, "cannot serve"),
            (503, r#"{"code":"shutting-down"}"#, Level::Problem, "shutting down"),
            (403, "", Level::Warning, "not passed on"),
            (502, "<html>", Level::Problem, "502"),
        ] {
            let found = answered(status, body);
            assert!(found[0].0 == level && found[0].1.contains(words), "{body}: {found:?}");
        }
        let warned = answered(
            200,
            r#"{"status":"ready","dependencies":{"registry":{"backend":"redis"}},"warnings":["Redis evicts keys"]}"#,
        );
        assert_eq!(warned[1], (Level::Warning, "Redis evicts keys".to_owned()));
    }
}
