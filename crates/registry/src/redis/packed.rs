//! Health as `lua/health.lua` keeps it in one field of a node's record. What is absent or malformed counts as no failure on record:
//! health never hides a node.

use model::HealthState;
use model::health::Health;

/// Reads the field. One that is absent or malformed counts as no failure on record.
pub(super) fn health(text: &str) -> Health {
    parse(text).unwrap_or_default()
}

fn parse(text: &str) -> Option<Health> {
    let mut parts = text.splitn(9, '|');
    let mut next = || parts.next();
    let state = match next()? {
        "f" => HealthState::Failing,
        "o" => HealthState::Ok,
        _ => return None,
    };
    let (failures, successes) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (since, last, next_probe) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let (failed_probes, hold) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let reason = next()?.to_owned();
    Some(Health { state, failures, successes, reason, since, last, next_probe, failed_probes, hold })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_read_as_it_was_written_and_nonsense_says_nothing() {
        let read = health("f|3|1|1000|2000|3000|2|500|exit | code\n6");
        assert_eq!((read.state, read.failures, read.successes), (HealthState::Failing, 3, 1));
        assert_eq!((read.since, read.last, read.next_probe), (1000, 2000, 3000));
        assert_eq!((read.failed_probes, read.hold, read.reason.as_str()), (2, 500, "exit | code\n6"));
        for nonsense in
            ["", "f", "x|1|1|1|1|1|1|1|", "f|1|1|1|1|1|1|1", "f|1|-1|1|1|1|1|1|r", "f|one|1|1|1|1|1|1|r"]
        {
            assert_eq!(health(nonsense), Health::default(), "{nonsense:?}");
        }
    }
}
