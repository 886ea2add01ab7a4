//! A farm is upgraded process by process while many clients are at work, and its front doors are taken back again.

use std::time::Duration;

use hatchery_tests::faults::Incidents;
use hatchery_tests::load::Load;
use hatchery_tests::site::{Site, settle};
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{Farm, Look, Release, until};
use rustix::process::Signal;

/// Callers a second.
const RATE: f64 = 12.0;

async fn served_more(load: &Load, more: usize) {
    let before = load.served();
    until(&format!("{more} more are served"), TIMEOUT * 2, async || {
        let now = load.served();
        Look::when(now >= before + more, || format!("{before} before, {now} now"))
    })
    .await;
}

/// Which processes are replaced, in this order: whether it is an agent, and which.
type Order = &'static [(bool, usize)];
const AGENTS_FIRST: Order = &[(true, 0), (true, 1), (true, 2), (false, 0), (false, 1)];
const FRONT_DOORS_FIRST: Order = &[(false, 0), (false, 1), (true, 0), (true, 1), (true, 2)];
const FRONT_DOORS_ALONE: Order = &[(false, 0), (false, 1)];

/// Processes of a farm are replaced by ones of the other release, one after the other.
async fn rolls(from: Release, to: Release, order: Order, seed: u64) {
    let (site, mut farm) = Site::with(Farm::builder().doors_of(&[from; 2])).await;
    for index in 0..farm.agents.len() {
        assert_eq!(farm.agents[index].program.release, Release::Current);
        farm.agents[index].program.release = from;
        farm.agents[index].restart().await;
    }
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), seed, RATE);
    served_more(&load, 10).await;
    let mut incidents = Incidents::default();
    for &(is_agent, index) in order {
        let role = if is_agent { &farm.agents[index].role } else { &farm.doors[index].role };
        role.signal(Signal::TERM);
        if is_agent {
            assert!(farm.agents[index].role.end().await.success());
            farm.agents[index].program.release = to;
            farm.agents[index].restart().await;
        } else {
            // What callers of this front door had reserved may be known to it alone.
            incidents.deserted = true;
            assert!(farm.doors[index].role.end().await.success());
            farm.doors[index].program.release = to;
            farm.doors[index].restart().await;
        }
        served_more(&load, 10).await;
    }
    let verdict = settle(site, farm, load, incidents).await;
    println!("{from:?} to {to:?}: {verdict:?}");
}

#[tokio::test]
async fn a_farm_is_upgraded_agents_first_while_clients_are_at_work() {
    rolls(Release::Previous, Release::Current, AGENTS_FIRST, 201).await;
}

#[tokio::test]
async fn a_farm_is_upgraded_front_doors_first_while_clients_are_at_work() {
    rolls(Release::Previous, Release::Current, FRONT_DOORS_FIRST, 202).await;
}

/// An agent that is taken back ends what this release started, see `takeover`: a node is drained before.
#[tokio::test]
async fn front_doors_are_taken_back_while_clients_are_at_work() {
    rolls(Release::Current, Release::Previous, FRONT_DOORS_ALONE, 203).await;
}

#[tokio::test]
async fn both_releases_stay_together_for_a_while_and_every_promise_is_kept() {
    let (site, mut farm) = Site::with(Farm::builder().doors_of(&[Release::Current, Release::Previous])).await;
    farm.agents[0].program.release = Release::Previous;
    farm.agents[0].restart().await;
    let load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 204, RATE);
    served_more(&load, 20).await;
    // The registry stalls for a moment, is wiped, and an agent of each release dies.
    farm.redis.signal(Signal::STOP);
    hatchery_tests::wait::longer_than(Duration::from_secs(1)).await;
    farm.redis.signal(Signal::CONT);
    served_more(&load, 10).await;
    let wiped = tokio::time::Instant::now();
    assert!(farm.redis.flush().await);
    served_more(&load, 10).await;
    for index in [0, 1] {
        farm.agents[index].role.kill();
        served_more(&load, 5).await;
        farm.agents[index].restart().await;
        served_more(&load, 5).await;
    }
    let verdict = settle(site, farm, load, Incidents { wiped: vec![wiped], ..Incidents::default() }).await;
    println!("both: {verdict:?}");
}
