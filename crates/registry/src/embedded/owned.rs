//! What owners have: everything of theirs that holds a slot, but not what is lost with a node. A node that does not come back
//! must not keep its spawns' owners from starting others for as long as it is remembered.

use std::collections::{HashMap, HashSet};

use model::{Owner, SpawnId};

/// By owner; those that have nothing are not in it.
#[derive(Debug, Default)]
pub(super) struct Owned(HashMap<Owner, HashSet<SpawnId>>);

impl Owned {
    /// Whether an owner has as many as it may have.
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
