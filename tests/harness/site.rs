//! A farm whose every start is noted, and its end: everything that was promised is held against what happened.

use std::collections::BTreeSet;
use std::time::Duration;

use model::timing::RESERVATION;
use tempfile::TempDir;

use crate::farm::{Farm, FarmBuilder};
use crate::faults::Incidents;
use crate::load::{Load, MAX_WAIT};
use crate::plan::AgentPlan;
use crate::verdict::{Verdict, judge, noting, started};
use crate::wait::TIMEOUT;

/// The front doors' deadline of a spawn; all else follows from it.
const DEADLINE: Duration = Duration::from_secs(8);

/// A farm whose every start is noted.
#[derive(Debug)]
pub struct Site(TempDir);

impl Site {
    /// Two front doors and three nodes, with links that can be disturbed.
    pub async fn farm() -> (Self, Farm) {
        Self::with(Farm::builder().links()).await
    }

    /// Two front doors and three nodes.
    pub async fn with(builder: FarmBuilder) -> (Self, Farm) {
        Self::of(builder, [(); 3].map(|()| AgentPlan::slots(8).ports(24))).await
    }

    /// The same with so many slots a node and three ports for each, below those that other tests take: one at a time.
    pub async fn wide(builder: FarmBuilder, slots: u16) -> (Self, Farm) {
        let plan = |first| AgentPlan::slots(slots).port_range(first..=first + 3 * slots - 1);
        Self::of(builder, [10_000, 11_000, 12_000].map(plan)).await
    }

    /// The same with these nodes.
    pub async fn of(builder: FarmBuilder, nodes: [AgentPlan; 3]) -> (Self, Farm) {
        let site = Self(TempDir::new().expect("a scratch directory"));
        let script = noting(site.0.path());
        let short = ["--initial-use", "8s", "--ready-timeout", "5s", "--stop-grace", "1s"];
        let gpus = ["--gpus", "2", "--gpu-slots", "2"];
        let noting = |plan: AgentPlan| plan.args(&short).args(&gpus).executable(&script);
        let builder = nodes.into_iter().map(noting).fold(builder, FarmBuilder::agent);
        let builder = if builder.doors.is_empty() { builder.doors(2) } else { builder };
        let doors = ["--spawn-deadline", "8s", "--shutdown-grace", "3s"];
        (site, builder.door_args(&doors).start().await)
    }

    /// The ids that servers were started with.
    pub fn started(&self) -> BTreeSet<String> {
        started(self.0.path())
    }
}

/// Has everybody go, judges what is left, and ends a farm that is healed.
pub async fn settle(site: Site, farm: Farm, mut load: Load, incidents: Incidents) -> Verdict {
    settle_but(site, farm, &mut load, &incidents, false).await
}

/// The same; slots that only a front door that died knew of may still be reserved if `forgive`.
pub async fn settle_but(
    site: Site,
    farm: Farm,
    load: &mut Load,
    incidents: &Incidents,
    forgive: bool,
) -> Verdict {
    load.stop(DEADLINE * 3 + MAX_WAIT * 3).await;
    let mut notes = std::mem::take(&mut *load.notes());
    let verdict = judge(&farm, site.0.path(), &mut notes, incidents, DEADLINE).await;
    // What still runs is what viewers stay with.
    drop(notes);
    if forgive {
        farm.assert_empty_but(verdict.reserved, TIMEOUT).await;
    } else {
        // What a front door that is gone had reserved comes back, too.
        farm.assert_empty_but(0, RESERVATION + Duration::from_secs(15)).await;
    }
    farm.shut_down().await;
    verdict
}
