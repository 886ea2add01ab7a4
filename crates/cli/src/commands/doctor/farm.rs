//! What the front door's list of nodes shows: nodes that take no spawns and why, a farm that is full, mixed versions, clocks.

use std::collections::BTreeMap;

use model::api::{Node, NodeList};
use model::finding::clock;
use model::{Availability, Eligibility, Finding, HealthState, Level, Timestamp, viewers_pass_in_the_clear};

use crate::output::{age, count};

/// So many nodes are named one by one; the rest is counted.
const MAX_NAMED: usize = 20;
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Everything that is to be said of the nodes. `door` is the version of the front door, where it says so.
pub(super) fn judge(list: &NodeList, door: Option<&str>, now: Timestamp) -> Vec<Finding> {
    let mut findings: Vec<Finding> = versions(list, door).into_iter().collect();
    if list.nodes.is_empty() {
        findings.push(Finding::problem(
            "nodes",
            "the farm has no nodes",
            "every spawn is refused (no-matching-node)",
            "start `hatchery agent` on a machine, with the --registry and --farm of the front door; `hatchery doctor --agent` looks at one",
        ));
        return findings;
    }
    findings.extend(list.farm_cause.as_ref().map(|cause| {
        Finding::problem(
            "farm-wide",
            format!("starts fail on {} alike: {}", cause.nodes(), cause.reason),
            "no node is left out for it, and every spawn is at risk",
            "mend what all nodes share: the licence server, the models' storage, or a request that cannot work",
        )
    }));
    let doubtful: Vec<Finding> = list.nodes.iter().filter_map(doubt).collect();
    let more = doubtful.len().saturating_sub(MAX_NAMED);
    let worst = doubtful.iter().map(|finding| finding.level).max();
    findings.extend(doubtful.into_iter().take(MAX_NAMED));
    if let (1.., Some(level)) = (more, worst) {
        let found = format!("{} like these", count(more, "more node"));
        findings.push(Finding::bad(
            "nodes",
            level,
            found,
            "they take no spawns, or should not",
            "`hatchery nodes` lists them all",
        ));
    }
    findings.push(room(list));
    findings.extend(viewers(list));
    findings.extend(registry_clock(list, now));
    findings
}

/// Nodes to which a front door that relays viewers sends their frames in the clear.
fn viewers(list: &NodeList) -> Option<Finding> {
    let nodes = list.nodes.iter();
    let open = nodes.filter(|node| viewers_pass_in_the_clear(&node.advertise, node.viewer_relay.as_deref()));
    let names: Vec<&str> = open.map(|node| node.id.as_str()).collect();
    let named = names.iter().take(MAX_NAMED).copied().collect::<Vec<_>>().join(", ");
    let more = names.len().saturating_sub(MAX_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!names.is_empty()).then(|| {
        Finding::warning(
            "viewers",
            format!("agents are called by TLS, but no relay is named by {named}{more}"),
            "a front door sends frames of viewers to these nodes in the clear",
            "run `hatchery relay` on each and name it with --viewer-relay (docs/operator/viewers.md), or keep the network your own",
        )
    })
}

/// Why a node should be looked at.
fn doubt(node: &Node) -> Option<Finding> {
    let id = &node.id;
    match node.availability {
        Availability::Down => {
            return Some(Finding::problem(
                "nodes",
                format!("{id} is down: its last heartbeat came {} ago", age(node.last_heartbeat_at)),
                "nothing is placed there, and its spawns are lost until it is back",
                "start its agent again, or look at the machine and its way to Redis; `hatchery forget` removes one that will not come back",
            ));
        }
        Availability::Stale => {
            return Some(Finding::warning(
                "nodes",
                format!("{id} is stale: its last heartbeat came {} ago", age(node.last_heartbeat_at)),
                "nothing is placed there until its heartbeats come again",
                "look at its agent's log and its way to Redis (`hatchery doctor --agent` there)",
            ));
        }
        Availability::Up => {}
    }
    if let Some(unreachable) = &node.unreachable {
        return Some(Finding::problem(
            "nodes",
            format!("{id} is up, and the front door cannot reach its agent: {}", unreachable.reason),
            "its spawns, logs and orders cannot be had; nothing is placed there while another node has room",
            format!(
                "see that {} leads to the agent from the front door's machine: --advertise, firewall, certificates of both",
                node.advertise
            ),
        ));
    }
    if node.health.state == HealthState::Failing {
        let reason = node.health.reason.as_deref().unwrap_or("its spawns end before they are ready");
        return Some(Finding::problem(
            "nodes",
            format!("{id} is failing: {reason}"),
            "it gets spawns only when no other node has room",
            "mend it (`hatchery doctor --agent` there looks at licence, GPU and disk); three starts in a row make it ok again",
        ));
    }
    let closed = |how: &str, undo: &str| {
        let why = "nothing new is placed there, as an operator wanted";
        Some(Finding::warning("nodes", format!("{id} is {how}"), why, undo.to_owned()))
    };
    match (node.eligibility, &node.drain) {
        (Eligibility::Eligible, _) => None,
        (Eligibility::Cordoned, _) => closed("cordoned", "`hatchery uncordon` opens it when you are done"),
        (Eligibility::Draining, drain) => {
            let left = drain.as_ref().map_or(node.slots.used, |drain| drain.remaining);
            let reason = drain.as_ref().and_then(|drain| drain.reason.as_deref());
            let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            closed(
                &format!("draining{reason}, {} left", count(left, "spawn")),
                "`hatchery uncordon` undoes the drain",
            )
        }
    }
}

/// Whether a spawn would find a node.
fn room(list: &NodeList) -> Finding {
    let usable: Vec<&Node> = list.nodes.iter().filter(|node| takes_spawns(node)).collect();
    let sum = |of: fn(&Node) -> u32| usable.iter().map(|node| u64::from(of(node))).sum::<u64>();
    let (used, total) = (sum(|node| node.slots.used), sum(|node| node.slots.total));
    if usable.is_empty() {
        return Finding::problem(
            "capacity",
            format!("none of {} takes spawns", count(list.nodes.len(), "node")),
            "every spawn is refused (no-matching-node)",
            "bring back a node that is down, or `hatchery uncordon` one",
        );
    }
    let found = format!(
        "{used} of {} in use on the {} open to spawns",
        count(total, "slot"),
        count(usable.len(), "node")
    );
    if used >= total {
        return Finding::problem(
            "capacity",
            format!("every node is full: {found}"),
            "new spawns are refused (no-capacity) or wait in line",
            "add nodes or raise --slots, or see who holds them: `hatchery spawns`; --max-idle ends forgotten ones",
        );
    }
    Finding::ok("capacity", found)
}

fn takes_spawns(node: &Node) -> bool {
    node.availability == Availability::Up && node.eligibility == Eligibility::Eligible
}

/// Versions of this command, the front door and the nodes; nothing, where no other than this one's is known.
fn versions(list: &NodeList, door: Option<&str>) -> Option<Finding> {
    let mut of_nodes: BTreeMap<&str, usize> = BTreeMap::new();
    for node in list.nodes.iter().filter(|node| node.availability != Availability::Down) {
        *of_nodes.entry(&node.version).or_default() += 1;
    }
    let nodes: Vec<String> =
        of_nodes.iter().map(|(version, nodes)| format!("{} {version}", count(*nodes, "node"))).collect();
    let named = door.map(|door| format!("front door {door}"));
    let found = [format!("this command {VERSION}")]
        .into_iter()
        .chain(named)
        .chain(nodes)
        .collect::<Vec<_>>()
        .join(", ");
    let mut all: Vec<&str> = of_nodes.into_keys().chain(door).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        return None;
    }
    if all.iter().all(|version| *version == VERSION) {
        return Some(Finding::ok("versions", found));
    }
    let (why, advice) = match all.as_slice() {
        [_] => {
            ("this command may not know all that the farm answers", "use the command of the farm's release")
        }
        _ => (
            "neighbouring releases work together, for the time of an upgrade",
            "finish the upgrade: docs/operator/upgrades.md",
        ),
    };
    Some(Finding::warning("versions", found, why, advice))
}

/// The registry's clock, by the last heartbeats of nodes that are up: they came a moment ago.
fn registry_clock(list: &NodeList, now: Timestamp) -> Option<Finding> {
    let up = list.nodes.iter().filter(|node| node.availability == Availability::Up);
    let last = up.map(|node| node.last_heartbeat_at.millis()).max()?;
    let ahead = i64::try_from(last).ok()? - i64::try_from(now.millis()).ok()?;
    let finding = clock("clock", "the registry", ahead);
    // A front door's list is a moment old, and so are heartbeats.
    Some(finding).filter(|finding| finding.level == Level::Ok || ahead.unsigned_abs() > 8_000)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const NOW: &str = "2026-03-01T12:00:00.000Z";

    fn node(id: &str, change: &Value) -> Value {
        let mut node = json!({"id": id, "eligibility": "eligible", "availability": "up", "slots": {"total": 4, "used": 1},
            "gpus": [], "pool": "default", "labels": {}, "version": VERSION, "epoch": "01987a5e-2f30-7c41-9d5c-0123456789ab",
            "advertise": "http://10.0.0.7:7070", "endpoint": "ws://10.0.0.7:{port}",
            "load": {"cpu": 0.0, "memoryFreeBytes": 1}, "lastHeartbeatAt": NOW});
        for (name, value) in change.as_object().unwrap() {
            node[name] = value.clone();
        }
        node
    }

    fn judged(nodes: &[Value], door: &str) -> Vec<Finding> {
        let list: NodeList = serde_json::from_value(json!({ "nodes": nodes })).unwrap();
        let now = serde_json::from_value(json!(NOW)).unwrap();
        judge(&list, Some(door), now)
    }

    #[test]
    fn a_farm_that_takes_spawns_is_all_right() {
        let findings = judged(&[node("a", &json!({})), node("b", &json!({}))], VERSION);
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
        assert!(
            findings.iter().any(|finding| finding.found.contains("2 of 8 slots in use on the 2 nodes")),
            "{findings:?}"
        );
    }

    #[test]
    fn each_node_that_takes_no_spawns_is_named_with_the_reason() {
        let drain = json!({"deadline": NOW, "remaining": 1, "reason": "new disk", "startedAt": NOW});
        for (change, check, level, words) in [
            (json!({"availability": "down"}), "nodes", Level::Problem, "x is down"),
            (json!({"availability": "stale"}), "nodes", Level::Warning, "x is stale"),
            (
                json!({"health": {"state": "failing", "reason": "no licence"}}),
                "nodes",
                Level::Problem,
                "failing: no licence",
            ),
            (
                json!({"unreachable": {"since": NOW, "reason": "connection refused"}}),
                "nodes",
                Level::Problem,
                "cannot reach its agent: connection refused",
            ),
            (json!({"eligibility": "cordoned"}), "nodes", Level::Warning, "x is cordoned"),
            (
                json!({"eligibility": "draining", "drain": drain}),
                "nodes",
                Level::Warning,
                "draining (new disk), 1 spawn left",
            ),
            (json!({"eligibility": "cordoned"}), "capacity", Level::Problem, "none of 1 node takes"),
            (
                json!({"slots": {"total": 2, "used": 2}}),
                "capacity",
                Level::Problem,
                "every node is full: 2 of 2 slots",
            ),
            (
                json!({"advertise": "https://10.0.0.7:7070"}),
                "viewers",
                Level::Warning,
                "no relay is named by x",
            ),
            (json!({"version": "0.0.1"}), "versions", Level::Warning, "1 node 0.0.1"),
            (
                json!({"lastHeartbeatAt": "2026-03-01T12:01:00.000Z"}),
                "clock",
                Level::Problem,
                "60 s ahead of",
            ),
        ] {
            let findings = judged(&[node("x", &change)], VERSION);
            let found = findings.iter().any(|finding| {
                finding.check == check && finding.level == level && finding.found.contains(words)
            });
            assert!(found, "{change}: {findings:?}");
        }
        let nothing: NodeList = serde_json::from_value(json!({ "nodes": [] })).unwrap();
        assert_eq!(versions(&nothing, None), None, "nothing is known");
        let none = judged(&[], VERSION);
        assert!(none.iter().any(|finding| finding.found == "the farm has no nodes"), "{none:?}");
        let many: Vec<Value> =
            (0..30).map(|at| node(&format!("n{at}"), &json!({"availability": "down"}))).collect();
        let findings = judged(&many, VERSION);
        assert!(findings.iter().any(|finding| finding.found == "10 more nodes like these"), "{findings:?}");
    }
}
