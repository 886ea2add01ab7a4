//! When spawns last reported. A heartbeat says it for all spawns of its node at once, so records are completed when they are read.

use std::collections::BTreeMap;

use model::{Heard, NodeId, SpawnRecord, SpawnState, Timestamp};
use redis::pipe;

use super::Redis;
use crate::error::RegistryError;

impl Redis {
    /// Completes these records. One more round trip, where any of them is of a spawn that reports.
    pub(super) async fn heard_of(&self, records: &mut [SpawnRecord]) -> Result<(), RegistryError> {
        let reports = |record: &SpawnRecord| {
            !matches!(record.state, SpawnState::Launching | SpawnState::Exited | SpawnState::Lost)
        };
        let mut nodes: BTreeMap<NodeId, Heard> =
            records.iter().filter(|r| reports(r)).map(|r| (r.node.clone(), Heard::default())).collect();
        if nodes.is_empty() {
            return Ok(());
        }
        let mut read = pipe();
        for node in nodes.keys() {
            read.hget(self.key(&format!("node:{node}")), "heard");
        }
        let texts: Vec<Option<String>> = self.ask("heard", &read).await?;
        for (heard, text) in nodes.values_mut().zip(texts) {
            *heard = parse(text.as_deref().unwrap_or_default());
        }
        for record in records {
            if let Some(heard) = nodes.get(&record.node) {
                complete(record, heard);
            }
        }
        Ok(())
    }
}

pub(super) fn complete(record: &mut SpawnRecord, heard: &Heard) {
    record.last_ping_at = heard.last_ping(record.id, record.state, record.last_ping_at);
}

/// The field `heard` of a node: a time, and the late spawns. What cannot be read is not known.
pub(super) fn parse(text: &str) -> Heard {
    let mut words = text.split(' ');
    let since = words.next().and_then(|ms| ms.parse().ok()).map(Timestamp::from_millis);
    Heard { since, late: words.filter_map(|id| id.parse().ok()).collect() }
}
