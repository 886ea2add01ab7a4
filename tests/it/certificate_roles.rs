//! The roles that certificates state: what each may do, what happens to a certificate of another role, and how farms whose
//! certificates state none go on.

use std::fs;
use std::path::Path;

use hatchery_tests::certs::{Certs, Curled, curl};
use hatchery_tests::role::clients;
use hatchery_tests::{AgentPlan, Farm, Impostor, Look, Role, Viewer, command, logs, until, wait::TIMEOUT};
use prost::Message;
use serde_json::{Value, json};
use wire::v1;

use crate::exposure::refused;
use crate::tls::{another_door, words};

const REFUSED: &str = "a connection was refused (logged once)";
const ROLELESS: &str = "states no role";

/// Certificates for a farm on this machine.
fn certs() -> Certs {
    Certs::two_agents(&["--metrics", "prometheus"])
}

fn plan(certs: &Certs, node: &str) -> AgentPlan {
    AgentPlan::slots(4).args(&words(&certs.agent(node)))
}

async fn farm(certs: &Certs) -> Farm {
    Farm::builder().door_args(&words(&certs.door("door"))).agent(plan(certs, "node-a")).start().await
}

/// Lines of a JSON log at this level whose message has these words.
fn lines(role: &Role, level: &str, message: &str) -> Vec<Value> {
    let mut lines = logs::lines(&role.name, &role.log());
    lines.retain(|line| {
        let said = line["message"].as_str().or(line["fields"]["message"].as_str());
        line["level"] == level && said.is_some_and(|said| said.contains(message))
    });
    lines
}

/// Calls a method of an agent as anybody can who has a pair of the farm.
async fn call(certs: &Certs, pair: &str, agent: &str, method: &str, message: &[u8]) -> Curled {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let file = certs.file(&format!("{}.frame", method.replace('/', "-")));
    fs::write(&file, frame).unwrap();
    let (cert, key) = (certs.path(&format!("{pair}.pem")), certs.path(&format!("{pair}.key")));
    let data = format!("@{}", file.display());
    let args = ["--http2", "--cert", &cert, "--key", &key, "-H", "te: trailers", "--output", "/dev/null"];
    let args = [&args[..], &["-H", "content-type: application/grpc", "--data-binary", &data]].concat();
    curl(&format!("https://{agent}/{method}"), Some(&certs.file("ca.pem")), &args).await
}

/// Every method that an agent's port has.
fn methods(spawn: &str) -> Vec<(&'static str, Vec<u8>)> {
    let (spawn_id, node) = (spawn.to_owned(), "node-a".to_owned());
    let new = uuid::Uuid::now_v7().to_string();
    let start =
        v1::SpawnRequest { spawn_id: new, node: node.clone(), reservation_ms: 5000, ..Default::default() };
    let stop = v1::StopRequest { spawn_id: spawn_id.clone(), node: node.clone(), ..Default::default() };
    let cordon = v1::SetEligibilityRequest {
        node: node.clone(),
        eligibility: v1::Eligibility::Cordoned.into(),
        generation: 1 << 40,
        ..Default::default()
    };
    let read = v1::ReadLogRequest { spawn_id, node: node.clone(), lines: 10 };
    vec![
        ("hatchery.v1.NodeAgent/Spawn", start.encode_to_vec()),
        ("hatchery.v1.NodeAgent/Stop", stop.encode_to_vec()),
        ("hatchery.v1.NodeAgent/SetEligibility", cordon.encode_to_vec()),
        ("hatchery.v1.NodeAgent/List", v1::ListRequest { node }.encode_to_vec()),
        ("hatchery.v1.NodeAgent/ReadLog", read.encode_to_vec()),
        ("grpc.health.v1.Health/Check", Vec::new()),
        ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Vec::new()),
    ]
}

#[tokio::test]
async fn a_metrics_readers_certificate_can_do_nothing_at_an_agent() {
    let certs = certs();
    // Of the farm's CA and for callers, but of another trust domain, and of two roles.
    certs.sign("foreign", "URI:spiffe://other/frontdoor", "clientAuth");
    certs.sign("both", "URI:spiffe://hatchery/frontdoor,URI:spiffe://hatchery/metrics", "clientAuth");
    certs.sign("node-b", "DNS:node-b,URI:spiffe://hatchery/agent/node-b", "clientAuth,serverAuth");
    let farm = farm(&certs).await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let id = spawned["id"].as_str().unwrap();
    let agent = farm.agent("node-a");
    let address = agent.flag("--listen");
    let methods = methods(id);
    let pairs = [
        ("prometheus", "spiffe://hatchery/metrics"),
        ("foreign", "spiffe://other/frontdoor"),
        ("both", "2 URIs"),
        ("node-b", "spiffe://hatchery/agent/node-b"),
    ];
    for (pair, _) in pairs {
        for (method, message) in &methods {
            let refused = call(&certs, pair, address, method, message).await;
            assert_eq!(refused.status, 0, "{pair} {method}: {refused:?}");
        }
    }
    assert_eq!(farm.processes().len(), 1, "nothing was started, nothing has ended");
    assert_eq!(farm.record(id).await["state"], "ready");
    assert_eq!(farm.door(0).json("/v1/nodes/node-a").await["eligibility"], "eligible");

    // Once for each peer and reason, with what was shown, however often it has tried.
    let logged = lines(&agent.role, "WARN", REFUSED);
    assert_eq!(logged.len(), pairs.len(), "{logged:#?}");
    for (pair, shown) in pairs {
        let line = logged.iter().map(Value::to_string).find(|line| line.contains(shown));
        let line = line.unwrap_or_else(|| panic!("{pair}: {logged:#?}"));
        assert!(line.contains("spiffe://hatchery/frontdoor") && line.contains("127.0.0.1"), "{line}");
    }
    let metrics = agent.metrics().await;
    for (reason, expected) in [("other-role", 2), ("no-role-of-a-farm", 2), ("other-node", 0)] {
        let series = format!("hatchery_tls_peers_refused_total{{peer=\"frontdoor\",reason=\"{reason}\"}}");
        let expected = (expected * methods.len()) as f64;
        assert_eq!(metrics.get(&series), Some(expected), "{reason}");
    }
    assert_eq!(metrics.sum("hatchery_tls_peers_without_role_total"), 0.0);

    // A front door's certificate can do all of it.
    for (method, message) in methods.iter().skip(1).filter(|(method, _)| !method.contains("SetEligibility")) {
        let served = call(&certs, "door", address, method, message).await;
        assert_eq!(served.status, 200, "{method}: {served:?}");
    }
    farm.ends(id).await;
    farm.finish().await;
}

#[tokio::test]
async fn the_certificate_of_a_nodes_relay_orders_nothing_at_its_agent_and_opens_no_other() {
    let certs = Certs::two_agents(&["--relay", "node-a=127.0.0.1", "--relay", "node-b=127.0.0.1"]);
    let farm = farm(&certs).await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let id = spawned["id"].as_str().unwrap();
    let agent = farm.agent("node-a");
    let address = agent.flag("--listen");
    let methods = methods(id);
    for (method, message) in &methods {
        let refused = call(&certs, "node-b.relay", address, method, message).await;
        assert_eq!(refused.status, 0, "{method}: {refused:?}");
        call(&certs, "node-a.relay", address, method, message).await;
    }
    let orders = methods.iter().filter(|(method, _)| method.starts_with("hatchery")).count();
    let logged = "a call of the node's relay was refused that only front doors may make";
    agent.role.logs_so("every order", |log| log.matches(logged).count() == orders).await;
    assert_eq!(farm.processes().len(), 1, "nothing was started, nothing has ended");
    assert_eq!(farm.record(id).await["state"], "ready");
    assert_eq!(farm.door(0).json("/v1/nodes/node-a").await["eligibility"], "eligible");
    farm.stop([id]).await;
    farm.ends(id).await;
    farm.finish().await;
}

/// The admin ports of an agent and a front door that other machines can reach, as URLs; and a key that reads their metrics and nothing else.
async fn exposed(certs: &Certs, scratch: &Path) -> (Vec<(Role, String)>, String) {
    let state = scratch.join("state").display().to_string();
    let file = scratch.join("keys");
    let key = command::new_key(scratch, &file, &["--scope", "metrics"]);
    let file = file.display().to_string();
    let (agent_pair, door_pair) = (certs.agent("node-a"), certs.public_door("door"));
    let agent = ["agent", "--start-nothing", "--node", "node-a", "--state-dir", &state];
    let more = ["--liveliness-listen", "127.0.0.1:0", "--metrics-keys", &file];
    let agent = [&agent[..], &more, &words(&agent_pair)].concat();
    let door = ["frontdoor", "--api-keys", &file];
    let door = [&door[..], &words(&door_pair)].concat();
    let mut roles = Vec::new();
    for (name, line, admin) in [("agent", agent, 2), ("door", door, 1)] {
        let ports = ["--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"];
        let args: Vec<String> = [line, ports.to_vec()].concat().into_iter().map(str::to_owned).collect();
        let mut role = Role::start(name, scratch, &args);
        let line = role.announcement().await;
        let port = clients(&line)[admin].addr.port();
        roles.push((role, format!("https://127.0.0.1:{port}")));
    }
    (roles, key)
}

#[tokio::test]
async fn a_metrics_readers_certificate_or_key_reads_the_metrics_of_agents_and_front_doors() {
    let certs = certs();
    certs.sign("foreign", "URI:spiffe://other/metrics", "clientAuth");
    certs.sign("older", "DNS:older", "clientAuth");
    let scratch = tempfile::tempdir().unwrap();
    let ca = certs.file("ca.pem");
    let (roles, key) = exposed(&certs, scratch.path()).await;
    for (role, url) in roles {
        let probe = curl(&format!("{url}/healthz"), Some(&ca), &[]).await;
        assert_eq!(probe.status, 200, "{}: probes have no certificate: {probe:?}", role.name);
        let url = format!("{url}/metrics");
        let other = key.replace(|c: char| c.is_ascii_digit(), "x");
        let [right, wrong] = [&key, &other].map(|key| format!("Authorization: Bearer {key}"));
        for (shown, status) in [
            (&[][..], 401),
            (&["--header", &right], 200),
            (&["--header", &wrong], 401),
            (&["--user", "a:b"], 401),
        ] {
            let answer = curl(&url, Some(&ca), shown).await;
            assert_eq!(answer.status, status, "{} {shown:?}: {answer:?}", role.name);
        }
        for (pair, status) in [("prometheus", 200), ("door", 200), ("older", 200), ("foreign", 0)] {
            let (pem, key) = (certs.path(&format!("{pair}.pem")), certs.path(&format!("{pair}.key")));
            let answer = curl(&url, Some(&ca), &["--cert", &pem, "--key", &key]).await;
            assert_eq!(answer.status, status, "{} {pair}: {answer:?}", role.name);
            if pair == "older" {
                let counted = "hatchery_tls_peers_without_role_total{peer=\"metrics\"} 1";
                assert!(answer.body.contains(counted), "{}: {answer:?}", role.name);
            }
        }
        let refused = |log: &str| log.contains(REFUSED) && log.contains("spiffe://other/metrics");
        role.logs_so("whose certificate it refused", refused).await;
    }
}

#[tokio::test]
async fn a_node_that_shows_another_nodes_certificate_gets_no_spawn_and_its_agent_keeps_its_viewers() {
    let certs = certs();
    let mut farm = Farm::builder()
        .door_args(&words(&certs.door("door")))
        .agent(plan(&certs, "node-a"))
        .agent(plan(&certs, "node-b"))
        .start()
        .await;
    let cordoned = farm.run(&["cordon", "node-a"]).await;
    assert_eq!(cordoned.code, 0, "{cordoned:?}");
    let spawned = farm.door(0).spawned(&json!({})).await;
    assert_eq!(spawned["node"], "node-b", "{spawned}");
    let id = spawned["id"].as_str().unwrap().to_owned();
    let mut viewer = Viewer::client_side(spawned["endpoint"].as_str().unwrap()).await;
    viewer.greet().await;
    let pid = farm.process(&id).unwrap().pid;
    let opened = farm.run(&["uncordon", "node-a"]).await;
    assert_eq!(opened.code, 0, "{opened:?}");

    // It has node A's key, and its address; a host of its own would have to be in the certificate as well.
    let advertise = format!("https://{}", farm.agent("node-a").flag("--listen"));
    let mut impostor = Impostor::new(&farm.redis.url(), "node-b", &advertise);
    assert!(!impostor.claims().await, "the agent that lives has the node");
    farm.agent_mut("node-b").role.kill();
    until("the impostor has the node", TIMEOUT, async || {
        Look::when(impostor.claims().await, || "it is not believed".to_owned())
    })
    .await;
    let impostor = tokio::spawn(impostor.keep());

    // The impostor's node is empty, so it is asked first.
    let door = &farm.doors[0];
    let refused = "hatchery_tls_peers_refused_total{peer=\"agent\",reason=\"other-node\"}";
    let mut others = Vec::new();
    until("the impostor was asked", TIMEOUT, async || {
        let spawned = door.http.spawned(&json!({})).await;
        assert_eq!(spawned["node"], "node-a", "{spawned}");
        let other = spawned["id"].as_str().unwrap().to_owned();
        farm.stop([other.as_str()]).await;
        farm.ends(&other).await;
        others.push(other);
        let count = door.metrics().await.get(refused);
        Look::when(count.is_some_and(|count| count >= 1.0), || format!("{count:?}"))
    })
    .await;
    let logged = lines(&door.role, "WARN", REFUSED);
    assert_eq!(logged.len(), 1, "{logged:#?}");
    for word in ["spiffe://hatchery/agent/node-a", "spiffe://hatchery/agent/node-b"] {
        assert!(logged[0].to_string().contains(word), "{word}: {logged:#?}");
    }
    let asked = lines(&farm.agent("node-a").role, "WARN", "for another node");
    assert!(asked.is_empty(), "nothing was sent to whom it is not for: {asked:#?}");

    // A caller who can go nowhere else learns nothing of the farm's certificates.
    let cordoned = farm.run(&["cordon", "node-a"]).await;
    assert_eq!(cordoned.code, 0, "{cordoned:?}");
    let nowhere = door.http.spawn(&json!({})).await;
    assert_eq!(nowhere.status, 503, "{nowhere:?}");
    assert!(!nowhere.text().contains("spiffe"), "{nowhere:?}");
    let opened = farm.run(&["uncordon", "node-a"]).await;
    assert_eq!(opened.code, 0, "{opened:?}");

    impostor.abort();
    until("the impostor is down", TIMEOUT, async || {
        let node = farm.door(0).json("/v1/nodes/node-b").await;
        Look::when(node["availability"] == "down", || node.to_string())
    })
    .await;
    farm.agent_mut("node-b").restart().await;
    farm.reaches(&id, "ready", TIMEOUT).await;
    assert_eq!(farm.process(&id).map(|process| process.pid), Some(pid), "it went on all the time");
    assert!(!viewer.is_closed().await, "and so did its viewer");
    farm.stop([id.as_str()]).await;
    farm.ends(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn certificates_without_a_role_go_on_with_one_warning_until_they_are_renewed() {
    let certs = certs();
    certs.sign("door", "DNS:door,IP:127.0.0.1", "serverAuth,clientAuth");
    certs.sign("node-a", "DNS:node-a,IP:127.0.0.1", "serverAuth");
    let farm = farm(&certs).await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let mut ids = vec![spawned["id"].as_str().unwrap().to_owned()];
    let older = |name: &'static str| {
        let (certs, farm) = (&certs, &farm);
        async move { another_door(farm, name, &certs.door("door")).await }
    };
    let (role, http) = older("older").await;
    ids.push(http.spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    drop(role);
    let without = async |peer: &str| {
        let agent = farm.agent("node-a").metrics().await;
        let door = farm.doors[0].metrics().await;
        let series = format!("hatchery_tls_peers_without_role_total{{peer=\"{peer}\"}}");
        agent.get(&series).or(door.get(&series)).unwrap_or(0.0)
    };
    let before = without("frontdoor").await;
    assert!(before >= 2.0, "{before}");
    assert!(without("agent").await >= 1.0);
    for (role, peer) in [(&farm.agent("node-a").role, "frontdoor"), (&farm.doors[0].role, "agent")] {
        // One of its own certificate, one of its peers', however many there are.
        let logged = lines(role, "WARN", ROLELESS);
        assert_eq!(logged.len(), 2, "{logged:#?}");
        assert!(logged.iter().all(|line| line.to_string().contains("--renew")), "{logged:#?}");
        assert!(logged.iter().any(|line| line.to_string().contains(&format!("\"{peer}\""))), "{logged:#?}");
    }

    // The CA that signed them signs those with a role, beside them.
    let kept = certs.more(&["--agent", "node-a"]);
    assert!(String::from_utf8_lossy(&kept.stdout).contains("states no role"), "{kept:?}");
    let renewed = certs.more(&["--frontdoor", "door=127.0.0.1", "--agent", "node-a=127.0.0.1", "--renew"]);
    assert!(renewed.status.success(), "{renewed:?}");
    until("both have read them", TIMEOUT, async || {
        let seen = [&farm.agent("node-a").role, &farm.doors[0].role]
            .map(|role| !lines(role, "INFO", "certificates were read again").is_empty());
        Look::when(seen == [true, true], || format!("{seen:?}"))
    })
    .await;
    let (role, http) = older("renewed").await;
    ids.push(http.spawned(&json!({})).await["id"].as_str().unwrap().to_owned());
    assert_eq!(without("frontdoor").await, before, "a renewed one states its role");
    assert!(!role.log().contains(ROLELESS), "{}", role.log());
    drop(role);
    farm.stop(ids.iter().map(String::as_str)).await;
    for id in &ids {
        farm.ends(id).await;
    }
    farm.finish().await;
}

#[tokio::test]
async fn a_running_agent_does_not_take_up_another_nodes_certificate() {
    let certs = certs();
    let farm = farm(&certs).await;
    let install = |from: &str| {
        for end in ["key", "pem"] {
            fs::copy(certs.file(&format!("{from}.{end}")), certs.file(&format!("node-a.{end}"))).unwrap();
        }
    };
    install("node-b");
    until("the agent has refused it", TIMEOUT, async || {
        let logged = lines(&farm.agent("node-a").role, "ERROR", "new certificates cannot be used");
        Look::when(logged.iter().any(|line| line.to_string().contains("agent/node-b")), || {
            format!("{logged:#?}")
        })
    })
    .await;
    let (role, http) = another_door(&farm, "second", &certs.door("door")).await;
    let spawned = http.spawned(&json!({})).await;
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.ends(spawned["id"].as_str().unwrap()).await;
    drop(role);
    let renewed = certs.more(&["--agent", "node-a=127.0.0.1", "--renew"]);
    assert!(renewed.status.success(), "{renewed:?}");
    until("the agent has read its own", TIMEOUT, async || {
        let logged = lines(&farm.agent("node-a").role, "INFO", "certificates were read again");
        Look::when(!logged.is_empty(), || "it has not".to_owned())
    })
    .await;
    let (role, http) = another_door(&farm, "third", &certs.door("door")).await;
    let spawned = http.spawned(&json!({})).await;
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.ends(spawned["id"].as_str().unwrap()).await;
    drop(role);
    farm.assert_empty().await;
}

#[test]
fn a_role_starts_only_with_a_certificate_of_its_own() {
    let certs = certs();
    certs.sign("foreign", "URI:spiffe://other/frontdoor", "clientAuth,serverAuth");
    certs.sign("both", "URI:spiffe://hatchery/frontdoor,URI:spiffe://hatchery/metrics", "clientAuth");
    let scratch = tempfile::tempdir().unwrap();
    let state = scratch.path().to_str().unwrap();
    let common = ["--registry", "embedded", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    let agent = ["agent", "--start-nothing", "--node", "node-a", "--state-dir", state];
    for (role, pair, found) in [
        (&agent[..], "node-b", "spiffe://hatchery/agent/node-b"),
        (&agent, "door", "spiffe://hatchery/frontdoor"),
        (&agent, "prometheus", "spiffe://hatchery/metrics"),
        (&agent, "foreign", "spiffe://other/frontdoor"),
        (&["frontdoor"], "node-a", "spiffe://hatchery/agent/node-a"),
        (&["frontdoor"], "prometheus", "spiffe://hatchery/metrics"),
        (&["frontdoor"], "foreign", "spiffe://other/frontdoor"),
        (&["frontdoor"], "both", "2 URIs"),
    ] {
        let (flag, own, pair) = match role[0] {
            "agent" => ("--tls-cert", "spiffe://hatchery/agent/node-a", certs.agent(pair)),
            _ => ("--agent-tls-cert", "spiffe://hatchery/frontdoor", certs.door(pair)),
        };
        let line = [role, &common, &words(&pair)].concat();
        let (code, said) = refused(scratch.path(), &line);
        assert_eq!(code, 2, "{line:?}: {said}");
        for word in [flag, own, found, "hatchery certs new"] {
            assert!(said.contains(word), "{line:?} does not say {word}: {said}");
        }
    }
}

#[test]
fn a_certificate_of_another_role_or_host_is_not_kept_as_if_it_were_the_one_that_was_asked_for() {
    let certs = certs();
    for (args, word) in [
        (["--metrics", "door"], "spiffe://hatchery/frontdoor"),
        (["--agent", "door"], "spiffe://hatchery/frontdoor"),
        (["--frontdoor", "node-a"], "spiffe://hatchery/agent/node-a"),
        (["--agent", "node-a=10.9.9.9"], "10.9.9.9"),
    ] {
        let before = fs::read(certs.file("door.pem")).unwrap();
        let ran = certs.more(&args);
        let said = String::from_utf8_lossy(&ran.stderr);
        assert_eq!(ran.status.code(), Some(1), "{args:?}: {ran:?}");
        assert!(said.contains(word) && said.contains("--renew"), "{args:?}: {said}");
        assert_eq!(before, fs::read(certs.file("door.pem")).unwrap());
    }
    assert!(certs.more(&["--metrics", "door", "--renew"]).status.success());
}
