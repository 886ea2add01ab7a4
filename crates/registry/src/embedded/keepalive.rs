//! The heartbeat of a node on which nothing has changed. `redis/lua/keepalive.lua` does the same.
//!
//! Nothing damages memory, so what the keepalive has the registry look at is not needed here: the digests decide.

use model::{Availability, Heard, NodeId, SpawnId, SpawnRecord, Timestamp};

use super::farm::Farm;
use crate::agreement::{Difference, HeardReport};
use crate::keepalive::Keepalive;
use crate::pings::event;
use crate::report::{Orders, is_news};

impl Farm {
    pub(super) fn keepalive(&mut self, keepalive: &Keepalive) -> Orders {
        let (node, now) = (&keepalive.node, self.now);
        if let Some(differs) = self.differs(keepalive) {
            return Orders { differs: Some(differs), ..Orders::default() };
        }
        for (spawn, age) in &keepalive.heard.late {
            let at = age.map(|age| now.before(age));
            if let Some((record, at)) = self.history.get_mut(*spawn).zip(at)
                && is_news(record.last_ping_at, at)
            {
                record.last_ping_at = Some(at);
            }
        }
        let pings: Vec<_> = keepalive.pings.iter().map(|(spawn, age)| (*spawn, now.before(*age))).collect();
        self.relay_pings(node, &pings);
        if let Some(state) = self.nodes.get_mut(node) {
            self.beats.remove(&(state.beat, node.clone()));
            self.beats.insert((now, node.clone()));
            state.load = keepalive.load;
            state.gpus.clone_from(&keepalive.gpus);
            state.beat = now;
            state.heard = heard(&keepalive.heard, now);
            if state.supply != keepalive.supply {
                state.supply.clone_from(&keepalive.supply);
                // Among nodes of the same load it stands elsewhere now.
                self.place(node);
            }
        }
        self.orders(node)
    }

    /// Pings that are wanted, on their way to subscribers.
    pub(super) fn relay_pings(&mut self, node: &NodeId, pings: &[(SpawnId, Timestamp)]) {
        if pings.is_empty() || !self.pings.are_wanted(node, self.now) {
            return;
        }
        let seq = self.history.next_seq(self.now);
        self.pings.push(event(seq, self.now, node.clone(), pings));
    }

    fn differs(&self, keepalive: &Keepalive) -> Option<Difference> {
        let state = self.nodes.get(&keepalive.node).filter(|state| state.epoch == keepalive.epoch);
        let Some(state) = state else { return Some(Difference::Unknown) };
        if state.availability != Availability::Up {
            return Some(Difference::Silent);
        }
        if state.serial != keepalive.accepted {
            return Some(Difference::Changes);
        }
        if state.digest != Some(keepalive.digest) {
            return Some(Difference::Digest);
        }
        (state.generation < keepalive.generation).then_some(Difference::Order)
    }

    /// A record with the time at which its spawn last reported.
    pub(super) fn heard_of(&self, mut record: SpawnRecord) -> SpawnRecord {
        if let Some(state) = self.nodes.get(&record.node) {
            record.last_ping_at = state.heard.last_ping(record.id, record.state, record.last_ping_at);
        }
        record
    }
}

/// In the registry's time.
pub(super) fn heard(report: &HeardReport, now: Timestamp) -> Heard {
    Heard {
        since: report.since.map(|age| now.before(age)),
        late: report.late.iter().map(|(spawn, _)| *spawn).collect(),
    }
}
