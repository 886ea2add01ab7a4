//! Lists on the command line as fingers know them: short ids, forms of the output, filters, order and totals.

use std::path::Path;

use hatchery_tests::command::run_as;
use hatchery_tests::program::Program;
use hatchery_tests::{AgentPlan, Farm, Ran};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// What a command that must succeed prints.
fn printed(ran: Ran) -> String {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran.stdout
}

fn lines(ran: Ran) -> Vec<String> {
    printed(ran).lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_end_of_an_id_stands_for_it_wherever_a_command_takes_one() {
    let farm = Farm::small(3).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(farm.door(0).spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    }
    let end = |index: usize| &ids[index][ids[index].len() - 8..];
    let shown = farm.run(&["show", end(0), "--json"]).await;
    assert_eq!(shown.json()["id"], ids[0].as_str());
    let shouted = farm.run(&["describe", &end(0).to_uppercase(), "-o", "name"]).await;
    assert_eq!(printed(shouted).trim(), ids[0]);
    assert!(printed(farm.run(&["logs", end(1)]).await).contains("listening on port"));
    let stopped = farm.run(&["stop", "--wait", end(0), &ids[1]]).await;
    assert!(printed(stopped).contains(&ids[0]), "whole ids are printed");
    for (code, args) in [
        (3, &["show", "ffffffffff"][..]),
        (3, &["log", "ffffffffff"]),
        (3, &["stop", "ffffffffff"]),
        (3, &["watch", "spawn:ffffffffff"]),
        (2, &["show", "abc"]),
        (2, &["stop", &ids[2], "abc"]),
    ] {
        assert_eq!(farm.run(args).await.code, code, "{args:?}");
    }
    assert_eq!(farm.record(&ids[2]).await["state"], "ready", "nothing is done before all ids are known");
    farm.stop([ids[2].as_str()]).await;
    farm.finish().await;
}

/// A front door that answers every call with this list.
async fn front_door_with(list: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = [0; 4096];
            // A request has no body, and comes at once.
            let _read = stream.read(&mut head).await.unwrap_or(0);
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n",
                list.len()
            );
            stream.write_all(format!("{head}connection: close\r\n\r\n{list}").as_bytes()).await.ok();
        }
    });
    address
}

#[tokio::test]
async fn an_end_that_several_ids_have_is_a_mistake_that_names_them() {
    let spawn = |begin: &str| {
        json!({"id": format!("{begin}-ac96-774b-bcce-b302099a8057"), "node": "node-a", "endpoint": "ws://h:1",
            "rendererType": "csr", "state": "ready", "startedAt": "2026-01-01T00:00:00Z", "pool": "default"})
    };
    let list = json!({"spawns": [spawn("01890a5d"), spawn("01890a5e")]});
    let server = format!("http://{}", front_door_with(list.to_string()).await);
    for command in [&["show"][..], &["log"], &["stop"]] {
        let args = [command, &["099a8057", "--server", &server]].concat();
        let ran = run_as(&Program::default(), Path::new("/"), &[], &args).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        for begin in ["01890a5d-ac96", "01890a5e-ac96"] {
            assert!(ran.stderr.contains(begin) && ran.stderr.contains("ready on node-a"), "{ran:?}");
        }
    }
    let ran = run_as(&Program::default(), Path::new("/"), &[], &["spawns", "--server", &server]).await;
    assert!(
        printed(ran).contains("01890a5e-ac96-774b-bcce-b302099a8057"),
        "alike at their ends, they are shown whole"
    );
}

#[tokio::test]
async fn lists_have_forms_for_people_and_programs_and_a_line_with_totals() {
    let farm = Farm::builder()
        .agent(AgentPlan::slots(2))
        .agent(AgentPlan::slots(1).args(&["--pool", "gpu"]))
        .start()
        .await;
    for (args, words) in [
        (&["spawns"][..], "no spawns"),
        (&["ps", "--node", "node-b"], "no spawns on node node-b"),
        (&["nodes", "--pool", "none"], "no nodes like that"),
        (&["ls", "-q"], ""),
        (&["waiting"], "no requests in line"),
    ] {
        assert_eq!(printed(farm.run(args).await).trim(), words, "{args:?}");
    }
    let mut ids = Vec::new();
    for pool in ["gpu", "default"] {
        let spawned = farm.door(0).spawned(&json!({"pool": pool, "tags": {"of": pool}})).await;
        ids.push(spawned["id"].as_str().unwrap().to_owned());
    }
    farm.audit().await;
    let last = |lines: &[String]| lines.last().cloned().unwrap_or_default();
    let all = lines(farm.run(&["spawns"]).await);
    assert_eq!(last(&all), "2 spawns: 2 ready");
    assert_eq!(last(&lines(farm.run(&["ls", "--tag", "of=gpu"]).await)), "1 spawn: 1 ready");
    assert_eq!(
        last(&lines(farm.run(&["nodes"]).await)),
        "2 nodes: 2 up; 2 of 3 slots in use on those that are up"
    );
    assert_eq!(lines(farm.run(&["spawns", "-q", "--sort", "node"]).await), [ids[1].clone(), ids[0].clone()]);
    assert_eq!(lines(farm.run(&["spawns", "-o", "name", "--reverse"]).await), ids);
    let wide = printed(farm.run(&["spawns", "-o", "wide"]).await);
    assert!(ids.iter().all(|id| wide.contains(id.as_str())) && wide.contains("VIEWER"), "{wide}");
    let yaml = printed(farm.run(&["spawns", "-o", "yaml", "--tag", "of=gpu"]).await);
    assert!(yaml.contains("spawns:\n- ") && yaml.contains(&format!("  id: \"{}\"\n", ids[0])), "{yaml}");
    let sorted = farm.run(&["spawns", "--json", "--sort", "node", "-r"]).await.json();
    assert_eq!(sorted["spawns"][0]["node"], "node-b");

    for (args, names) in [
        (&["nodes", "-q"][..], &["node-a", "node-b"][..]),
        (&["nodes", "-q", "--sort", "slots"], &["node-b", "node-a"]),
        (&["nodes", "-q", "-r"], &["node-b", "node-a"]),
        (&["nodes", "-o", "name", "--pool", "gpu"], &["node-b"]),
        (&["nodes", "-q", "--availability", "up", "--eligibility", "cordoned"], &[]),
        (&["nodes", "-q", "--health", "failing"], &[]),
        (&["nodes", "node-b", "-o", "name"], &["node-b"]),
    ] {
        assert_eq!(lines(farm.run(args).await), names, "{args:?}");
    }
    let json = farm.run(&["nodes", "--json", "--pool", "gpu"]).await.json();
    assert_eq!(
        json["nodes"].as_array().unwrap().iter().map(|node| &node["id"]).collect::<Vec<_>>(),
        ["node-b"]
    );
    let yaml = printed(farm.run(&["nodes", "node-a", "-o", "yaml"]).await);
    assert!(yaml.contains("\nid: node-a\n") && yaml.contains("\nslots:\n  total: 2\n"), "{yaml}");
    for wrong in [
        &["nodes", "--watch", "-o", "yaml"][..],
        &["spawns", "-q", "-o", "wide"],
        &["nodes", "--sort", "colour"],
    ] {
        assert_eq!(farm.run(wrong).await.code, 2, "{wrong:?}");
    }
    let refused = farm.run(&["spawn", "--pool", "gpu", "--label", "sdk=1"]).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    let words = "2 nodes: 1 without the label sdk that is asked for, 1 in another pool";
    assert!(refused.stderr.contains(words), "{refused:?}");
    farm.stop(ids.iter().map(String::as_str)).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_empty_variable_is_one_that_is_not_set() {
    let farm = Farm::small(1).await;
    let server = format!("http://{}", farm.door(0).addr);
    let agent = &farm.agents[0];
    let env = [
        "HATCHERY_SLOTS",
        "HATCHERY_LABEL",
        "HATCHERY_LICENSE_FILE",
        "HATCHERY_TLS_CERT",
        "HATCHERY_EGL",
        "HATCHERY_REGISTRY",
    ];
    let env: Vec<(&str, &str)> =
        env.into_iter().map(|name| (name, "")).chain([("HATCHERY_SERVER", &*server)]).collect();
    let args = ["doctor", "--json", "--agent", "--ssr", "false", "--executable", agent.flag("--executable")];
    let ran = run_as(&Program::default(), farm.mark(), &env, &args).await;
    let findings = ran.json()["findings"].clone();
    let findings = findings.as_array().unwrap();
    assert!(
        findings.iter().any(|finding| finding["check"] == "flags" && finding["level"] == "ok"),
        "{findings:#?}"
    );
    farm.finish().await;
}
