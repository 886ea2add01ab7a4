//! What an operator should change about this front door, in words, for `/readyz` and `hatchery doctor`. Anybody may read it, so it names no
//! key, file or node.

use std::time::Duration;

use model::Timestamp;

use super::edge::Edge;

/// Certificates that end within this time are warned of.
const CERTIFICATE_DAYS: u64 = 14;
/// API keys that end within this time are warned of.
const KEY_DAYS: u64 = 7;
/// A webhook whose oldest event has waited for so long takes nothing.
const WEBHOOK_LAG: Duration = Duration::from_secs(300);

/// Everything that is to be said.
pub(super) fn warnings(edge: &Edge) -> Vec<String> {
    let mut warnings = edge.registry.warnings();
    warnings.extend(counted(
        edge.agents.all_unreached().len(),
        ["node that is up", "nodes that are up"],
        |nodes| format!("this front door cannot reach the agents of {nodes}: `hatchery nodes` names them"),
    ));
    let tls = &edge.config.tls;
    let certificates = [
        ("that callers see", tls.http.as_ref().and_then(tls::Server::not_after)),
        ("that agents see", tls.agents.as_ref().and_then(tls::Client::not_after)),
    ];
    let now = Timestamp::now();
    warnings.extend(certificates.into_iter().filter_map(|(which, end)| certificate(which, end?, now)));
    if let Some(authenticator) = &edge.authenticator {
        let ending = authenticator.access().keys_ending(Duration::from_secs(KEY_DAYS * 86_400));
        warnings.extend(counted(ending, ["API key", "API keys"], |keys| {
            format!("{keys} will end within {KEY_DAYS} days: `hatchery key list` says which")
        }));
    }
    if let Some(settings) = &edge.config.webhooks {
        let behind = settings
            .targets
            .iter()
            .filter(|target| edge.metrics.webhooks.of(&target.shown).lag_now() > WEBHOOK_LAG);
        warnings.extend(counted(behind.count(), ["webhook", "webhooks"], |webhooks| {
            format!("{webhooks} took no event for more than five minutes: see the receiver, and this front door's log")
        }));
    }
    warnings
}

/// Words about so many things, if there are any.
fn counted(number: usize, what: [&str; 2], words: impl FnOnce(String) -> String) -> Option<String> {
    let [one, many] = what;
    match number {
        0 => None,
        1 => Some(words(format!("1 {one}"))),
        more => Some(words(format!("{more} {many}"))),
    }
}

/// `end` in seconds since 1970.
fn certificate(which: &str, end: u64, now: Timestamp) -> Option<String> {
    let now = now.millis() / 1000;
    if end <= now {
        return Some(format!(
            "the certificate {which} has ended: put a new one in its place, it is read at once"
        ));
    }
    let days = (end - now) / 86_400;
    (days < CERTIFICATE_DAYS).then(|| {
        format!("the certificate {which} ends in {days} days: put a new one in its place, it is read at once")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_of_for_two_weeks_before_its_end_and_after_it() {
        let now = Timestamp::from_millis(100 * 86_400_000);
        let said = |days: u64| certificate("that agents see", days * 86_400, now);
        assert_eq!(said(114), None);
        assert!(said(113).unwrap().starts_with("the certificate that agents see ends in 13 days"));
        assert!(said(100).unwrap().contains("has ended"));
    }

    #[test]
    fn things_are_counted_in_their_number() {
        let said = |number| counted(number, ["webhook", "webhooks"], |webhooks| webhooks);
        let said = [0, 1, 2].map(said);
        assert_eq!(said, [None, Some("1 webhook".to_owned()), Some("2 webhooks".to_owned())]);
    }
}
