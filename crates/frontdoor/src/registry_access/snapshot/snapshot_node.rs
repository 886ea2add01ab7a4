//! One node of the snapshot: as it was last seen, with what was placed on it since.

use std::sync::Arc;

use model::{Availability, Eligibility, Health, HealthState, NodeKind, NodeRecord, RendererType};
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
            return Offer { room: Room::NotOffered, failing: None };
        }
        let room = match self.load(renderer) {
            load if load < 1.0 => Room::Free(load),
            _ if self.share_of_slots() >= 1.0 => Room::Full,
            _ => Room::GpuFull,
        };
        let health = &self.health[renderer as usize];
        let failing = (health.state == HealthState::Failing).then(|| health.reason.clone());
        Offer { room, failing }
    }
}

fn share(used: u32, total: u32) -> f64 {
    if total == 0 { f64::INFINITY } else { f64::from(used) / f64::from(total) }
}

/// Two at random out of any number (reservoir sampling).
#[derive(Debug, Default)]
pub(super) struct Pair {
    pub(super) met: usize,
    two: [Option<(usize, f64)>; 2],
}

impl Pair {
    pub(super) fn meet(&mut self, node: usize, load: f64) {
        let place = if self.met < 2 { self.met } else { fastrand::usize(..=self.met) };
        if let Some(slot) = self.two.get_mut(place) {
            *slot = Some((node, load));
        }
        self.met += 1;
    }

    pub(super) fn better(&self) -> Option<usize> {
        let mut two = self.two.iter().flatten();
        let (first, second) = (two.next()?, two.next());
        Some(second.filter(|second| second.1 < first.1).unwrap_or(first).0)
    }
}
