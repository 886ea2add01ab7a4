//! Where the time of a spawn went: its phases, in milliseconds after its request.
//!
//! Phases before `launching` are times of the front door's clock, the others of the registry's. They are put together where the front door
//! called the agent, which is when `launching` begins, so the time that this call was on its way counts as none.

use std::io::{self, Write};

use model::api::Spawn;
use model::{Phases, Timestamp};

use crate::output::Columns;

/// The phases that are known, each with the milliseconds after the first one.
fn phases(spawn: &Spawn) -> Vec<(&'static str, u64)> {
    let mut phases = Vec::new();
    let begun = spawn.phases.map_or(0, |Phases { waited_ms, reserved_ms, sent_ms }| {
        phases.push(("asked", 0));
        // The wait ends with the slot.
        phases.extend(waited_ms.map(|waited| ("in line", reserved_ms.saturating_sub(waited))));
        phases.push(("reserved", reserved_ms));
        sent_ms
    });
    let mut add = |phase, at: Option<Timestamp>| {
        let since = |at: Timestamp| u64::try_from(at.since(spawn.started_at).as_millis()).unwrap_or(u64::MAX);
        phases.extend(at.map(|at| (phase, begun.saturating_add(since(at)))));
    };
    add("launching", Some(spawn.started_at));
    add("ready", spawn.ready_at);
    add("connected", spawn.connected_at);
    add("disconnected", spawn.disconnected_at);
    add("ended", spawn.ended_at);
    phases
}

/// Writes them as a table, with what each took until the next.
pub(super) fn write(spawn: &Spawn, out: &mut impl Write) -> io::Result<()> {
    let phases = phases(spawn);
    if phases.len() < 2 {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Columns::new(&["PHASE", ">AT MS", ">TOOK MS"]);
    for (at, (phase, ms)) in phases.iter().enumerate() {
        let took = phases.get(at + 1).map(|(_, next)| next.saturating_sub(*ms).to_string());
        table.row([(*phase).into(), ms.to_string().into(), took.unwrap_or_default().into()]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn spawn(more: Value) -> Spawn {
        let mut spawn = json!({
            "id": "01987a5e-2f30-7c41-9d5c-0123456789ab", "node": "node-a", "endpoint": "ws://a", "rendererType": "csr",
            "state": "ready", "startedAt": "2026-11-27T10:00:00.000Z", "pool": "default",
        });
        let (Value::Object(spawn), Value::Object(more)) = (&mut spawn, more) else { unreachable!() };
        spawn.extend(more);
        serde_json::from_value(Value::Object(spawn.clone())).unwrap()
    }

    #[test]
    fn the_phases_of_a_spawn_stand_in_their_order_after_its_request() {
        let waited = spawn(json!({
            "phases": {"waitedMs": 700, "reservedMs": 810, "sentMs": 812},
            "readyAt": "2026-11-27T10:00:00.130Z", "connectedAt": "2026-11-27T10:00:01.000Z", "endedAt": "2026-11-27T10:00:02.000Z",
        }));
        let expected = [
            ("asked", 0),
            ("in line", 110),
            ("reserved", 810),
            ("launching", 812),
            ("ready", 942),
            ("connected", 1812),
            ("ended", 2812),
        ];
        assert_eq!(phases(&waited), expected);
        let mut text = Vec::new();
        write(&waited, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let ready = text.lines().find(|line| line.starts_with("ready")).unwrap();
        assert_eq!(ready.split_whitespace().collect::<Vec<_>>(), ["ready", "942", "870"], "{text}");
    }

    #[test]
    fn a_spawn_whose_request_is_not_known_begins_with_its_launch() {
        let old = spawn(json!({"readyAt": "2026-11-27T10:00:00.030Z"}));
        assert_eq!(phases(&old), [("launching", 0), ("ready", 30)]);
    }
}
