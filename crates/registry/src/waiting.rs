//! The line as others see it: who waits for what, since when, and at which position.
//!
//! Both backends read their places, and [`positions`] counts. A waiter is before another when it has a lower number and both could use a
//! slot of one kind of node: such a slot goes to the lower number, whatever the renderer.

use std::collections::HashMap;

use model::{Demand, Owner, TicketId, Timestamp};
use serde::{Deserialize, Serialize};

/// Places that are read, from the front of the line.
pub const MAX_LISTED: usize = 10_000;

/// Requests on their way, see [`Registry::pending`](crate::Registry::pending).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pending {
    /// Slots that are reserved for spawns that no agent has reported yet.
    pub reserved: u64,
    /// Places in line, those included that have lapsed and were not dropped yet.
    pub waiting: u64,
}

/// A request that waits in line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingRequest {
    /// Its place in line, which it must renew.
    pub ticket: TicketId,
    /// 1: it is next. The others come after as many as could take a slot that it could use.
    pub position: u64,
    /// The kinds of node that it waits for, as texts, in order.
    pub kinds: Vec<String>,
    /// Since when it has its place. Absent, as the other two, where a front door of the release before this one gave it the place.
    pub since: Option<Timestamp>,
    /// What it waits for.
    pub demand: Option<Demand>,
    /// Who will own the spawn.
    pub owner: Option<Owner>,
}

/// What the registry keeps of a waiter beside its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiter {
    pub(crate) demand: Demand,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) owner: Option<Owner>,
}

/// A place in line that has not lapsed, without its position.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) ticket: TicketId,
    /// In order, each once.
    pub(crate) kinds: Vec<String>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) waiter: Option<Waiter>,
}

/// Counts who is before whom. `places`: the whole line, in its order.
///
/// Waiters for the same kinds of node are one group, and there are few groups, so the cost grows with the line and not with its square.
pub(crate) fn positions(places: Vec<Place>) -> Vec<WaitingRequest> {
    let mut groups: Vec<Group> = Vec::new();
    let mut known: HashMap<Vec<String>, usize> = HashMap::new();
    let count = |place: Place| {
        let group = *known.entry(place.kinds.clone()).or_insert_with(|| {
            let met = (0..groups.len()).filter(|g| groups[*g].meets(&place.kinds)).collect();
            let new = Group { kinds: place.kinds.clone(), met, places: 0 };
            let index = groups.len();
            for other in &new.met {
                groups[*other].met.push(index);
            }
            groups.push(new);
            index
        });
        let before = groups[group].places + groups[group].met.iter().map(|g| groups[*g].places).sum::<u64>();
        groups[group].places += 1;
        let Place { ticket, kinds, since, waiter } = place;
        let (demand, owner) = waiter.map_or((None, None), |waiter| (Some(waiter.demand), waiter.owner));
        WaitingRequest { ticket, position: before + 1, kinds, since, demand, owner }
    };
    places.into_iter().map(count).collect()
}

/// Waiters for the same kinds of node.
struct Group {
    kinds: Vec<String>,
    /// Other groups that wait for one of these kinds as well.
    met: Vec<usize>,
    /// Places so far.
    places: u64,
}

impl Group {
    fn meets(&self, kinds: &[String]) -> bool {
        self.kinds.iter().any(|kind| kinds.contains(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_counts_those_before_that_could_use_a_slot_of_the_same_kind() {
        for (line, expected) in [
            (&[][..], &[][..]),
            (&["a", "a", "a"], &[1, 2, 3]),
            (&["a", "b", "a", "b"], &[1, 1, 2, 2]),
            // One that could use either is behind both, and before both.
            (&["a", "b", "a b", "b", "c"], &[1, 1, 3, 3, 1]),
            (&["a b", "b c", "a c", "d"], &[1, 2, 3, 1]),
            (&["", "a", ""], &[1, 1, 2]),
        ] {
            let place = |kinds: &&str| Place {
                ticket: TicketId::mint(),
                kinds: kinds.split_whitespace().map(str::to_owned).collect(),
                since: None,
                waiter: None,
            };
            let positions = positions(line.iter().map(place).collect());
            let positions: Vec<u64> = positions.iter().map(|waiting| waiting.position).collect();
            assert_eq!(positions, expected, "{line:?}");
        }
    }
}
