//! A spawn as the view has it: what subscribers see, and whose it is.

use model::api::Spawn;
use model::{Owner, SpawnRecord};

use crate::callers::OwnerNames;

/// Rights go by `owner`; `spawn.owner` is what subscribers read.
#[derive(Debug, Clone)]
pub(crate) struct Followed {
    pub(crate) spawn: Spawn,
    pub(crate) owner: Option<Owner>,
}

impl From<SpawnRecord> for Followed {
    fn from(record: SpawnRecord) -> Self {
        Self { owner: record.owner.clone(), spawn: Spawn::listed(record) }
    }
}

impl Followed {
    /// With the name that its owner has now.
    pub(crate) fn named(&mut self, names: &OwnerNames) {
        self.spawn.owner = self.owner.as_ref().map(|owner| names.shown(owner));
    }
}
