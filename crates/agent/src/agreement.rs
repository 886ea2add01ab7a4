//! What the agent and the registry agree on, and what a keepalive says and has the registry look at.
//!
//! The digest stands for the list of spawns and for what the node offers. It holds what is the same at every moment at which nothing has
//! changed: moments of this process, and no ages. Only this agent ever makes it and compares it, by way of the registry, with its own; the
//! next one begins with a list. So it may differ between releases.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use model::{NodeDescription, SpawnId};
use registry::{Digest, HeardReport};
use tokio::time::Instant;

use crate::spawn::SpawnStatus;

/// Every so many keepalives the registry looks at the node, and at a spawn with the others.
const NODE_TURN: u64 = 4;
/// Pings of one keepalive, so that none keeps the registry busy for long.
const MAX_PINGS: usize = 1_000;

/// The digest of a list and of what the node offers. Spawns have no order.
pub(crate) fn digest(node: &NodeDescription, spawns: &HashMap<SpawnId, SpawnStatus>) -> Digest {
    let node = serde_json::to_vec(node).unwrap_or_default();
    let sum = spawns.values().fold(wide(&node), |sum, spawn| {
        let facts = &spawn.facts;
        let viewing = (spawn.viewing.connected, spawn.viewing.disconnected);
        let origin = (&facts.origin.request_id, facts.origin.is_empty());
        sum.wrapping_add(wide(&(
            (facts.id, spawn.state, facts.renderer, &facts.endpoint, facts.gpu, facts.server),
            (&facts.labels, &facts.tags, &facts.owner, origin),
            (facts.started, spawn.ready, viewing, spawn.expires),
        )))
    });
    Digest(sum)
}

fn wide(of: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        of.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(1) << 64 | half(2)
}

/// When these spawns last reported, those that do so every `interval`.
pub(crate) fn heard(spawns: &HashMap<SpawnId, SpawnStatus>, interval: Duration, now: Instant) -> HeardReport {
    let longest = interval + interval / 4;
    let age = |spawn: &SpawnStatus| spawn.heard.map(|at| now.saturating_duration_since(at));
    let mut report = HeardReport::default();
    let mut oldest = None;
    // One that has never been ready has not reported yet.
    for spawn in spawns.values().filter(|spawn| spawn.ready.is_some()) {
        let age = age(spawn);
        oldest = oldest.max(Some(age.unwrap_or(Duration::MAX)));
        match age {
            Some(age) if age <= longest => report.since = report.since.max(Some(age)),
            _ => report.late.push((spawn.facts.id, age)),
        }
    }
    if report.late.len() > HeardReport::MAX_LATE {
        // What is true of the one that is heard of least is true of all.
        return HeardReport { since: oldest.filter(|age| *age < Duration::MAX), late: Vec::new() };
    }
    report
}

/// Spawns that have reported since `last`, and how long ago.
pub(crate) fn pings(
    spawns: &HashMap<SpawnId, SpawnStatus>,
    last: Instant,
    now: Instant,
) -> Vec<(SpawnId, Duration)> {
    let news = spawns.iter().filter_map(|(id, spawn)| Some((*id, spawn.heard.filter(|at| *at > last)?)));
    news.map(|(id, at)| (id, now.saturating_duration_since(at))).take(MAX_PINGS).collect()
}

/// What the registry looks at next: the node, and one spawn after the other. Each is looked at once before any is a second time.
#[derive(Debug, Default)]
pub(crate) struct Rotation {
    beats: u64,
    last: Option<SpawnId>,
}

/// What one heartbeat has the registry look at.
#[derive(Debug)]
pub(crate) enum HeartbeatPart<'s> {
    Node,
    Spawn(&'s SpawnStatus),
    Nothing,
}

impl Rotation {
    pub(crate) fn next<'s>(&mut self, spawns: &'s HashMap<SpawnId, SpawnStatus>) -> HeartbeatPart<'s> {
        self.beats += 1;
        let after = spawns.keys().filter(|id| self.last.is_none_or(|last| **id > last)).min();
        match after.or_else(|| spawns.keys().min()) {
            _ if self.beats.is_multiple_of(NODE_TURN) => HeartbeatPart::Node,
            Some(next) => {
                self.last = Some(*next);
                spawns.get(next).map_or(HeartbeatPart::Nothing, HeartbeatPart::Spawn)
            }
            // About as much is looked at as with spawns.
            None if self.beats % NODE_TURN == 1 => HeartbeatPart::Nothing,
            None => HeartbeatPart::Node,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use model::{NodeKind, RendererType, SpawnState};

    use super::*;
    use crate::spawn::Facts;

    fn spawns(count: usize, now: Instant) -> HashMap<SpawnId, SpawnStatus> {
        let one = |_| {
            let facts = Facts {
                id: SpawnId::mint(),
                renderer: RendererType::Csr,
                port: 1,
                endpoint: "ws://h:1".to_owned(),
                gpu: None,
                labels: BTreeMap::new(),
                tags: BTreeMap::new(),
                owner: None,
                origin: Default::default(),
                secret: None,
                token: None,
                endpoint_form: None,
                user: None,
                server: None,
                started: now,
                max_idle: None,
            };
            let id = facts.id;
            let (ready, heard) = (Some(now), Some(now));
            (id, SpawnStatus { state: SpawnState::Ready, ready, heard, ..SpawnStatus::new(Arc::new(facts)) })
        };
        (0..count).map(one).collect()
    }

    fn node(slots: u32) -> NodeDescription {
        NodeDescription {
            advertise: "http://h".to_owned(),
            endpoint: String::new(),
            kind: NodeKind { pool: "default".to_owned(), labels: BTreeMap::new(), dedicated: false },
            slots,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: true,
            version: String::new(),
            viewer_relay: None,
        }
    }

    #[test]
    fn a_digest_is_the_same_until_something_changes_and_pings_change_nothing() {
        let now = Instant::now();
        let mut spawns = spawns(3, now);
        let same = digest(&node(4), &spawns);
        let later = now + Duration::from_secs(9);
        let id = *spawns.keys().next().unwrap();
        let change = |spawns: &mut HashMap<SpawnId, SpawnStatus>, what: &dyn Fn(&mut SpawnStatus)| {
            what(spawns.get_mut(&id).unwrap());
            digest(&node(4), spawns)
        };
        assert_eq!(change(&mut spawns, &|spawn| spawn.heard = Some(later)), same);
        assert_ne!(digest(&node(5), &spawns), same);
        let changes: [&dyn Fn(&mut SpawnStatus); 4] = [
            &|spawn| spawn.state = SpawnState::Suspect,
            &|spawn| spawn.viewing.connected = Some(later),
            &|spawn| spawn.viewing.disconnected = Some(later),
            &|spawn| spawn.expires = Some(later),
        ];
        let mut seen = vec![same];
        for what in changes {
            let next = change(&mut spawns, what);
            assert!(!seen.contains(&next));
            seen.push(next);
        }
        let gone = spawns.remove(&id).unwrap();
        assert!(!seen.contains(&digest(&node(4), &spawns)));
        spawns.insert(id, gone);
        assert_eq!(Some(&digest(&node(4), &spawns)), seen.last(), "in whatever order");
    }

    #[test]
    fn late_spawns_are_named_and_the_others_are_spoken_of_together() {
        let (interval, began) = (Duration::from_secs(4), Instant::now());
        let now = began + Duration::from_secs(60);
        let mut spawns = spawns(20, now - Duration::from_secs(4));
        assert_eq!(heard(&spawns, interval, now).since, Some(Duration::from_secs(4)));
        let ids: Vec<SpawnId> = spawns.keys().copied().collect();
        spawns.get_mut(&ids[0]).unwrap().heard = Some(now - Duration::from_secs(6));
        spawns.get_mut(&ids[1]).unwrap().heard = None;
        spawns.get_mut(&ids[2]).unwrap().heard = Some(now);
        let report = heard(&spawns, interval, now);
        assert_eq!((report.since, report.late.len()), (Some(Duration::from_secs(4)), 2));
        assert!(report.late.contains(&(ids[0], Some(Duration::from_secs(6)))));
        assert!(report.late.contains(&(ids[1], None)));
        assert_eq!(pings(&spawns, now - Duration::from_secs(1), now), [(ids[2], Duration::ZERO)]);
        for id in &ids {
            spawns.get_mut(id).unwrap().heard = Some(now - Duration::from_secs(7));
        }
        let report = heard(&spawns, interval, now);
        assert_eq!((report.since, report.late), (Some(Duration::from_secs(7)), vec![]), "too many to name");
    }

    #[test]
    fn every_spawn_is_looked_at_before_any_is_again_while_others_come_and_go() {
        let now = Instant::now();
        let mut all = spawns(9, now);
        let (mut rotation, mut seen, mut nodes) = (Rotation::default(), Vec::new(), 0);
        for _ in 0..12 {
            match rotation.next(&all) {
                HeartbeatPart::Spawn(spawn) => seen.push(spawn.facts.id),
                HeartbeatPart::Node => nodes += 1,
                HeartbeatPart::Nothing => panic!("there are spawns"),
            }
        }
        assert_eq!((seen.len(), nodes), (9, 3));
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 9);
        all.extend(spawns(1, now));
        let HeartbeatPart::Spawn(next) = rotation.next(&all) else { panic!("a spawn's turn") };
        assert!(!seen.contains(&next.facts.id), "the new one comes before the first again");
        let none = HashMap::new();
        assert_eq!((0..8).filter(|_| matches!(rotation.next(&none), HeartbeatPart::Node)).count(), 6);
    }
}
