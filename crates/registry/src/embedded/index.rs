//! Keeps the stocks of nodes with room true to [`Farm::nodes`].
//!
//! Every change of a node must end with [`Farm::place`]: a stale index hides a node with room, or offers one without.

use model::{NodeId, RendererType};

use super::farm::Farm;

impl Farm {
    /// Brings the index up to date after any change of a node.
    pub(super) fn place(&mut self, node: &NodeId) {
        let Some(state) = self.nodes.get(node) else { return };
        for renderer in [RendererType::Csr, RendererType::Ssr] {
            let key = (state.description.kind.clone(), renderer);
            if !state.offers(renderer) {
                if let Some(stock) = self.stock.get_mut(&key) {
                    stock.members.remove(node);
                    stock.take(node);
                }
                continue;
            }
            let stock = self.stock.entry(key).or_default();
            if state.may_place() {
                stock.members.insert(node.clone());
            } else {
                stock.members.remove(node);
            }
            let score = state.room(renderer).ok().filter(|_| state.may_place());
            stock.put(node, score, state.supply.handicap(renderer), state.health.get(renderer));
        }
    }

    /// Takes a node out of the index, before its kind changes or it is forgotten. Drops kinds without nodes.
    pub(super) fn unplace(&mut self, node: &NodeId) {
        for stock in self.stock.values_mut() {
            stock.members.remove(node);
            stock.take(node);
        }
        let nodes = &self.nodes;
        self.stock.retain(|(kind, renderer), _| {
            nodes.iter().any(|(id, n)| id != node && n.description.kind == *kind && n.offers(*renderer))
        });
    }
}
