//! Things go wrong at random under load, and every promise is kept: to each caller, and about what is left.
//!
//! `HATCHERY_FAULT_SEED=7 cargo test -p hatchery-tests --test it faults::replay -- --ignored --nocapture` runs one scenario alone.

#![expect(
    clippy::print_stderr,
    reason = "a scenario says what happened in it; shown when it fails, or when asked for"
)]

use std::fmt::Write as _;
use std::thread;
use std::time::Duration;

use hatchery_tests::faults::{SHORT, Step, Targets, happen, plan};
use hatchery_tests::load::Load;
use hatchery_tests::site::{Site, settle_but};
use hatchery_tests::verdict::Verdict;
use tokio::runtime::Builder;
use tokio::sync::Semaphore;

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

async fn scenario(seed: u64, patient: bool) -> Verdict {
    let (site, mut farm) = Site::farm().await;
    let steps = plan(seed, Targets::of(&farm), SHORT);
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

macro_rules! five {
    ($($name:ident from $first:literal),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                scenarios($first..$first + 5, false);
            }
        )+
    };
}
five!(
    promises_are_kept_through_faults_1_to_5 from 1,
    promises_are_kept_through_faults_6_to_10 from 6,
    promises_are_kept_through_faults_11_to_15 from 11,
    promises_are_kept_through_faults_16_to_20 from 16,
    promises_are_kept_through_faults_21_to_25 from 21,
    promises_are_kept_through_faults_26_to_30 from 26,
);

#[test]
fn a_slot_that_no_record_reserves_comes_back() {
    scenarios([5, 10, 23], true);
}

#[test]
#[ignore = "replays the seed in HATCHERY_FAULT_SEED"]
fn replay() {
    let seed = std::env::var("HATCHERY_FAULT_SEED").expect("HATCHERY_FAULT_SEED names a seed");
    scenarios([seed.parse().expect("invalid HATCHERY_FAULT_SEED: expected a number")], true);
}
