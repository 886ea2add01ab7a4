//! The heartbeat while both agree: when it is enough, what it says, and what follows from its answer.

use model::NodeDescription;
use registry::{Check, Keepalive, Orders, RegistryError};
use tokio::time::Instant;

use super::{Relay, ReportOutcome};
use crate::agreement::{self, HeartbeatPart};

impl Relay {
    pub(super) fn after_keepalive(
        &mut self,
        answer: Result<Orders, RegistryError>,
        started: Instant,
    ) -> ReportOutcome {
        match answer {
            Ok(Orders { differs: Some(difference), .. }) => {
                tracing::info!(
                    what = difference.as_str(),
                    "the registry holds something else, it gets the whole list"
                );
                (self.agreed, self.differs) = (None, Some(difference));
                ReportOutcome::Everything
            }
            Ok(orders) => {
                self.node.metrics.report_time.observe(started.elapsed().as_secs_f64());
                self.next_heartbeat = started + self.node.config.heartbeat;
                self.is_up();
                self.apply(orders);
                ReportOutcome::Accepted
            }
            Err(error) => self.failed(&error),
        }
    }

    pub(super) fn description(&self, slots: u32) -> NodeDescription {
        NodeDescription { slots, ..self.node.description.clone() }
    }

    /// The heartbeat that is due, as long as it says all that the registry need know.
    pub(super) fn keepalive(&mut self, now: Instant) -> Option<Keepalive> {
        let is_settled = !self.takeover && self.sent == self.accepted && self.void.is_empty();
        let agreed = self.agreed.filter(|_| is_settled && self.next_heartbeat <= now)?;
        let table = self.node.table();
        for (id, spawn) in &mut self.reported {
            spawn.heard = table.last_heard(*id).or(spawn.heard);
        }
        let (slots, gpus, generation) = (table.slots(), table.gpu_slots(), table.desired().generation);
        let supply = table.supply(self.node.starts.depth(), now);
        let is_whole = self.dropped == table.dropped_changes();
        drop(table);
        let description = self.description(slots);
        if !is_whole || agreement::digest(&description, &self.reported) != agreed {
            return None;
        }
        let check = match self.rotation.next(&self.reported) {
            HeartbeatPart::Spawn(spawn) => Check::Spawn(Box::new(spawn.report(now))),
            HeartbeatPart::Nothing => Check::Counts,
            HeartbeatPart::Node => {
                Check::Node { description: Box::new(description), identity: self.node.state.identity }
            }
        };
        let pings = self.pinged.map_or_else(Vec::new, |last| agreement::pings(&self.reported, last, now));
        self.pinged = self.pinged.map(|_| now);
        let count = |spawns: usize| u32::try_from(spawns).unwrap_or(u32::MAX);
        Some(Keepalive {
            node: self.node.config.node.clone(),
            epoch: self.node.epoch,
            accepted: self.accepted,
            digest: agreed,
            spawns: count(self.reported.len()),
            gpu_spawns: count(self.reported.values().filter(|spawn| spawn.facts.gpu.is_some()).count()),
            generation,
            load: self.processors.load(),
            supply,
            gpus,
            heard: agreement::heard(&self.reported, self.node.config.ping_interval, now),
            pings,
            check,
        })
    }

    /// Counts a list, by what it is for.
    pub(super) fn count_list(&self) {
        let reason = match self.differs {
            _ if self.takeover => "start",
            Some(difference) => difference.as_str(),
            None if !self.void.is_empty() => "orders",
            None if self.agreed.is_none() => "unanswered",
            None => "changed",
        };
        self.node.metrics.list_sent(reason);
    }
}
