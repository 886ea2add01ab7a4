//! One node of the snapshot: as it was last seen, with what was placed on it since.

use std::sync::Arc;

use model::{Availability, Eligibility, Health, NodeKind, NodeRecord, RendererType};
use registry::{Assessment, Offer, Room};
use tokio::time::Instant;

/// A node as it was last seen.
#[derive(Debug)]
pub(super) struct SnapshotNode {
    pub(super) record: NodeRecord,
    /// Its kind's place in the list.
    pub(super) kind: usize,
    /// When the registry last knew it.
    pub(super) at: Instant,
    /// Placed from here since.
    pub(super) placed: u32,
    pub(super) placed_ssr: u32,
    /// Not chosen until then if there is another.
    pub(super) passed_over: Option<Instant>,
    /// For CSR, then for SSR.
    pub(super) health: [Health; 2],
}

impl SnapshotNode {
    pub(super) fn offers(&self, renderer: RendererType) -> bool {
        match renderer {
            RendererType::Csr => self.record.description.csr,
            RendererType::Ssr => self.record.description.ssr,
        }
    }

    pub(super) fn may_place(&self) -> bool {
        self.record.eligibility == Eligibility::Eligible && self.record.availability == Availability::Up
    }

    /// Used over all, of slots or GPU slots, whichever is scarcer; 1 and more is full.
    pub(super) fn load(&self, renderer: RendererType) -> f64 {
        self.share_of_slots().max(self.share_of_gpus(renderer))
    }

    fn share_of_slots(&self) -> f64 {
        share(self.record.used + self.placed, self.record.description.slots)
    }

    /// 0 where GPUs do not limit the node.
    fn share_of_gpus(&self, renderer: RendererType) -> f64 {
        match self.record.description.gpu_total() {
            Some(total) if renderer == RendererType::Ssr => {
                share(self.record.gpu_used + self.placed_ssr, total)
            }
            _ => 0.0,
        }
    }

    /// How much later than others of the same load it gives a spawn, see [`model::Supply::handicap`]. Each spawn that was placed from here
    /// since may have got a warm server.
    pub(super) fn handicap(&self, renderer: RendererType) -> u8 {
        let placed = match renderer {
            RendererType::Csr => self.placed.saturating_sub(self.placed_ssr),
            RendererType::Ssr => self.placed_ssr,
        };
        self.record.supply.without_warm(renderer, placed).handicap(renderer)
    }

    /// What it has for one more spawn. `kind`: its pool and labels.
    pub(super) fn assessment(&self, kind: Arc<NodeKind>) -> Assessment {
        let record = &self.record;
        Assessment {
            node: record.id.clone(),
            kind: Some(kind),
            eligibility: record.eligibility,
            availability: record.availability,
            slots: (record.used + self.placed, record.description.slots),
            gpus: record.description.gpu_total().map(|total| (record.gpu_used + self.placed_ssr, total)),
            csr: self.offer(RendererType::Csr),
            ssr: self.offer(RendererType::Ssr),
        }
    }

    fn offer(&self, renderer: RendererType) -> Offer {
        if !self.offers(renderer) {
            return Offer::not_offered();
        }
        let room = match self.load(renderer) {
            load if load < 1.0 => Room::Free(load),
            _ if self.share_of_slots() >= 1.0 => Room::Full,
            _ => Room::GpuFull,
        };
        let health = &self.health[renderer as usize];
        let failing = health.is_avoided().then(|| health.reason.clone());
        Offer { room, failing, handicap: self.handicap(renderer) }
    }
}

fn share(used: u32, total: u32) -> f64 {
    if total == 0 { f64::INFINITY } else { f64::from(used) / f64::from(total) }
}

/// Nodes that could be chosen, with their loads.
#[derive(Debug, Default)]
pub(super) struct Candidates(Vec<(usize, f64)>);

impl Candidates {
    pub(super) fn meet(&mut self, node: usize, load: f64) {
        self.0.push((node, load));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The less loaded of two at random, or one that is as loaded as that and has a smaller handicap.
    pub(super) fn better(&self, handicap: impl Fn(usize) -> u8) -> Option<usize> {
        let one = |below: usize| (below > 0).then(|| fastrand::usize(..below));
        let first = one(self.0.len())?;
        // Another one: the places after the first move up by one.
        let second = one(self.0.len() - 1).map_or(first, |at| at + usize::from(at >= first));
        let (one, other) = (self.0[first], self.0[second]);
        let (best, load) = if other.1 < one.1 { other } else { one };
        let mut least = (handicap(best), best);
        let mut met = 1;
        for (node, _) in self.0.iter().filter(|(node, of)| of.to_bits() == load.to_bits() && *node != best) {
            let handicap = handicap(*node);
            if handicap < least.0 {
                (least, met) = ((handicap, *node), 1);
            } else if handicap == least.0 {
                met += 1;
                // Each of those that are as good is as likely.
                if fastrand::usize(..met) == 0 {
                    least.1 = *node;
                }
            }
        }
        Some(least.1)
    }
}
