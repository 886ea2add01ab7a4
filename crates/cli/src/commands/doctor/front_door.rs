//! The way to the front door, step by step: name, connection, TLS, readiness, clock, credential, and then the farm. Each step needs the one
//! before, so they run one after the other.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::{Response, StatusCode};
use model::finding::clock;
use model::{Finding, Level, Timestamp};
use serde_json::Value;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use super::date::ahead;
use super::{credential, farm, node_clocks, node_ports};
use crate::connector::{Stream, innermost};
use crate::context::Context;

/// The number of this error on Linux, which has no [`io::ErrorKind`].
const EAFNOSUPPORT: i32 = 97;
const UNREACHED: &str = "no caller that uses this address gets anything";

/// Everything that can be seen from here.
pub(super) async fn examine(context: &Context, limit: Duration) -> Vec<Finding> {
    let (mut findings, reached) = connection(context, limit).await;
    if !reached {
        return findings;
    }
    let before = Timestamp::now();
    let ready = match context.client.plain_without_credential("/readyz").await {
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
    let (found, nodes) = credential::examine(context).await;
    findings.push(found);
    if let Some(nodes) = nodes {
        findings.extend(farm::judge(&nodes, version.as_deref(), Timestamp::now()));
        findings.extend(node_clocks::examine(&nodes.nodes, limit).await);
        findings.extend(node_ports::examine(context, &nodes.nodes, limit).await);
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
    let tries = addresses.iter().map(async |address| timeout(limit, TcpStream::connect(address)).await);
    let tried: Vec<io::Result<()>> = join_all(tries)
        .await
        .into_iter()
        .map(|tried| tried.unwrap_or_else(|_| Err(io::Error::other("no answer"))).map(drop))
        .collect();
    let failed = failures(&addresses, &tried);
    if tried.iter().all(Result::is_err) {
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

/// The addresses that do not answer, each with the reason. An address of a family that this machine has no route to is one of them only where
/// none answers: many machines have no IPv6, and every client there takes the other address.
fn failures(addresses: &[SocketAddr], tried: &[io::Result<()>]) -> Vec<String> {
    let one_answers = tried.iter().any(Result::is_ok);
    let both = addresses.iter().zip(tried);
    both.filter_map(|(address, tried)| {
        let error = tried.as_ref().err().filter(|error| !(one_answers && has_no_route(error)))?;
        Some(format!("{address}: {}", innermost(error)))
    })
    .collect()
}

/// Whether this machine cannot even try: it has no network, no address or no support for the family.
fn has_no_route(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
        || error.raw_os_error() == Some(EAFNOSUPPORT)
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
        // A load balancer may keep the route from strangers, or ask them for a credential of its own.
        (
            StatusCode::UNAUTHORIZED
            | StatusCode::FORBIDDEN
            | StatusCode::NOT_FOUND
            | StatusCode::TOO_MANY_REQUESTS,
            _,
            _,
        ) => vec![Finding::warning(
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
    let answer = context.client.plain_without_credential("/openapi.json").await.ok()?;
    let document: Value = serde_json::from_slice(answer.body()).ok()?;
    document["info"]["version"].as_str().map(str::to_owned)
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
            (429, "", Level::Warning, "not passed on"),
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

    #[test]
    fn an_address_that_this_machine_has_no_route_to_is_no_finding_where_another_answers() {
        let addresses = ["[2001:db8::1]:443", "192.0.2.1:443"].map(|address| address.parse().unwrap());
        let error = |number| Err(io::Error::from_raw_os_error(number));
        let (unreachable, not_available, refused) = (101, 99, 111);
        for number in [unreachable, not_available, EAFNOSUPPORT] {
            assert_eq!(failures(&addresses, &[error(number), Ok(())]), Vec::<String>::new(), "{number}");
            let both = failures(&addresses, &[error(number), error(refused)]);
            assert_eq!(both.len(), 2, "{number}: {both:?}");
        }
        let refused = failures(&addresses, &[error(refused), Ok(())]);
        assert!(refused.len() == 1 && refused[0].contains("2001:db8::1"), "{refused:?}");
    }
}
