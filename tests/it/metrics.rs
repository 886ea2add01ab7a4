//! What front doors and agents say of themselves and of the farm to a scraper.

use hatchery_tests::metrics::Metrics;
use hatchery_tests::{AgentPlan, Farm, Look, until, wait::TIMEOUT};
use serde_json::json;

/// Waits until a front door's series have these values.
async fn door_says(farm: &Farm, expected: &[(&str, f64)]) {
    until("the front door's metrics", TIMEOUT, async || {
        let metrics = Metrics::of(&farm.doors[0].admin).await;
        let other = expected.iter().find(|(series, value)| metrics.get(series) != Some(*value));
        match other {
            None => Look::Ready(()),
            Some((series, value)) => {
                Look::NotYet(format!("{series}: {:?}, not {value}", metrics.get(series)))
            }
        }
    })
    .await;
}

#[tokio::test]
async fn counters_are_there_before_their_first_event() {
    let farm = Farm::small(1).await;
    let [door, agent] = [&farm.doors[0].admin, &farm.agents[0].admin];
    let [door, agent] = [Metrics::of(door).await, Metrics::of(agent).await];
    for (role, metrics, series) in [
        ("front door", &door, "hatchery_frontdoor_spawns_total{outcome=\"spawn-failed\"}"),
        ("front door", &door, "hatchery_frontdoor_attempts_total{outcome=\"unknown\"}"),
        ("front door", &door, "hatchery_frontdoor_cleanups_total{kind=\"abandon\"}"),
        ("front door", &door, "hatchery_frontdoor_placements_total{source=\"snapshot\"}"),
        (
            "front door",
            &door,
            "hatchery_frontdoor_operations_total{eligibility=\"draining\",agent=\"silent\"}",
        ),
        ("front door", &door, "hatchery_frontdoor_authentication_failures_total{reason=\"unknown-key\"}"),
        ("front door", &door, "hatchery_frontdoor_callers_refused_total{limit=\"waiting\"}"),
        ("front door", &door, "hatchery_frontdoor_connections_closed_total{reason=\"shed\"}"),
        ("front door", &door, "hatchery_frontdoor_live_closes_total{code=\"1008\"}"),
        ("front door", &door, "hatchery_frontdoor_relay_ended_total{reason=\"vanished\"}"),
        ("front door", &door, "hatchery_frontdoor_hoops_ports_refused_total{reason=\"unknown\"}"),
        ("agent", &agent, "hatchery_agent_spawns_refused_total{reason=\"cannot-start\"}"),
        ("agent", &agent, "hatchery_agent_spawns_ended_total{reason=\"failed\"}"),
    ] {
        assert_eq!(metrics.get(series), Some(0.0), "{role}: {series}");
    }
    let build = format!("hatchery_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!((door.get(&build), agent.get(&build)), (Some(1.0), Some(1.0)));
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_counts_the_whole_farms_slots_nodes_and_requests_on_their_way() {
    let farm = Farm::builder().agent(AgentPlan::slots(2)).agent(AgentPlan::slots(1)).start().await;
    let nodes = |eligibility: &str| {
        format!("hatchery_farm_nodes{{eligibility=\"{eligibility}\",availability=\"up\",health=\"ok\"}}")
    };
    let (eligible, cordoned) = (nodes("eligible"), nodes("cordoned"));
    door_says(
        &farm,
        &[
            ("hatchery_farm_slots", 3.0),
            ("hatchery_farm_slots_used", 0.0),
            (&eligible, 2.0),
            (&cordoned, 0.0),
        ],
    )
    .await;
    assert_eq!(farm.run(&["cordon", "node-b"]).await.code, 0);
    let (first, _) = farm.starts_one().await;
    let (second, _) = farm.starts_one().await;
    let waits = tokio::spawn(farm.door(0).post("/spawn").json(&json!({"waitSeconds": 30})).send());
    door_says(
        &farm,
        &[
            ("hatchery_farm_slots_used", 2.0),
            ("hatchery_farm_slots_reserved", 0.0),
            ("hatchery_farm_waiting", 1.0),
            (&eligible, 1.0),
            (&cordoned, 1.0),
        ],
    )
    .await;
    let agent = farm.agent("node-b").metrics().await;
    for (eligibility, expected) in [("eligible", 0.0), ("cordoned", 1.0), ("draining", 0.0)] {
        let series = format!("hatchery_agent_eligibility{{eligibility=\"{eligibility}\"}}");
        assert_eq!(agent.get(&series), Some(expected), "{series}");
    }
    assert_eq!(agent.get("hatchery_agent_registry_up"), Some(1.0));
    farm.stops_one(&first).await;
    let answer = waits.await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    farm.stop([&*second, answer.json()["id"].as_str().unwrap()]).await;
    door_says(&farm, &[("hatchery_farm_waiting", 0.0), ("hatchery_farm_slots_used", 0.0)]).await;
    farm.finish().await;
}
