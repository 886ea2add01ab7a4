//! What a node has for each renderer, and how the health of one bears on the other.

use model::{Health, HealthChange, HealthState, RendererType};

/// One of something for each renderer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Renderers<T> {
    pub(super) csr: T,
    pub(super) ssr: T,
}

impl<T> Renderers<T> {
    pub(super) fn get(&self, renderer: RendererType) -> &T {
        match renderer {
            RendererType::Csr => &self.csr,
            RendererType::Ssr => &self.ssr,
        }
    }

    pub(super) fn get_mut(&mut self, renderer: RendererType) -> &mut T {
        match renderer {
            RendererType::Csr => &mut self.csr,
            RendererType::Ssr => &mut self.ssr,
        }
    }
}

impl Renderers<Health> {
    pub(super) fn is_failing(&self) -> bool {
        [&self.csr, &self.ssr].into_iter().any(|health| health.state == HealthState::Failing)
    }

    pub(super) fn succeed(&mut self, renderer: RendererType, now: u64) {
        let counts_for_both = self.is_shared();
        let failed = self.get(renderer).last;
        let recovered = self.get_mut(renderer).succeed(now) == HealthChange::Recovered;
        let other =
            self.get_mut(if renderer == RendererType::Csr { RendererType::Ssr } else { RendererType::Csr });
        if counts_for_both {
            other.succeed(now);
        } else if recovered && other.state == HealthState::Failing && other.last <= failed {
            // Whatever failed there is as old as what was mended here; without requests for it nothing would ever show that.
            *other = Health::default();
        }
    }

    /// Whether the last failure of both was one and the same: then its cause is the node's, and so is a success.
    fn is_shared(&self) -> bool {
        let failing = |health: &Health| health.state == HealthState::Failing;
        failing(&self.csr)
            && failing(&self.ssr)
            && (self.csr.last, &self.csr.reason) == (self.ssr.last, &self.ssr.reason)
    }
}
