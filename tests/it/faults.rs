//! Things go wrong at random under load, and every promise is kept: to each caller, and about what is left.
//!
//! `HATCHERY_FAULT_SEED=7 cargo test -p hatchery-tests --test it faults::replay -- --nocapture` runs one scenario alone.

#![expect(
    clippy::print_stderr,
    reason = "a scenario says what happened in it; shown when it fails, or when asked for"
)]

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use hatchery_tests::faults::{Incidents, Step, happen, plan};
use hatchery_tests::load::{LONGEST_WAIT, Load};
use hatchery_tests::verdict::{Verdict, judge, noting};
use hatchery_tests::wait::PATIENCE;
use hatchery_tests::{AgentPlan, Farm, FarmBuilder};
use model::timing::RESERVATION;
use tempfile::TempDir;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

/// The front doors' in these scenarios; all else follows from it.
const DEADLINE: Duration = Duration::from_secs(8);
/// Callers a second.
const RATE: f64 = 20.0;
/// Farms at once, all tests together: two processors keep up with them.
static FARMS: Semaphore = Semaphore::const_new(6);

/// Says which scenario it was, if it ends badly.
struct Scenario {
    seed: u64,
    steps: Vec<Step>,
}

impl Scenario {
    fn told(&self) -> String {
        let mut told = format!("seed {}:\n", self.seed);
        for step in &self.steps {
            writeln!(told, "  {step}").unwrap();
        }
        told
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- failed with {}", self.told());
        }
    }
}

/// A farm whose every start is noted.
pub(crate) struct Site(TempDir);

impl Site {
    /// Two front doors and three nodes, with links that can be disturbed.
    pub(crate) async fn farm() -> (Self, Farm) {
        Self::with(Farm::builder().links()).await
    }

    /// Two front doors and three nodes.
    pub(crate) async fn with(builder: FarmBuilder) -> (Self, Farm) {
        let site = Self(TempDir::new().unwrap());
        let script = noting(site.0.path());
        let agent = || {
            let short = ["--initial-use", "8s", "--ready-timeout", "5s", "--stop-grace", "1s"];
            let gpus = ["--gpus", "2", "--gpu-slots", "2"];
            AgentPlan::slots(8).ports(24).args(&short).args(&gpus).executable(&script)
        };
        let builder = builder.agent(agent()).agent(agent()).agent(agent());
        let doors = ["--spawn-deadline", "8s", "--shutdown-grace", "3s"];
        (site, builder.doors(2).door_args(&doors).start().await)
    }
}

/// Has everybody go, judges what is left, and ends a farm that is healed.
pub(crate) async fn settle(site: Site, farm: Farm, mut load: Load, incidents: Incidents) -> Verdict {
    settle_but(site, farm, &mut load, &incidents, false).await
}

async fn settle_but(
    site: Site,
    farm: Farm,
    load: &mut Load,
    incidents: &Incidents,
    forgive: bool,
) -> Verdict {
    load.stop(DEADLINE * 3 + LONGEST_WAIT * 3).await;
    let mut notes = std::mem::take(&mut *load.notes());
    let verdict = judge(&farm, site.0.path(), &mut notes, incidents, DEADLINE).await;
    // What still runs is what viewers stay with.
    drop(notes);
    if forgive {
        farm.assert_empty_but(verdict.reserved, PATIENCE).await;
    } else {
        // What a front door that is gone had reserved comes back, too.
        farm.assert_empty_but(0, RESERVATION + Duration::from_secs(15)).await;
    }
    farm.shut_down().await;
    verdict
}

async fn scenario(seed: u64, patient: bool) -> Verdict {
    let (site, mut farm) = Site::farm().await;
    let steps = plan(seed, farm.agents.len(), farm.doors.len(), farm.links.len());
    let scenario = Scenario { seed, steps };
    let mut load = Load::start(farm.doors.iter().map(|door| door.http).collect(), seed, RATE);
    let incidents = happen(&mut farm, &scenario.steps, seed).await;
    let verdict = settle_but(site, farm, &mut load, &incidents, !patient).await;
    eprintln!("{}  {verdict:?}", scenario.told());
    verdict
}

/// Every seed on a thread of its own.
fn scenarios(seeds: impl IntoIterator<Item = u64>, patient: bool) {
    let run = move |seed| {
        let scenario = async {
            let _place = FARMS.acquire().await.unwrap();
            scenario(seed, patient).await
        };
        Builder::new_current_thread().enable_all().build().unwrap().block_on(scenario)
    };
    let running: Vec<_> = seeds.into_iter().map(|seed| (seed, thread::spawn(move || run(seed)))).collect();
    let mut failed = Vec::new();
    let (mut longest, mut excused) = (Duration::ZERO, 0);
    for (seed, thread) in running {
        match thread.join() {
            Ok(verdict) => {
                longest = longest.max(verdict.longest);
                excused += verdict.excused.len();
            }
            Err(_) => failed.push(seed),
        }
    }
    eprintln!("longest answer {longest:?}, {excused} ended by their initial use");
    assert!(failed.is_empty(), "failed seeds: {failed:?}");
}

macro_rules! ten {
    ($($name:ident from $first:literal),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                scenarios($first..$first + 5, false);
            }
        )+
    };
}
ten!(
    promises_are_kept_through_faults_1_to_5 from 1,
    promises_are_kept_through_faults_6_to_10 from 6,
    promises_are_kept_through_faults_11_to_15 from 11,
    promises_are_kept_through_faults_16_to_20 from 16,
    promises_are_kept_through_faults_21_to_25 from 21,
    promises_are_kept_through_faults_26_to_30 from 26,
    promises_are_kept_through_faults_31_to_35 from 31,
    promises_are_kept_through_faults_36_to_40 from 36,
    promises_are_kept_through_faults_41_to_45 from 41,
    promises_are_kept_through_faults_46_to_50 from 46,
);

#[test]
fn what_nobody_knows_to_be_reserved_comes_back() {
    scenarios([5, 10, 23], true);
}

#[test]
fn replay() {
    if let Ok(seed) = std::env::var("HATCHERY_FAULT_SEED") {
        scenarios([seed.parse().expect("HATCHERY_FAULT_SEED wants a number")], true);
    }
}
