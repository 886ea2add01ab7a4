//! A stream cache server that was taken over, and the ports of its agent while there is no agent.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use hatchery_tests::users::{Users, can, user};
use hatchery_tests::{is_root, skipped};

#[tokio::test]
async fn a_server_that_takes_its_agents_port_while_there_is_no_agent_gains_nothing() {
    if !is_root() {
        return skipped("spawns of users of their own", "only root may start them");
    }
    let users = Users::new(2);
    let mut farm = users.farm().await;
    let (victim, _) = farm.starts_one().await;
    let (attacker, attackers_pid) = farm.starts_one().await;
    let (thief, reports_to) = (user(attackers_pid), farm.process(&victim).unwrap().reports_to());
    let receiver = farm.agents[0].liveliness;
    let forged = |value: &str| {
        let url = format!("http://{}{reports_to}/{victim}?liveliness={value}", receiver.addr);
        format!("curl -s -o /dev/null -w '%{{http_code}}' -X POST '{url}'")
    };
    assert!(can(thief, &format!("test $({}) = 404", forged("disconnect"))), "the secret alone is not enough");
    let right = receiver.post(&format!("{reports_to}/{victim}?liveliness=ping")).send().await;
    assert_eq!(right.status, 200, "it is the right one");

    for port in [receiver.addr.port(), farm.agents[0].admin.addr.port()] {
        farm.agents[0].role.kill();
        let script = format!(
            "import socket, time\ns = socket.create_server(('127.0.0.1', {port}))\nprint('has it', flush=True)\ntime.sleep(600)"
        );
        let mut holder = Command::new("python3");
        holder
            .args(["-c", &script])
            .env_clear()
            .uid(thief)
            .gid(thief)
            .process_group(0)
            .stdout(Stdio::piped());
        let mut holder = holder.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "has it\n");
        farm.agents[0].restart().await;
        let ended = tokio::task::spawn_blocking(move || holder.wait()).await.unwrap().unwrap();
        assert_eq!(ended.code(), None, "killed");
    }
    farm.agents[0].role.logs("listens on a port of this agent").await;
    let exit = farm.ends(&attacker).await;
    assert_eq!(exit["reason"], "failed", "its spawn as well: {exit}");
    assert_eq!(farm.record(&victim).await["state"], "ready");
    farm.stops_one(&victim).await;
    farm.finish().await;
}
