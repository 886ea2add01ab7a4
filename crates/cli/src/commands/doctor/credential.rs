//! Whether the credential is accepted, and what it may do.
//!
//! Scopes are found without doing anything: a call that can never be carried out (a renderer and a node that cannot be) is refused for its
//! scope first, and for what it asks otherwise. Only the `code` of a front door's problem counts. A load balancer refuses with the same
//! statuses (403, 404, 429), and of what it keeps back nothing is known.

use bytes::Bytes;
use hyper::{Method, Response, StatusCode};
use model::Finding;
use model::api::{ErrorCode, NodeList};
use serde_json::Value;

use crate::call_error::CallError;
use crate::context::Context;
use crate::credential::WHERE;

/// What an answer shows of a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Has,
    Lacks,
    /// The front door does not know the caller, and says why.
    Stranger(String),
    /// Nothing, and why.
    Unknown(String),
}

/// A scope, and what is known of it.
type Scope = (&'static str, Verdict);

/// Whether the credential is accepted and what it may do; the nodes, if it may see them.
pub(super) async fn examine(context: &Context) -> (Finding, Option<NodeList>) {
    let has = context.client.credential().is_some();
    let answer = context.client.plain(Method::GET, "/v1/nodes", "").await;
    let list = answer.as_ref().ok().and_then(nodes);
    let reads = if list.is_some() { Verdict::Has } else { verdict("GET /v1/nodes", answer, &[]) };
    if let Verdict::Stranger(detail) = &reads {
        return (refused(has, detail), None);
    }
    if list.is_some() && has {
        let open = context.client.plain_without_credential("/v1/nodes").await;
        if open.ok().as_ref().and_then(nodes).is_some() {
            return (needs_none(), list);
        }
    }
    // There is no such renderer, and a node cannot have such a name.
    let spawn = context.client.plain(Method::POST, "/spawn", r#"{"rendererType":"none"}"#).await;
    let operate = context.client.plain(Method::DELETE, "/v1/nodes/%21", "").await;
    let scopes = [
        ("spawn", verdict("POST /spawn", spawn, &["invalid-request"])),
        ("read", reads),
        ("operate", verdict("DELETE /v1/nodes/…", operate, &["invalid-request", "not-found"])),
    ];
    (judge(has, &scopes), list)
}

/// The list of nodes, if the answer is one.
fn nodes(answer: &Response<Bytes>) -> Option<NodeList> {
    (answer.status() == StatusCode::OK).then(|| serde_json::from_slice(answer.body()).ok()).flatten()
}

/// What an answer shows; `allowed` are the codes that only a caller with the scope gets.
fn verdict(call: &str, answer: Result<Response<Bytes>, CallError>, allowed: &[&str]) -> Verdict {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Verdict::Unknown(error.to_string()),
    };
    let problem: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    let detail = problem["detail"].as_str().unwrap_or("it does not say why");
    match problem["code"].as_str() {
        Some("unauthenticated") => Verdict::Stranger(detail.to_owned()),
        Some("forbidden") => Verdict::Lacks,
        Some(code) if allowed.contains(&code) => Verdict::Has,
        Some(code) => Verdict::Unknown(format!("{call} is answered with {code}: {detail}")),
        None => {
            let status = answer.status();
            Verdict::Unknown(format!(
                "{call} is answered with {status}, which is not how a front door says it"
            ))
        }
    }
}

fn refused(has: bool, detail: &str) -> Finding {
    let (found, advice) = if has {
        let advice = "use a key that `hatchery key list` has and that has not expired; a token must be signed by a key of --jwt-keys";
        (format!("the credential is refused: {detail}"), advice)
    } else {
        ("no credential was given".to_owned(), WHERE)
    };
    Finding::problem(
        "credential",
        found,
        "the front door serves no caller without one, but for its probes",
        advice,
    )
}

fn needs_none() -> Finding {
    Finding::ok("credential", "the front door asks for no credential")
}

fn judge(has: bool, scopes: &[Scope]) -> Finding {
    const ELSEWHERE: &str =
        "ask from a network that the load balancer lets in, or the front door itself; its log has more";
    const AWAY: &str = "bring the registry back first (`hatchery doctor --registry URL`), then look again";
    if let Some(detail) = scopes.iter().find_map(|(_, verdict)| match verdict {
        Verdict::Stranger(detail) => Some(detail),
        _ => None,
    }) {
        return refused(has, detail);
    }
    let of = |wanted: fn(&Verdict) -> bool| {
        let names: Vec<&str> =
            scopes.iter().filter(|(_, verdict)| wanted(verdict)).map(|(name, _)| *name).collect();
        names
    };
    let (held, unknown) =
        (of(|verdict| *verdict == Verdict::Has), of(|verdict| matches!(verdict, Verdict::Unknown(_))));
    let why_unknown = scopes.iter().find_map(|(_, verdict)| match verdict {
        Verdict::Unknown(why) => Some(why.as_str()),
        _ => None,
    });
    let is_away = why_unknown.is_some_and(|why| why.contains(ErrorCode::RegistryUnavailable.as_str()));
    let advice = if is_away { AWAY } else { ELSEWHERE };
    if unknown.len() == scopes.len() {
        return Finding::warning(
            "credential",
            format!(
                "whether the credential is accepted could not be found out: {}",
                why_unknown.unwrap_or_default()
            ),
            "nothing can be said of the credential or of the nodes",
            advice,
        );
    }
    if !has && !held.is_empty() {
        return needs_none();
    }
    let mut found = format!(
        "the credential is accepted; its scopes: {}",
        if held.is_empty() { "none".to_owned() } else { held.join(", ") }
    );
    if let Some(why) = why_unknown {
        found += &format!("; could not be found out: {} ({why})", unknown.join(", "));
        let why = "what it may do there is not known; without the list of nodes nothing is said of them";
        return Finding::warning("credential", found, why, advice);
    }
    if held.contains(&"read") {
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
    use model::Level;

    use super::*;

    fn answered(status: u16, body: &'static str, allowed: &[&str]) -> Verdict {
        let answer = Response::builder().status(status).body(Bytes::from_static(body.as_bytes())).unwrap();
        verdict("GET /x", Ok(answer), allowed)
    }

    #[test]
    fn only_the_code_of_a_front_door_shows_a_scope() {
        let allowed = ["invalid-request", "not-found"];
        for (status, body, shows) in [
            (403, r#"{"code":"forbidden"}"#, Some(Verdict::Lacks)),
            (400, r#"{"code":"invalid-request"}"#, Some(Verdict::Has)),
            (404, r#"{"code":"not-found"}"#, Some(Verdict::Has)),
            (401, r#"{"code":"unauthenticated","detail":"no"}"#, Some(Verdict::Stranger("no".to_owned()))),
            (401, "", None),
            (403, "<html>", None),
            (404, "not found", None),
            (400, r#"{"code":400}"#, None),
            (429, "", None),
            (429, r#"{"code":"rate-limited"}"#, None),
            (502, "<html>", None),
            (503, r#"{"code":"registry-unavailable"}"#, None),
            (200, "[]", None),
        ] {
            let verdict = answered(status, body, &allowed);
            match shows {
                Some(shows) => assert_eq!(verdict, shows, "{status} {body}"),
                None => assert!(matches!(verdict, Verdict::Unknown(_)), "{status} {body}: {verdict:?}"),
            }
        }
        assert!(matches!(answered(404, r#"{"code":"not-found"}"#, &[]), Verdict::Unknown(_)));
    }

    #[test]
    fn while_the_registry_is_away_the_advice_is_to_bring_it_back() {
        let away =
            || Verdict::Unknown("GET /v1/nodes is answered with registry-unavailable: away".to_owned());
        for verdicts in [[away(), away(), away()], [Verdict::Has, away(), Verdict::Has]] {
            let scopes: Vec<Scope> = ["spawn", "read", "operate"].into_iter().zip(verdicts).collect();
            let finding = judge(true, &scopes);
            let advice = finding.advice.as_deref().unwrap_or_default();
            assert!(advice.contains("doctor --registry"), "{finding:?}");
        }
    }

    #[test]
    fn what_could_not_be_found_out_is_neither_had_nor_lacking() {
        let unknown = || Verdict::Unknown("403".to_owned());
        for (has, verdicts, level, words) in [
            (
                true,
                [unknown(), unknown(), unknown()],
                Level::Warning,
                "whether the credential is accepted could not",
            ),
            (
                true,
                [Verdict::Has, unknown(), unknown()],
                Level::Warning,
                "scopes: spawn; could not be found out: read, operate",
            ),
            (true, [Verdict::Lacks, Verdict::Has, Verdict::Has], Level::Ok, "its scopes: read, operate"),
            (true, [Verdict::Has, Verdict::Lacks, Verdict::Lacks], Level::Warning, "its scopes: spawn"),
            (false, [Verdict::Has, unknown(), unknown()], Level::Ok, "asks for no credential"),
            (
                true,
                [Verdict::Stranger("old".to_owned()), unknown(), unknown()],
                Level::Problem,
                "refused: old",
            ),
        ] {
            let scopes: Vec<Scope> = ["spawn", "read", "operate"].into_iter().zip(verdicts).collect();
            let finding = judge(has, &scopes);
            assert!(finding.level == level && finding.found.contains(words), "{scopes:?}: {finding:?}");
        }
    }
}
