//! Servers that are kept ready, and how spawns get them.

use std::time::Duration;

use agent::{Config, OnShutdown};
use model::{ExitReason, RendererType, SpawnId, SpawnState, StartFailure};
use registry::{Outcome as StartOutcome, Outcomes};
use wire::v1;
use wire::v1::spawn_reply::Outcome;

use crate::adoption::next;
use crate::harness::{Farm, STAY, runs, until, until_gone};

/// How long a server takes to start.
const SLOW: Duration = Duration::from_millis(1500);

/// Keeps so many servers, which take their time.
fn keeps(renderer: RendererType, count: u32) -> impl FnOnce(&mut Config) {
    move |config| {
        config.warm = [(renderer, count)].into();
        config.env.push(("script".to_owned(), format!("sleep {}; {STAY}", SLOW.as_secs_f64())));
    }
}

async fn keeping(count: u32, change: impl FnOnce(&mut Config)) -> Farm {
    let farm = Farm::start_with(|config| {
        keeps(RendererType::Csr, count)(config);
        change(config);
    })
    .await;
    until_kept(&farm, count).await;
    farm
}

/// Waits until so many are ready, and the registry knows that. The registry alone may know only what was.
async fn until_kept(farm: &Farm, count: u32) {
    until(&format!("{count} are kept"), async || {
        let metrics = farm.metrics().await;
        let gauges = metrics.lines().filter(|line| line.starts_with("hatchery_agent_warm_servers_ready{"));
        let here: u32 = gauges.filter_map(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).sum();
        let node = farm.registry.node(farm.agent.node()).await.unwrap()?;
        let known: u32 = node.supply.warm.values().map(|warm| warm.ready).sum();
        ((here, known) == (count, count)).then_some(())
    })
    .await;
}

/// All servers of the agent: process, and the id that it was started with.
fn servers(farm: &Farm) -> Vec<(u32, SpawnId)> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.ok()?.path();
        let pid = path.file_name()?.to_str()?.parse().ok()?;
        let line = String::from_utf8(std::fs::read(path.join("cmdline")).ok()?).ok()?;
        let words: Vec<&str> = line.split('\0').collect();
        let option = |name: &str| words.get(words.iter().position(|word| *word == name)? + 1).copied();
        let port: u16 = option("--sc-port")?.parse().ok()?;
        (farm.ports.contains(&port) && runs(pid))
            .then(|| option("--id")?.parse().ok().map(|id| (pid, id)))
            .flatten()
    });
    // A shell's children have its command line for a moment.
    let mut all: Vec<(u32, SpawnId)> = processes.collect();
    all.sort_by_key(|(pid, id)| (*id, *pid));
    all.dedup_by_key(|(_, id)| *id);
    all
}

/// An order that the last agent followed may not have been written down: the node may be closed.
#[tokio::test]
async fn nothing_is_kept_before_the_registry_has_answered() {
    let farm = Farm::start_alone_with(keeps(RendererType::Csr, 1)).await;
    let (id, _) = farm.spawn_as(STAY).await;
    assert_eq!(servers(&farm).into_iter().map(|(_, id)| id).collect::<Vec<_>>(), [id]);
}

fn plain(farm: &Farm) -> v1::SpawnRequest {
    v1::SpawnRequest { session_token: None, ..farm.ask("") }
}

async fn get(farm: &Farm, ask: &v1::SpawnRequest) -> (SpawnId, v1::Ready) {
    match farm.send(ask).await {
        Outcome::Ready(ready) => (ask.spawn_id.parse().unwrap(), ready),
        other => panic!("not ready but {other:?}"),
    }
}

async fn counts(farm: &Farm, line: &str) {
    until(line, async || farm.metrics().await.lines().any(|found| found == line).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_needs_nothing_special_gets_a_server_that_is_ready() {
    let farm = keeping(1, |_| ()).await;
    let before = servers(&farm);
    let [(pid, server)] = before[..] else { panic!("{before:?}") };
    let node = farm.registry.node(farm.agent.node()).await.unwrap().unwrap();
    assert_eq!((node.used, farm.list().await.len()), (0, 0), "it is no spawn");

    let (id, ready) = get(&farm, &plain(&farm)).await;
    assert!(u128::from(ready.start_to_ready_us) < SLOW.as_micros(), "{ready:?}");
    assert_ne!(id, server);
    let info = farm.info(id).await;
    assert_eq!((info.pid, info.endpoint), (pid, ready.endpoint));
    let record = farm.until_state(id, SpawnState::Ready).await;
    assert_eq!(record.server, Some(server));
    let log = farm.log(id).await;
    assert!(
        log[0].contains(&format!("server.id={server}")) && log[1].contains(&format!("spawn.id={id}")),
        "{log:?}"
    );
    // It reports by the id that it was started with.
    until("a ping of it has come", async || {
        farm.registry.spawn(id).await.unwrap().filter(|now| now.last_ping_at > record.last_ping_at).map(drop)
    })
    .await;
    counts(&farm, "hatchery_agent_warm_claims_total 1").await;
    until_kept(&farm, 1).await;
    assert_eq!(servers(&farm).len(), 2, "another one takes its place");

    farm.stop(id).await;
    let record = farm.until_ended(id, ExitReason::Stopped).await;
    let kinds: Vec<_> = record.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]);
    until_gone(pid).await;
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_servers_end_first_when_their_room_is_wanted() {
    let farm = keeping(2, |config| config.slots = 2).await;
    let (id, _) = farm.spawn().await;
    assert_eq!(farm.registry.spawn(id).await.unwrap().unwrap().server, None, "a session token is special");
    until_kept(&farm, 1).await;
    assert_eq!(servers(&farm).len(), 2);
    counts(&farm, "hatchery_agent_warm_misses_total{reason=\"special\"} 1").await;
    counts(&farm, "hatchery_agent_warm_servers_ended_total{reason=\"room\"} 1").await;
    let (other, _) = get(&farm, &plain(&farm)).await;
    assert!(farm.registry.spawn(other).await.unwrap().unwrap().server.is_some());
    assert!(matches!(farm.send(&plain(&farm)).await, Outcome::Refused(_)), "every slot is a spawn's");
    for id in [id, other] {
        farm.stop(id).await;
    }
    until_kept(&farm, 2).await;
    farm.shutdown(OnShutdown::Kill).await;

    let farm = Farm::start_with(|config| {
        keeps(RendererType::Ssr, 1)(config);
        (config.gpus, config.gpu_slots) = (1, 1);
    })
    .await;
    until_kept(&farm, 1).await;
    let node = farm.registry.node(farm.agent.node()).await.unwrap().unwrap();
    assert_eq!((node.gpus[0].used, node.gpu_used), (0, 0), "its GPU slot is no spawn's");
    let mut ask = farm.ask(STAY);
    ask.renderer_type = v1::RendererType::Ssr.into();
    let (_, ready) = get(&farm, &ask).await;
    assert_eq!((ready.gpu, servers(&farm).len()), (Some(0), 1));
    farm.shutdown(OnShutdown::Kill).await;
}

/// What is ready needs no more memory than it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_short_of_memory_gives_its_warm_servers_ends_them_for_other_spawns_and_starts_none() {
    let farm = keeping(3, |_| ()).await;
    let before = servers(&farm);
    assert_eq!(before.len(), 3);
    // No machine has so much.
    let farm = next(farm, OnShutdown::Adopt, |config| {
        keeps(RendererType::Csr, 3)(config);
        config.min_free_memory = u64::MAX;
    })
    .await;
    until_kept(&farm, 3).await;
    assert_eq!(servers(&farm), before);
    let (id, _) = get(&farm, &plain(&farm)).await;
    let server = farm.registry.spawn(id).await.unwrap().unwrap().server.unwrap();
    assert!(before.iter().any(|(_, id)| *id == server), "it needs no start");
    until_kept(&farm, 2).await;

    // One after another ends, and its memory is not enough.
    let special = farm.ask(STAY);
    let Outcome::Refused(refused) = farm.send(&special).await else { panic!("there is no memory") };
    assert_eq!(refused.reason(), v1::refused::Reason::LowMemory, "{refused:?}");
    let left = servers(&farm);
    assert!(matches!(left[..], [(_, id)] if id == server), "all but the claimed one have ended: {left:?}");
    counts(&farm, "hatchery_agent_warm_servers_ended_total{reason=\"room\"} 2").await;
    counts(&farm, "hatchery_agent_warm_servers_started_total 0").await;
    let Outcome::Refused(refused) = farm.send(&plain(&farm)).await else { panic!("there is no memory") };
    assert_eq!(refused.reason(), v1::refused::Reason::LowMemory, "{refused:?}");

    // The next agent has enough, and starts as many as are wanted.
    let farm = next(farm, OnShutdown::Adopt, keeps(RendererType::Csr, 3)).await;
    until_kept(&farm, 3).await;
    assert_eq!(servers(&farm).len(), 4);
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_kept_while_the_node_is_closed_or_fails() {
    let farm = keeping(2, |config| config.starts = 1).await;
    let before = servers(&farm);
    farm.set_eligibility(v1::Eligibility::Cordoned).await;
    for (pid, _) in before {
        until_gone(pid).await;
    }
    until_kept(&farm, 0).await;
    farm.set_eligibility(v1::Eligibility::Eligible).await;
    until_kept(&farm, 2).await;

    let failure = StartFailure { reason: "no".to_owned(), conclusive: true, whole_node: true };
    let starts = vec![(farm.agent.node().clone(), StartOutcome::Failed(failure))];
    let outcomes = Outcomes { renderer: RendererType::Csr, same_everywhere: None, starts };
    farm.registry.learn(&outcomes).await.unwrap();
    until_kept(&farm, 0).await;
    until("all have ended", async || servers(&farm).is_empty().then_some(())).await;
    farm.shutdown(OnShutdown::Adopt).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_agent_keeps_what_it_would_have_started_and_ends_the_rest() {
    let farm = keeping(2, |_| ()).await;
    let (id, _) = get(&farm, &plain(&farm)).await;
    until_kept(&farm, 2).await;
    let before = servers(&farm);
    assert_eq!(before.len(), 3);
    let farm = next(farm, OnShutdown::Adopt, keeps(RendererType::Csr, 2)).await;
    until_kept(&farm, 2).await;
    assert_eq!(servers(&farm), before);
    // Its spawn is what it was, and its server reports for it.
    let record = farm.until_state(id, SpawnState::Ready).await;
    assert!(record.server.is_some());
    until("a ping of it has come", async || {
        farm.registry.spawn(id).await.unwrap().filter(|now| now.last_ping_at > record.last_ping_at).map(drop)
    })
    .await;
    let (other, ready) = get(&farm, &plain(&farm)).await;
    assert!(u128::from(ready.start_to_ready_us) < SLOW.as_micros());
    let server = farm.registry.spawn(other).await.unwrap().unwrap().server.unwrap();
    assert!(before.iter().any(|(_, id)| *id == server));

    let farm = next(farm, OnShutdown::Adopt, |config| {
        keeps(RendererType::Csr, 2)(config);
        config.env.push(("OTHER".to_owned(), "1".to_owned()));
    })
    .await;
    let spawns = [record.server.unwrap(), server];
    until("others have taken their place", async || {
        let now = servers(&farm);
        let stays = |id: &SpawnId| before.iter().any(|(_, old)| old == id);
        (now.len() == 4 && now.iter().all(|(_, id)| spawns.contains(id) || !stays(id))).then_some(())
    })
    .await;
    assert_eq!(farm.list().await.len(), 2);
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_dies_or_is_old_is_replaced() {
    let farm = keeping(1, |_| ()).await;
    let [(pid, _)] = servers(&farm)[..] else { panic!() };
    kill(pid);
    counts(&farm, "hatchery_agent_warm_servers_ended_total{reason=\"died\"} 1").await;
    until("another one is there", async || {
        servers(&farm).iter().any(|(other, _)| *other != pid).then_some(())
    })
    .await;
    until_kept(&farm, 1).await;
    farm.shutdown(OnShutdown::Kill).await;

    let farm = keeping(1, |config| config.warm_age = SLOW * 2).await;
    let first = servers(&farm);
    counts(&farm, "hatchery_agent_warm_servers_ended_total{reason=\"aged\"} 1").await;
    until("another one is there", async || {
        servers(&farm).iter().any(|one| !first.contains(one)).then_some(())
    })
    .await;
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_server_without_a_viewer_ends_as_any_other() {
    let farm = keeping(1, |config| config.initial_use = Duration::from_secs(1)).await;
    let (id, _) = get(&farm, &plain(&farm)).await;
    let record = farm.until_ended(id, ExitReason::InitialUseTimeout).await;
    let lived = record.ended_at.unwrap().since(record.started_at);
    assert!(lived >= Duration::from_millis(950), "{lived:?}");
    until_kept(&farm, 1).await;
    farm.shutdown(OnShutdown::Kill).await;
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).unwrap();
}
