//! Logs that nobody reads.

use hatchery_tests::{AgentPlan, Farm};
use serde_json::json;

/// Requests to each process.
const REQUESTS: usize = 2000;

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_service() {
    let trace = ["--log", "trace"];
    let plan = AgentPlan::slots(2).args(&trace);
    let builder = Farm::builder().plain_log().unread_log().door_args(&trace).agent(plan);
    let mut farm = builder.start().await;
    let unknown = "/liveliness/01890a5d-ac96-774b-bcce-b302099a8057?liveliness=ping";
    // A long path makes a long line.
    let nothing = format!("/{}", "x-".repeat(2000));
    for _ in 0..REQUESTS {
        assert_eq!(farm.door(0).get(&nothing).send().await.status, 404);
        assert_eq!(farm.agents[0].liveliness.post(unknown).send().await.status, 404);
    }
    let spawn = farm.door(0).spawned(&json!({})).await;
    let dropped = |text: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix("hatchery_log_lines_dropped_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    let [door, agent] = [farm.doors[0].admin, farm.agents[0].admin].map(|admin| admin.get("/metrics").send());
    assert!(dropped(&door.await.text()) > 0, "the front door dropped nothing");
    // An agent says less: all of it waits, and the count is there.
    dropped(&agent.await.text());
    // Once somebody reads, one line says how much is missing.
    let said = farm.doors[0].role.read_on("log lines were dropped").await;
    assert!(said.contains("WARN") && said.contains("lines="), "{said}");
    farm.stop([spawn["id"].as_str().unwrap()]).await;
    farm.finish().await;
}
