//! A port that somebody else takes between the test and the server's own attempt to listen on it.

use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;

use model::{ExitReason, SpawnId, SpawnState};
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, until, until_gone};

/// What the vendor's library says of a busy port.
const WORDS: &str = "Can't create lws context.";

/// Notes the port of each start in `file`, does `first` in the first one and `then` in the others.
fn once(file: &Path, first: &str, then: &str) -> String {
    let file = file.display();
    format!("echo $port $$ >> {file}; if (($(wc -l < {file}) == 1)); then {first}; fi; {then}")
}

/// The port and the process of each start.
fn starts(file: &Path) -> Vec<(u16, u32)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let number = |word: &str| word.parse::<u32>().unwrap();
    let start = |line: &str| line.split_once(' ').map(|(port, pid)| (number(port), number(pid))).unwrap();
    text.lines().map(start).map(|(port, pid)| (u16::try_from(port).unwrap(), pid)).collect()
}

fn lost(metrics: &str) -> &str {
    metrics.lines().find_map(|line| line.strip_prefix("hatchery_agent_ports_lost_total ")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_its_port_is_started_again_on_another_one() {
    let farm = Farm::start().await;
    let file = farm.dir.path().join("starts");
    let ask = farm.ask(&once(&file, &format!("echo \"{WORDS}\"; exit 4"), STAY));
    let Outcome::Ready(ready) = farm.send(&ask).await else { panic!("not ready") };
    let id: SpawnId = ask.spawn_id.parse().unwrap();

    let starts = starts(&file);
    let [(first, gone), (second, living)] = starts[..] else { panic!("{starts:?}") };
    assert_ne!(first, second);
    until_gone(gone).await;
    assert_eq!(ready.endpoint, format!("ws://127.0.0.1:{second}"));
    let record = farm.registry.spawn(id).await.unwrap().unwrap();
    assert_eq!((record.state, record.endpoint.as_str()), (SpawnState::Ready, ready.endpoint.as_str()));
    let info = farm.info(id).await;
    assert_eq!((info.port, info.pid, info.endpoint), (u32::from(second), living, ready.endpoint));
    let log = farm.log(id).await;
    assert_eq!(log.iter().filter(|line| line.starts_with("# hatchery spawn.id=")).count(), 2, "{log:?}");
    assert!(log.iter().any(|line| line == WORDS), "{log:?}");
    let metrics = farm.metrics().await;
    assert_eq!(lost(&metrics), "1");
    assert!(metrics.contains("hatchery_agent_ports_used 1\n"), "{metrics}");
    assert!(metrics.contains("hatchery_agent_spawns_started_total 1\n"), "{metrics}");

    farm.stop(id).await;
    let record = farm.until_ended(id, ExitReason::Stopped).await;
    let kinds: Vec<_> = record.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]);
    until_gone(living).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_seen_to_be_taken_needs_no_words() {
    let farm = Farm::start().await;
    let (file, taken) = (farm.dir.path().join("starts"), farm.dir.path().join("taken"));
    let wait = format!("until [[ -e {} ]]; do sleep 0.01; done; exit 4", taken.display());
    let ask = farm.ask(&once(&file, &wait, STAY));
    let (outcome, _listener) = tokio::join!(farm.send(&ask), async {
        let port = until("the first start", async || starts(&file).first().map(|(port, _)| *port)).await;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        std::fs::write(&taken, "").unwrap();
        listener
    });
    assert!(matches!(outcome, Outcome::Ready(_)), "{outcome:?}");
    assert_eq!(starts(&file).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gives_up_after_five_ports_and_shows_the_last_words_of_the_last() {
    let farm = Farm::start().await;
    let file = farm.dir.path().join("starts");
    let ask = farm.ask(&format!("echo $port $$ >> {}; echo $port; echo \"{WORDS}\"; exit 4", file.display()));
    let Outcome::Ended(ended) = farm.send(&ask).await else { panic!("not ended") };
    let ports: Vec<u16> = starts(&file).into_iter().map(|(port, _)| port).collect();
    assert!(ports.len() == 5 && ports.windows(2).all(|pair| pair[0] != pair[1]), "{ports:?}");
    let exit = ended.exit.unwrap();
    assert_eq!((exit.reason.as_str(), exit.code), ("failed", Some(4)));
    assert_eq!(ended.log, [ports[4].to_string(), WORDS.to_owned()]);
    farm.until_ended(ask.spawn_id.parse().unwrap(), ExitReason::Failed).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_for_another_reason_is_not_started_again() {
    let farm = Farm::start().await;
    for end in ["exit 4", "echo \"Can't create lws context.\"; exit 3", "exit 1"] {
        let file = tempfile::NamedTempFile::new_in(farm.dir.path()).unwrap();
        let ask = farm.ask(&once(file.path(), end, STAY));
        let outcome = farm.send(&ask).await;
        assert!(matches!(outcome, Outcome::Ended(_)), "{end}: {outcome:?}");
        assert_eq!(starts(file.path()).len(), 1, "{end}");
    }
    // Once it was ready, viewers know its port.
    let (file, go) = (farm.dir.path().join("starts"), farm.dir.path().join("go"));
    let wait = format!("until [[ -e {} ]]; do sleep 0.01; done", go.display());
    let (id, _) =
        farm.spawn_as(&once(&file, &format!("say ready; {wait}; echo \"{WORDS}\"; exit 4"), STAY)).await;
    std::fs::write(&go, "").unwrap();
    farm.until_ended(id, ExitReason::Failed).await;
    assert_eq!(starts(&file).len(), 1);
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_to_end_is_not_started_again() {
    let farm = Farm::start().await;
    let file = farm.dir.path().join("starts");
    // TERM finds it ending by itself with the very code of a lost port.
    let lose = format!("lose() {{ echo \"{WORDS}\"; exit 4; }}; trap lose TERM; rest");
    let ask = farm.ask(&once(&file, &lose, STAY));
    let id: SpawnId = ask.spawn_id.parse().unwrap();
    let (outcome, ()) = tokio::join!(farm.send(&ask), async {
        until("it has started", async || (starts(&file).len() == 1).then_some(())).await;
        farm.stop(id).await;
    });
    assert!(matches!(outcome, Outcome::Ended(_)), "{outcome:?}");
    farm.until_ended(id, ExitReason::Stopped).await;
    assert_eq!(starts(&file).len(), 1);
    farm.until_empty().await;
}
