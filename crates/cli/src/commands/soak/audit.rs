//! The audit: slots and spawns before the load, compared with those after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use model::SpawnState;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::call_error::CallError;
use crate::client::Client;
use crate::filter::Filter;
use crate::output::Columns;

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(200);
/// The longest page there is.
const PAGE: u32 = 100;

/// The states of what has a slot.
const LIVE: [SpawnState; 5] = [
    SpawnState::Launching,
    SpawnState::Ready,
    SpawnState::Suspect,
    SpawnState::Disconnected,
    SpawnState::Stopping,
];

/// What is taken at one time.
#[derive(Debug, Default)]
pub(super) struct Count {
    /// Slots and GPU slots by node.
    nodes: BTreeMap<String, (u32, u32)>,
    live: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeAudit {
    id: String,
    slots_before: u32,
    slots_after: u32,
    gpu_slots_before: u32,
    gpu_slots_after: u32,
}

/// What the farm says beside what its nodes say.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Audit {
    pub(super) passed: bool,
    leftovers: Vec<String>,
    live_before: u64,
    live_after: u64,
    nodes: Vec<NodeAudit>,
}

impl Count {
    /// As the farm is now.
    pub(super) async fn take(client: &Client) -> Result<Self, CallError> {
        let mut count = Self::default();
        for node in client.nodes().await?.value.nodes {
            let gpus = node.gpus.iter().map(|gpu| gpu.used).sum();
            count.nodes.insert(node.id.to_string(), (node.slots.used, gpus));
        }
        for state in LIVE {
            let mut cursor: Option<String> = None;
            loop {
                let page =
                    client.spawns(&Filter::of(None, Some(state)), PAGE, cursor.as_deref()).await?.value;
                count.live += u64::try_from(page.spawns.len()).unwrap_or(u64::MAX);
                cursor = page.next_cursor;
                if cursor.is_none() {
                    break;
                }
            }
        }
        Ok(count)
    }
}

impl Audit {
    /// Compares until nothing is left, for this long at the most.
    pub(super) async fn within(limit: Duration, client: &Client, before: Count) -> Result<Self, CallError> {
        let deadline = Instant::now() + limit;
        loop {
            let audit = Self::of(&before, &Count::take(client).await?);
            if audit.passed || Instant::now() >= deadline {
                return Ok(audit);
            }
            sleep(PAUSE).await;
        }
    }

    fn of(before: &Count, after: &Count) -> Self {
        let mut leftovers = Vec::new();
        let mut nodes = Vec::new();
        let names: BTreeSet<&String> = before.nodes.keys().chain(after.nodes.keys()).collect();
        for id in names {
            let taken = |count: &Count| count.nodes.get(id).copied().unwrap_or_default();
            let ((slots_before, gpu_slots_before), (slots_after, gpu_slots_after)) =
                (taken(before), taken(after));
            if slots_before != slots_after {
                leftovers.push(format!("{id}: {slots_after} slots are taken, {slots_before} were"));
            }
            if gpu_slots_before != gpu_slots_after {
                leftovers
                    .push(format!("{id}: {gpu_slots_after} GPU slots are taken, {gpu_slots_before} were"));
            }
            nodes.push(NodeAudit {
                id: id.clone(),
                slots_before,
                slots_after,
                gpu_slots_before,
                gpu_slots_after,
            });
        }
        if after.live > before.live {
            leftovers.push(format!("{} spawns live, {} did", after.live, before.live));
        }
        Self {
            passed: leftovers.is_empty(),
            leftovers,
            live_before: before.live,
            live_after: after.live,
            nodes,
        }
    }

    pub(super) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table = Columns::new(&["NODE", ">SLOTS BEFORE", ">AFTER", ">GPU SLOTS BEFORE", ">AFTER"]);
        for node in &self.nodes {
            let counts = [node.slots_before, node.slots_after, node.gpu_slots_before, node.gpu_slots_after];
            let cells = counts.map(|count| count.to_string().into());
            table.row(std::iter::once(node.id.as_str().into()).chain(cells));
        }
        table.write(out)?;
        writeln!(out, "\nlive spawns: {} before, {} after", self.live_before, self.live_after)?;
        for leftover in &self.leftovers {
            writeln!(out, "LEFT OVER: {leftover}")?;
        }
        if self.passed {
            writeln!(out, "nothing is left over")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(slots: u32, gpus: u32, live: u64) -> Count {
        Count { nodes: BTreeMap::from([("n".to_owned(), (slots, gpus))]), live }
    }

    #[test]
    fn whatever_differs_is_left_over() {
        let before = count(2, 1, 2);
        assert!(Audit::of(&before, &count(2, 1, 2)).passed);
        assert!(Audit::of(&before, &count(2, 1, 1)).passed, "one may have ended by itself");
        for (after, word) in [
            (count(3, 1, 2), "n: 3 slots are taken, 2 were"),
            (count(1, 1, 2), "n: 1 slots are taken, 2 were"),
            (count(2, 0, 2), "n: 0 GPU slots are taken, 1 were"),
            (count(2, 1, 3), "3 spawns live, 2 did"),
        ] {
            let audit = Audit::of(&before, &after);
            assert_eq!((audit.passed, audit.leftovers), (false, vec![word.to_owned()]));
        }
    }
}
