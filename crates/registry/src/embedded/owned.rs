//! What an owner's quota counts: its reservations and spawns that hold a slot.
//!
//! Spawns that are lost with a node do not count. Else a node that never comes back would keep its owners from starting
//! others for as long as the node is remembered.

use std::collections::{HashMap, HashSet};

use model::{Owner, SpawnId};

/// Spawns by owner; an owner without any has no entry.
#[derive(Debug, Clone, Default)]
pub(super) struct Owned(HashMap<Owner, HashSet<SpawnId>>);

impl Owned {
    /// Whether an owner has `most` spawns or more.
    pub(super) fn is_over(&self, owner: &Owner, most: u32) -> bool {
        self.0.get(owner).map_or(0, HashSet::len) >= usize::try_from(most).unwrap_or(usize::MAX)
    }

    pub(super) fn add(&mut self, owner: Option<&Owner>, spawn: SpawnId) {
        let Some(owner) = owner else { return };
        match self.0.get_mut(owner) {
            Some(spawns) => {
                spawns.insert(spawn);
            }
            None => {
                self.0.insert(owner.clone(), HashSet::from([spawn]));
            }
        }
    }

    pub(super) fn remove(&mut self, owner: Option<&Owner>, spawn: SpawnId) {
        if let Some(owner) = owner
            && let Some(spawns) = self.0.get_mut(owner)
        {
            spawns.remove(&spawn);
            if spawns.is_empty() {
                self.0.remove(owner);
            }
        }
    }
}
