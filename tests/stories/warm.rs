//! Warm servers are claimed thousands of times while agents, front doors, Redis and servers are killed at random.
//!
//! The long run is [`CLAIMS`] claims; `HATCHERY_CLAIMS` and `HATCHERY_SEED` say how many, and which run it is. Every start of a server is noted
//! by a script, so that a spawn without a start of its own is known to be a claim.

mod callers;
mod watch;

use std::collections::BTreeSet;
use std::time::Duration;

use hatchery_tests::faults::{Incidents, Targets, happen, plan};
use hatchery_tests::site::Site;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, until};
use model::timing::RESERVATION;

use self::callers::{Callers, Notes};
use self::watch::Watch;
use crate::setting;

/// Claims of the long run.
const CLAIMS: u64 = 20_000;
/// A run of fewer claims does not wait for reservations of front doors that died.
const LONG: u64 = 2_000;
const SLOTS: u16 = 14;
/// Kept on each node: for client-side and for server-side rendering.
const KEPT: [u32; 2] = [6, 2];
/// Callers at once, on all nodes together.
const CALLERS: u64 = 14;
/// Kills happen for so long at a time; then the farm is healed.
const CHAPTER: Duration = Duration::from_secs(8);

async fn farm() -> (Site, Farm) {
    let warm = format!("csr={},ssr={}", KEPT[0], KEPT[1]);
    let nodes = [(); 3].map(|()| AgentPlan::slots(SLOTS).ports(3 * SLOTS).args(&["--warm", &warm]));
    Site::of(Farm::builder().plain_log(), nodes).await
}

/// Waits until every node keeps what is wanted and nothing else runs, as the machine, the agents and the farm see it.
async fn only_warm_servers_are_left(farm: &Farm, forgive: bool) {
    let wanted: u32 = KEPT.iter().sum();
    let limit = if forgive { TIMEOUT } else { RESERVATION + Duration::from_secs(15) };
    until("every node keeps what is wanted and nothing else runs", limit, async || {
        for agent in &farm.agents {
            let metrics = agent.metrics().await;
            let here = [
                "hatchery_agent_warm_servers_ready",
                "hatchery_agent_slots_used",
                "hatchery_agent_ports_used",
            ]
            .map(|name| metrics.sum(name));
            let node = farm.door(0).json(&format!("/v1/nodes/{}", agent.node)).await;
            let is_free = forgive || node["slots"]["used"] == 0;
            if here != [f64::from(wanted), 0.0, f64::from(wanted)] || !is_free {
                return Look::NotYet(format!("{}: ready, slots, ports {here:?}, {node}", agent.node));
            }
        }
        let running = farm.processes().len();
        Look::when(running == wanted as usize * farm.agents.len(), || format!("{running} servers run"))
    })
    .await;
}

/// What was answered is one living server each, and every end is one that was asked for.
async fn judge(farm: &Farm, notes: &Notes, incidents: &Incidents, starts: &BTreeSet<String>) -> Vec<String> {
    let mut wrong = notes.wrong(incidents);
    let records = farm.on_record(farm.door(0)).await;
    for record in
        records.iter().filter(|record| record["id"].as_str().is_some_and(|id| notes.was_answered(id)))
    {
        let server = record["serverId"].as_str().or(record["id"].as_str()).unwrap_or_default();
        let reason = record["exit"]["reason"].as_str().unwrap_or("none");
        // Its caller has given it up, which nothing heard: that it lived until then is what the caller has seen.
        let is_unheard = record["exit"]["text"] == "ended while its agent was away";
        let is_asked_for = ["stopped", "disconnected", "initial-use-timeout"].contains(&reason);
        if !is_asked_for && !is_unheard && !incidents.killed.contains(server) {
            wrong.push(format!("its end was not asked for: {record}"));
        }
        if (record["warm"] == true) != record["serverId"].is_string() || !starts.contains(server) {
            wrong.push(format!("no server was started for it: {record}"));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_servers_are_claimed_twenty_thousand_times_through_kills_and_none_is_lost_or_doubled() {
    let (claims, seed) = (setting("HATCHERY_CLAIMS", CLAIMS), setting("HATCHERY_SEED", 1));
    let (site, mut farm) = farm().await;
    only_warm_servers_are_left(&farm, false).await;
    let watch = Watch::over(&farm, SLOTS.into());
    let callers = Callers::start(&farm, seed, CALLERS);
    let (mut incidents, mut chapter) = (Incidents::default(), 0);
    let claimed = loop {
        let steps = plan(seed.wrapping_add(chapter * 1_000_003), Targets::of(&farm).only_kills(), CHAPTER);
        incidents.add(happen(&mut farm, &steps, seed).await);
        chapter += 1;
        let starts = site.started();
        let claimed = callers.notes().claims(&starts);
        eprintln!(
            "seed {seed}: after chapter {chapter}, {} answers, {claimed} claims",
            callers.notes().answers()
        );
        if claimed as u64 >= claims {
            break claimed;
        }
    };
    let notes = callers.stop().await;
    let forgive = claims < LONG;
    only_warm_servers_are_left(&farm, forgive).await;
    let seen = watch.stop();
    let mut wrong = judge(&farm, &notes, &incidents, &site.started()).await;
    wrong.extend(seen.over.iter().map(|over| format!("more processes than slots: {over}")));
    assert!(wrong.is_empty(), "promises that were not kept:\n{}", wrong.join("\n"));
    for agent in &farm.agents {
        let cordoned = farm.run(&["cordon", &agent.node]).await;
        assert_eq!(cordoned.code, 0, "{cordoned:?}");
    }
    let reserved = if forgive { notes.answers() as u64 } else { 0 };
    farm.assert_empty_but(reserved, TIMEOUT).await;
    farm.shut_down().await;
    eprintln!(
        "seed {seed}: {} answers, {claimed} claims, {} servers killed, {} wipes, {} looks, at most {} processes of {SLOTS} on a node, refused: {:?}",
        notes.answers(),
        incidents.killed.len(),
        incidents.wiped.len(),
        seen.looks,
        seen.most,
        notes.refused
    );
}
