//! The operator's commands, and `hatchery dev` under them: a farm with no preparation at all.

use hatchery_tests::{Dev, Farm, Look, Ran, until, wait::TIMEOUT};
use rustix::process::Signal;
use serde_json::Value;
use uuid::Uuid;

/// A command that must do what it is told.
fn done(ran: Ran) -> Ran {
    assert_eq!(ran.code, 0, "{ran:?}");
    ran
}

async fn ends_clean(mut dev: Dev, signal: Signal) {
    dev.role.signal(signal);
    let status = dev.role.end().await;
    assert!(status.success(), "{status}: {}", dev.role.log());
    assert!(dev.processes().is_empty(), "{:?}", dev.processes());
    assert!(dev.files().is_empty(), "{:?}", dev.files());
}

#[tokio::test]
async fn a_farm_can_be_tried_out_with_two_words() {
    let dev = Dev::start(&["--nodes", "2", "--slots", "2"]).await;
    let nodes = done(dev.run(&["nodes", "--json"]).await).json();
    let nodes = nodes["nodes"].as_array().unwrap();
    assert_eq!(nodes.iter().map(|n| n["id"].as_str().unwrap()).collect::<Vec<_>>(), ["node-a", "node-b"]);
    assert!(nodes.iter().all(|n| n["slots"]["total"] == 2 && n["availability"] == "up"), "{nodes:?}");

    let mut ids: Vec<String> = Vec::new();
    for renderer in ["csr", "ssr", "csr", "ssr"] {
        let spawned = done(dev.run(&["spawn", "--renderer", renderer, "--json"]).await).json();
        assert_eq!(spawned["rendererType"], renderer);
        assert!(spawned["endpoint"].as_str().unwrap().starts_with("ws://127.0.0.1:"), "{spawned}");
        ids.push(spawned["id"].as_str().unwrap().to_owned());
    }
    let full = dev.run(&["spawn", "--json"]).await;
    assert_eq!(full.code, 4, "{full:?}");
    assert_eq!(full.json()["code"], "no-capacity", "programs get the problem as it came");

    let spawns = done(dev.run(&["spawns", "--json"]).await).json();
    let listed: Vec<&str> =
        spawns["spawns"].as_array().unwrap().iter().map(|s| s["id"].as_str().unwrap()).collect();
    assert!(listed.iter().rev().eq(ids.iter()), "newest first: {listed:?} {ids:?}");
    let shown = done(dev.run(&["show", &ids[0], "--json"]).await).json();
    assert_eq!((&shown["id"], &shown["state"]), (&Value::from(ids[0].as_str()), &Value::from("ready")));
    assert!(!shown["events"].as_array().unwrap().is_empty());
    let log = done(dev.run(&["log", &ids[0]]).await).stdout;
    assert!(log.contains("listening on port"), "{log}");
    let log = done(dev.run(&["log", &ids[0], "-n", "1", "--json"]).await).json();
    assert!(log["line"].is_string(), "{log}");

    done(dev.run(&["stop", &ids[0], "--json"]).await);
    done(dev.run(&["stop", "--wait", &ids[1], &ids[2]]).await);
    until("they have ended", TIMEOUT, async || {
        let exited = done(dev.run(&["spawns", "--state", "exited", "--json"]).await).json();
        let exited = exited["spawns"].as_array().unwrap().len();
        Look::when(exited == 3, || format!("{exited} of 3"))
    })
    .await;
    assert_eq!(dev.processes().len(), 1);
    ends_clean(dev, Signal::INT).await;
}

#[tokio::test]
async fn ctrl_c_ends_even_stubborn_spawns() {
    let dev = Dev::start(&["--nodes", "1", "--env", "SC_SIM_FORK_GRANDCHILD=1"]).await;
    for _ in 0..3 {
        done(dev.run(&["spawn"]).await);
    }
    assert!(dev.processes().len() >= 6, "{:?}", dev.processes());
    ends_clean(dev, Signal::INT).await;
}

#[tokio::test]
async fn term_ends_it_as_well_also_in_the_middle_of_a_start() {
    let dev = Dev::start(&["--nodes", "1", "--env", "SC_SIM_READY_DELAY_MS=20000"]).await;
    let caller = dev.http.post("/spawn").start().await;
    until("a process starts", TIMEOUT, async || {
        Look::when(!dev.processes().is_empty(), || "none".to_owned())
    })
    .await;
    ends_clean(dev, Signal::TERM).await;
    drop(caller);
}

#[tokio::test]
async fn exit_codes_tell_what_came_of_it() {
    let farm = Farm::small(1).await;
    let unknown = Uuid::nil().to_string();
    for (code, args) in [
        (3, &["show", &unknown][..]),
        (3, &["log", &unknown]),
        (3, &["stop", &unknown]),
        (3, &["nodes", "nowhere"]),
        (4, &["spawn", "--label", "sdk=1999"]),
        (3, &["show", "nope"]),
        (2, &["stop"]),
        (2, &["spawn", "--renderer", "both"]),
        (2, &["spawn", "--wait", "61s"]),
        (2, &["spawns", "--state", "bogus"]),
        (2, &["nope"]),
        (2, &[]),
        (2, &["spawn", "--server", "nonsense://"]),
        (2, &["spawn", "--model", "../x"]),
        (1, &["spawn", "--session-token", "sim:exit_before_ready=6"]),
        (1, &["nodes", "--server", "http://127.0.0.1:1"]),
        (0, &["nodes"]),
        (0, &["spawns"]),
        (0, &["--help"]),
        (0, &["--version"]),
    ] {
        let ran = farm.run(args).await;
        assert_eq!(ran.code, code, "{args:?}: {ran:?}");
        assert_eq!(code == 0, ran.stderr.is_empty(), "{args:?}: {ran:?}");
    }
    let failed = farm.run(&["spawn", "--session-token", "sim:exit_before_ready=6"]).await;
    assert!(failed.stderr.contains("invalid license"), "{failed:?}");
    farm.finish().await;
}

#[tokio::test]
async fn what_people_read_names_what_programs_get() {
    let farm = Farm::small(2).await;
    let spawned = done(farm.run(&["spawn", "--json"]).await).json();
    let id = spawned["id"].as_str().unwrap();
    farm.audit().await;
    let table = |ran: Ran| done(ran).stdout;
    let nodes = table(farm.run(&["nodes"]).await);
    assert!(nodes.contains("node-a") && nodes.contains("eligible"), "{nodes}");
    let spawns = table(farm.run(&["spawns"]).await);
    assert!(spawns.contains(id) && spawns.contains("ready"), "{spawns}");
    let show = table(farm.run(&["show", id]).await);
    assert!(show.contains(spawned["endpoint"].as_str().unwrap()), "{show}");
    done(farm.run(&["stop", "--wait", id]).await);
    let again = table(farm.run(&["stop", id]).await);
    assert!(again.contains("ended already"), "{again}");
    farm.finish().await;
}

#[tokio::test]
async fn a_wrong_setting_is_named_before_any_port_is_bound() {
    let farm = Farm::small(1).await;
    for (args, flag) in [
        (&["frontdoor", "--registry", "nonsense"][..], "--registry"),
        (&["frontdoor", "--spawn-deadline", "soon"], "--spawn-deadline"),
        (&["frontdoor", "--cors-origin", "x"], "--cors-origin"),
        (&["frontdoor", "--nope"], "--nope"),
        (&["frontdoor", "--log", "a=b=c"], "--log"),
        (&["agent"], "--executable"),
        (&["agent", "--executable", "x", "--ports", "9-1"], "--ports"),
        (&["agent", "--executable", "x", "--slots", "0"], "--slots"),
        (&["agent", "--executable", "x", "--slots", "20", "--ports", "55000-55009"], "--ports"),
        (&["agent", "--executable", "x", "--label", "a"], "--label"),
        (&["agent", "--executable", "x", "--node", "a b"], "--node"),
        (&["agent", "--executable", "x", "--endpoint", "ws://{nope}"], "--endpoint"),
        (&["agent", "--executable", "x", "--csr", "false", "--ssr", "false"], "--csr"),
        (&["dev", "--nodes", "0"], "--nodes"),
    ] {
        let ran = farm.run(args).await;
        assert_eq!(ran.code, 2, "{args:?}: {ran:?}");
        assert!(ran.stderr.contains(flag), "{args:?}: {ran:?}");
        assert_eq!(ran.stdout, "", "{args:?}");
    }
    // An address that is taken is not a wrong setting, but a failure.
    let taken = farm.door(0).addr.to_string();
    let registry = farm.redis.url();
    let ran = farm
        .run(&["frontdoor", "--registry", &registry, "--admin-listen", "127.0.0.1:0", "--listen", &taken])
        .await;
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.stderr.contains(&taken), "{ran:?}");
    farm.finish().await;
}
