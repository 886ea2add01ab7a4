//! How soon a node can give a spawn: servers that it keeps started, and starts that wait for their turn.
//!
//! The agent writes it with every heartbeat. It changes from one second to the next and is no event. Placement looks at it only
//! between nodes of the same load, by [`Supply::handicap`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::spawn::RendererType;

/// The starts of a node: so many servers start at once, and the others wait in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Starts {
    /// Servers that start at once at the most.
    pub limit: u32,
    /// Admitted spawns whose start waits for another one to be ready or to fail.
    pub waiting: u32,
}

/// The warm servers of one renderer: they are started and ready, and belong to no spawn yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WarmCount {
    /// Those that a request could get now.
    pub ready: u32,
    /// As many as the agent is to keep (`--warm`).
    pub wanted: u32,
}

/// See the module. Both parts are absent in the reports of agents of the release before this one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Supply {
    /// Starts that are under way and that wait for their turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<Starts>,
    /// The warm servers, of each renderer that some are to be kept of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub warm: BTreeMap<RendererType, WarmCount>,
}

impl Supply {
    /// The worst that [`Self::handicap`] gives.
    pub const MAX_HANDICAP: u8 = 63;

    /// The same after so many warm servers of this renderer were claimed.
    #[must_use]
    pub fn without_warm(&self, renderer: RendererType, claimed: u32) -> Self {
        let mut rest = self.clone();
        if let Some(warm) = rest.warm.get_mut(&renderer) {
            warm.ready = warm.ready.saturating_sub(claimed);
        }
        rest
    }

    /// How much later than others a node gives a spawn: 0 with a warm server of this renderer, else 1, and more the more starts
    /// wait, in quarters of what starts at once. Among nodes of the same load, the smaller one is chosen.
    #[must_use]
    pub fn handicap(&self, renderer: RendererType) -> u8 {
        if self.warm.get(&renderer).is_some_and(|warm| warm.ready > 0) {
            return 0;
        }
        let Starts { limit, waiting } = self.starts.unwrap_or_default();
        let quarters = (u64::from(waiting) * 4).div_ceil(u64::from(limit.max(1)));
        u8::try_from(quarters.saturating_add(1)).unwrap_or(u8::MAX).min(Self::MAX_HANDICAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warm_server_comes_first_and_then_the_shorter_wait() {
        let supply = |ready, limit, waiting| Supply {
            starts: Some(Starts { limit, waiting }),
            warm: [(RendererType::Csr, WarmCount { ready, wanted: 2 })].into(),
        };
        for (supply, want) in [
            (Supply::default(), 1),
            (supply(1, 4, 9), 0),
            (supply(0, 4, 0), 1),
            (supply(0, 4, 1), 2),
            (supply(0, 4, 4), 5),
            (supply(0, 64, 1), 2),
            (supply(0, 1, u32::MAX), Supply::MAX_HANDICAP),
        ] {
            assert_eq!(supply.handicap(RendererType::Csr), want, "{supply:?}");
            assert!(supply.handicap(RendererType::Ssr) > 0, "{supply:?}");
        }
        let rest = |claimed| supply(2, 4, 0).without_warm(RendererType::Csr, claimed);
        assert_eq!([1, 2, 3].map(|claimed| rest(claimed).handicap(RendererType::Csr)), [0, 1, 1]);
    }

    #[test]
    fn its_json_is_that_of_the_contract() {
        let supply = Supply {
            starts: Some(Starts { limit: 4, waiting: 1 }),
            warm: [(RendererType::Csr, WarmCount { ready: 2, wanted: 2 })].into(),
        };
        let text = serde_json::to_string(&supply).unwrap();
        assert_eq!(text, r#"{"starts":{"limit":4,"waiting":1},"warm":{"csr":{"ready":2,"wanted":2}}}"#);
        assert_eq!(serde_json::from_str::<Supply>(&text).unwrap(), supply);
        assert_eq!(serde_json::from_str::<Supply>("{}").unwrap(), Supply::default());
    }
}
