//! What each node has, for people who ask why. `redis/lua/assess.lua` says the same.
//!
//! [`NodeState::room`] decides here as it does in the index, so an assessment cannot disagree with a reserve.

use std::sync::Arc;

use model::RendererType;

use super::farm::{Farm, NoRoom, NodeState};
use crate::verdict::{Assessment, Offer, Room};

impl Farm {
    /// All nodes, by name. Silence is judged before.
    pub(super) fn assess(&mut self) -> Vec<Assessment> {
        self.expire_beats();
        let assessed = self.nodes.iter().map(|(id, state)| Assessment {
            node: id.clone(),
            kind: Some(Arc::new(state.description.kind.clone())),
            eligibility: state.eligibility,
            availability: state.availability,
            slots: (state.used(), state.description.slots),
            gpus: state.description.gpu_total().map(|total| (state.gpu_used(), total)),
            csr: offer(state, RendererType::Csr),
            ssr: offer(state, RendererType::Ssr),
        });
        assessed.collect()
    }
}

fn offer(state: &NodeState, renderer: RendererType) -> Offer {
    if !state.offers(renderer) {
        return Offer::not_offered();
    }
    let room = match state.room(renderer) {
        Ok(load) => Room::Free(load.value()),
        Err(NoRoom::Slots) => Room::Full,
        Err(NoRoom::GpuSlots) => Room::GpuFull,
    };
    let health = state.health.get(renderer);
    let failing = health.is_avoided().then(|| health.reason.clone());
    Offer { room, failing, handicap: state.supply.handicap(renderer) }
}
