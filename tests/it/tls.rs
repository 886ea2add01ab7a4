//! Who talks to whom when certificates say so, and what happens to an installation that forgets them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use hatchery_tests::certs::{Certs, curl};
use hatchery_tests::load::{Load, Outcome};
use hatchery_tests::role::clients;
use hatchery_tests::{AgentPlan, Browser, Client, Farm, Look, Role, until, wait::TIMEOUT};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout};

pub(crate) fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Certificates for everybody in a farm of this machine.
pub(crate) fn certs() -> Certs {
    Certs::two_agents(&["--agent", "node-c=10.9.9.9"])
}

/// One front door without TLS for its callers, and one agent.
async fn farm(certs: &Certs) -> Farm {
    let plan = AgentPlan::slots(4).args(&words(&certs.agent("node-a")));
    Farm::builder().door_args(&words(&certs.door("door"))).agent(plan).start().await
}

/// The spawn that an answer tells of.
fn id_in(body: &str) -> String {
    let body: Value = serde_json::from_str(body).unwrap();
    body["id"].as_str().unwrap().to_owned()
}

/// One more front door of the farm, and its client.
pub(crate) async fn another_door(farm: &Farm, name: &str, flags: &[String]) -> (Role, Client) {
    let url = farm.redis.url();
    let mut args = vec!["frontdoor", "--registry", &url, "--farm", "test"];
    args.extend(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--log-format", "json"]);
    args.extend(["--log", "info,frontdoor=debug"]);
    args.extend(words(flags));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let mut role = Role::start(name, farm.mark(), &args);
    let line = role.announcement().await;
    let [http, _] = clients(&line)[..] else { panic!("{line}") };
    role.logs("front door open").await;
    (role, http)
}

#[tokio::test]
async fn front_doors_and_agents_of_one_farm_talk_with_certificates() {
    let farm = farm(&certs()).await;
    let spawned = farm.door(0).spawned(&json!({})).await;
    let id = spawned["id"].as_str().unwrap();
    let log = farm.door(0).get(&format!("/v1/spawns/{id}/log")).send().await;
    assert_eq!(log.status, 200, "{log:?}");
    farm.stop([id]).await;
    farm.ends(id).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_starts_nothing_for_a_front_door_without_a_certificate_of_its_farm() {
    let (certs, others) = (certs(), certs());
    // Of a release before roles; a front door does not start with one that states another role.
    certs.sign("node-b", "DNS:node-b,IP:127.0.0.1", "serverAuth");
    let farm = farm(&certs).await;
    let mixed = |identity: Vec<String>| {
        let ca = ["--tls-client-ca".to_owned(), certs.path("ca.pem")];
        [&identity[..4], &ca].concat()
    };
    for (name, flags, told) in [
        ("none", Vec::new(), "--tls-client-ca"),
        ("an-agents", certs.door("node-b"), "received fatal alert"),
        ("another-farms", mixed(others.door("door")), "received fatal alert: UnknownCA"),
    ] {
        let (role, http) = another_door(&farm, name, &flags).await;
        let refused = http.spawn(&json!({})).await;
        assert_eq!(refused.status, 503, "{name}: {refused:?}");
        // The whole reason is for the log: what stands in a certificate is none of a caller's business.
        let answered = if name == "none" { told } else { "a certificate was not accepted" };
        assert!(refused.text().contains(answered), "{name}: {refused:?}");
        role.logs(told).await;
        assert!(farm.processes().is_empty(), "{name}");
        // What it has reserved it gives back after its answer, while it lives.
        farm.assert_empty().await;
        drop(role);
    }
    let spawned = farm.door(0).spawned(&json!({})).await;
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.ends(spawned["id"].as_str().unwrap()).await;
    farm.finish().await;
}

#[tokio::test]
async fn a_front_door_asks_no_agent_of_another_farm_or_another_name_or_without_tls() {
    let (certs, others) = (certs(), certs());
    let pool = |name: &str, flags: &[String]| AgentPlan::slots(2).args(&words(flags)).args(&["--pool", name]);
    let farm = Farm::builder()
        .door_args(&words(&certs.door("door")))
        .agent(pool("good", &certs.agent("node-a")))
        .agent(pool("stranger", &others.agent("node-b")))
        .agent(pool("misnamed", &certs.agent("node-c")))
        .agent(pool("plain", &[]))
        .start()
        .await;
    for (name, told) in
        [("stranger", "UnknownIssuer"), ("misnamed", "not valid for name"), ("plain", "without TLS")]
    {
        let refused = farm.door(0).spawn(&json!({"pool": name})).await;
        assert_eq!(refused.status, 503, "{name}: {refused:?}");
        let answered = if name == "plain" { told } else { "a certificate was not accepted" };
        assert!(refused.text().contains(answered), "{name}: {refused:?}");
        farm.doors[0].role.logs(told).await;
    }
    farm.agent("node-c").role.logs("the certificate is not for this host").await;
    assert!(farm.processes().is_empty());
    let spawned = farm.door(0).spawned(&json!({"pool": "good"})).await;
    farm.stop([spawned["id"].as_str().unwrap()]).await;
    farm.ends(spawned["id"].as_str().unwrap()).await;
    farm.finish().await;
}

#[tokio::test]
async fn callers_are_served_by_https_and_hang_up_on_it_as_ever() {
    let certs = certs();
    let farm = farm(&certs).await;
    let (role, http) = another_door(&farm, "secure", &certs.public_door("door")).await;
    let (url, ca) = (format!("https://{}", http.addr), certs.file("ca.pem"));
    let answer = curl(&format!("{url}/spawn"), Some(&ca), &["-X", "POST"]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let id = id_in(&answer.body);
    farm.stop([id.as_str()]).await;
    farm.ends(&id).await;

    let stranger = curl(&format!("{url}/healthz"), None, &[]).await;
    assert!(stranger.error.contains("certificate"), "{stranger:?}");

    // Who speaks HTTP is not kept waiting.
    let began = Instant::now();
    let mut plain = http.open(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let mut said = Vec::new();
    timeout(Duration::from_secs(5), plain.read_to_end(&mut said)).await.unwrap().ok();
    assert!(!said.starts_with(b"HTTP"), "{said:?}");
    assert!(began.elapsed() < Duration::from_secs(5));

    let mut caller = Command::new("curl")
        .args(["--silent", "--cacert", &certs.path("ca.pem"), "-H", "content-type: application/json"])
        .args(["-d", r#"{"sessionToken":"sim:ready_delay_ms=20000"}"#, &format!("{url}/spawn")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("a process starts", TIMEOUT, async || {
        Look::when(!farm.processes().is_empty(), || "no process".to_owned())
    })
    .await;
    caller.kill().unwrap();
    caller.wait().unwrap();
    until("nothing is left of it", Duration::from_secs(10), async || {
        let left = farm.processes().len();
        Look::when(left == 0, || format!("{left} processes"))
    })
    .await;
    drop(role);
    farm.finish().await;
}

#[tokio::test]
async fn pages_come_by_https_and_their_feed_and_calls_with_them() {
    let certs = certs();
    let farm = farm(&certs).await;
    let (role, http) = another_door(&farm, "secure", &certs.public_door("door")).await;
    let browser = Browser::start(1440, 1100).await;
    browser.open(&format!("https://{}/", http.addr)).await;
    browser.sees("#connection", "Live").await;
    browser.sees("#total", "of 4").await;
    browser.click("[aria-label=\"Cordon node-a\"]").await;
    browser.sees("#notes", "node-a is closed to new spawns.").await;
    browser.click("[aria-label=\"Uncordon node-a\"]").await;
    browser.sees("#notes", "node-a is open again.").await;

    // What is on this machine may be reached without TLS.
    browser.open(&format!("https://{}/demo", http.addr)).await;
    browser.click("#create").await;
    browser.sees("[data-viewer=\"1\"]", "The model is open.").await;
    let spawn = browser.run("return document.querySelector('[data-viewer]').dataset.spawn;").await;
    browser.click("[data-viewer=\"1\"] header button").await;
    farm.ends(spawn.as_str().unwrap()).await;
    let said = browser.console().await;
    assert!(!said.iter().any(|line| line.contains("Refused") || line.contains("Mixed")), "{said:#?}");
    drop(role);
    farm.finish().await;
}

#[tokio::test]
async fn connections_that_never_shake_hands_keep_no_other_out_and_are_closed() {
    const PLACES: usize = 100;
    const SILENT: usize = 500;
    let certs = certs();
    let farm = farm(&certs).await;
    let places = PLACES.to_string();
    let flags = [certs.public_door("door"), vec!["--max-connections".to_owned(), places]].concat();
    let (role, http) = another_door(&farm, "secure", &flags).await;
    let mut silent = Vec::new();
    for _ in 0..SILENT {
        // Half of them begin a handshake: type, version, a length, and nothing more.
        let begun: &[u8] = if silent.len() % 2 == 0 { b"" } else { b"\x16\x03\x01\x02\x00" };
        silent.push(http.open(begun).await);
    }
    let url = format!("https://{}/healthz", http.addr);
    let answer = timeout(Duration::from_secs(5), curl(&url, Some(&certs.file("ca.pem")), &[])).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    for mut stream in silent {
        let end = timeout(Duration::from_secs(20), stream.read(&mut [0; 16])).await.expect("it is closed");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    drop(role);
    farm.finish().await;
}

/// What callers get while the one node is full, or its agent has the new certificate and the front door not yet.
const SHORT: [&str; 2] = ["no-capacity", "node-unreachable"];

#[tokio::test]
async fn certificates_are_replaced_under_load_and_no_spawn_fails() {
    let certs = certs();
    let plan = AgentPlan::slots(20).args(&words(&certs.agent("node-a")));
    let farm = Farm::builder().door_args(&words(&certs.door("door"))).agent(plan).start().await;
    let (role, secure) = another_door(&farm, "secure", &certs.public_door("door")).await;
    let url = format!("https://{}/spawn", secure.addr);
    let mut load = Load::start(farm.doors.iter().map(|door| door.http).collect(), 900, 5.0);
    let read_again = |log: &str| log.matches("certificates were read again").count();
    for round in 1..=3 {
        let renew = ["--frontdoor", "door=127.0.0.1", "--agent", "node-a=127.0.0.1", "--renew"];
        let renewed = certs.more(&renew);
        assert!(renewed.status.success(), "{renewed:?}");
        // New connections all the time: a door that serves and asks agents, and one that has just come.
        until("everybody has read them", TIMEOUT, async || {
            let answer = curl(&url, Some(&certs.file("ca.pem")), &["-X", "POST"]).await;
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            assert!(
                answer.status == 200 || SHORT.iter().any(|code| answer.body.contains(code)),
                "{answer:?}"
            );
            if answer.status == 200 {
                farm.stop([id_in(&answer.body).as_str()]).await;
            }
            let logs = [role.log(), farm.doors[0].role.log(), farm.agents[0].role.log()];
            let seen = logs.map(|log| read_again(&log));
            Look::when(seen.iter().all(|times| *times >= round), || format!("{seen:?}"))
        })
        .await;
        let (fresh, http) = another_door(&farm, &format!("fresh-{round}"), &certs.door("door")).await;
        until("a new front door is served", TIMEOUT, async || {
            let answer = http.spawn(&json!({})).await;
            assert!(
                answer.status == 200 || SHORT.iter().any(|code| answer.json()["code"] == *code),
                "{answer:?}"
            );
            if answer.status == 200 {
                farm.stop([id_in(&answer.text()).as_str()]).await;
            }
            Look::when(answer.status == 200, || format!("{answer:?}"))
        })
        .await;
        drop(fresh);
    }
    load.stop(TIMEOUT).await;
    let notes = std::mem::take(&mut *load.notes());
    let mut ready = 0;
    for call in &notes.calls {
        match &call.outcome {
            Outcome::Ready { .. } => ready += 1,
            Outcome::HungUp => {}
            Outcome::Refused(_, code) => assert!(SHORT.contains(&code.as_str()), "{call:?}"),
            Outcome::Broken(why) => panic!("{why}: {call:?}"),
        }
    }
    assert!(ready > 10, "{ready} of {}", notes.calls.len());
    drop((notes, role));
    for spawn in hatchery_tests::audit::all_spawns(farm.door(0), "").await {
        let id = spawn["id"].as_str().unwrap();
        farm.door(0).delete(&format!("/v1/spawns/{id}")).send().await;
    }
    until("nothing runs", TIMEOUT, async || {
        let left = farm.processes().len();
        Look::when(left == 0, || format!("{left} processes"))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn an_agents_figures_are_for_the_farm_where_others_can_reach_them() {
    let certs = certs();
    let scratch = tempfile::tempdir().unwrap();
    let mut args =
        vec!["agent", "--registry", "embedded", "--start-nothing", "--node", "node-a", "--state-dir"];
    args.extend([scratch.path().to_str().unwrap(), "--listen", "127.0.0.1:0", "--admin-listen", "0.0.0.0:0"]);
    args.extend(["--liveliness-listen", "127.0.0.1:0"]);
    let flags = certs.agent("node-a");
    args.extend(words(&flags));
    let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
    let mut role = Role::start("node-a", scratch.path(), &args);
    let line = role.announcement().await;
    let port = clients(&line)[2].addr.port();
    let (url, ca) = (format!("https://127.0.0.1:{port}"), certs.file("ca.pem"));
    let health = curl(&format!("{url}/healthz"), Some(&ca), &[]).await;
    assert_eq!(health.status, 200, "{health:?}");
    let metrics = curl(&format!("{url}/metrics"), Some(&ca), &[]).await;
    assert_eq!(metrics.status, 403, "{metrics:?}");
    let (pem, key) = (certs.path("door.pem"), certs.path("door.key"));
    let metrics = curl(&format!("{url}/metrics"), Some(&ca), &["--cert", &pem, "--key", &key]).await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    assert!(metrics.body.contains("hatchery_agent_certificate_not_after_seconds 1"), "{metrics:?}");
    let (pem, key) = (certs.path("node-b.pem"), certs.path("node-b.key"));
    let metrics = curl(&format!("{url}/metrics"), Some(&ca), &["--cert", &pem, "--key", &key]).await;
    assert_eq!(metrics.status, 0, "an agent's certificate is for no caller: {metrics:?}");
}

#[test]
fn certificates_that_are_there_stay_unless_they_are_to_be_renewed() {
    let certs = Certs::new(&["--agent", "node-a=10.0.0.7"]);
    let read = |name| fs::read_to_string(certs.file(name)).unwrap();
    for name in ["ca.key", "node-a.key"] {
        let mode = fs::metadata(certs.file(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let before = [read("ca.key"), read("ca.pem"), read("node-a.key"), read("node-a.pem")];
    let ran = certs.more(&["--agent", "node-a", "--frontdoor", "door"]);
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(said.contains("kept") && said.contains("--tls-cert") && said.contains("door.pem"), "{said}");
    assert_eq!(before, [read("ca.key"), read("ca.pem"), read("node-a.key"), read("node-a.pem")]);
    assert!(certs.more(&["--agent", "node-a", "--renew"]).status.success());
    assert_eq!(before[..2], [read("ca.key"), read("ca.pem")]);
    assert_ne!(before[2], read("node-a.key"));
    for (name, purpose, good) in [
        ("node-a.pem", "sslserver", true),
        ("node-a.pem", "sslclient", false),
        ("door.pem", "sslclient", true),
        ("door.pem", "sslserver", true),
    ] {
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-purpose", purpose, "-CAfile"]).arg(certs.file("ca.pem"));
        let ran = openssl.arg(certs.file(name)).output().unwrap();
        assert_eq!(ran.status.success(), good, "{name} {purpose}: {ran:?}");
    }
    fs::copy(certs.file("node-a.key"), certs.file("ca.key")).unwrap();
    assert_eq!(
        certs.more(&["--agent", "node-c"]).status.code(),
        Some(1),
        "a key of another CA signs nothing"
    );
}
