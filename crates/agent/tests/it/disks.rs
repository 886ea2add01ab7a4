//! Disks that hang or go away. A named pipe stands for a file on a share that hangs: opening it blocks until somebody opens the
//! other end.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent::OnShutdown;
use model::{Availability, ExitReason, SpawnId};
use tokio::time::Instant;
use wire::v1;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, runs, until};

/// Longer than any deadline of the agent, shorter than a test may take.
const LATE: Duration = Duration::from_secs(8);

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// Lets those who wait to write to it go on.
fn release(path: &Path) -> std::fs::File {
    use rustix::fs::{Mode, OFlags};
    rustix::fs::open(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()).unwrap().into()
}

/// Takes the pipe away, and lets those who wait to write to it go on. The path is free before they do: they may use it at once.
fn remove(path: &Path) -> std::fs::File {
    let aside = path.with_extension("aside");
    std::fs::rename(path, &aside).unwrap();
    let reader = release(&aside);
    std::fs::remove_file(&aside).unwrap();
    reader
}

/// The processes whose command line names this spawn.
fn processes_of(id: &str) -> Vec<u32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        runs(*pid) && String::from_utf8_lossy(&line).contains(id)
    })
    .collect()
}

async fn gauge(farm: &Farm, name: &str) -> u32 {
    let metrics = farm.metrics().await;
    let line =
        metrics.lines().find_map(|line| line.strip_prefix(&format!("hatchery_agent_{name} "))).unwrap();
    line.parse().unwrap()
}

async fn until_free(farm: &Farm) {
    until("everything is free", async || {
        let taken = gauge(farm, "slots_used").await + gauge(farm, "ports_used").await;
        (taken == 0).then_some(())
    })
    .await;
}

/// Orders it as a front door does: first the registry, then the agent. Returns what still runs.
async fn order(farm: &Farm, eligibility: v1::Eligibility) -> u32 {
    let now = model::Timestamp::now();
    let (wanted, drain) = match eligibility {
        v1::Eligibility::Draining => {
            let deadline = model::Timestamp::from_millis(now.millis() + 3_600_000);
            let drain = model::Drain { deadline, reason: None, by: None, started_at: now };
            (model::Eligibility::Draining, Some(drain))
        }
        _ => (model::Eligibility::Cordoned, None),
    };
    let node = farm.agent.node();
    let generation =
        farm.registry.set_eligibility(node, wanted, drain.as_ref(), None).await.unwrap().unwrap();
    let ask = v1::SetEligibilityRequest { eligibility: eligibility.into(), generation, ..Default::default() };
    farm.client.clone().set_eligibility(ask).await.unwrap().into_inner().remaining
}

/// A spawn call whose log is on a disk that hangs, and that log.
fn hung_ask(farm: &Farm) -> (v1::SpawnRequest, std::path::PathBuf) {
    let ask = farm.ask(STAY);
    let log = farm.dir.path().join(format!("logs/{}.log", ask.spawn_id));
    make_fifo(&log);
    (ask, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_is_refused_in_time_and_keeps_its_slot_until_the_disk_answers() {
    let farm = Farm::start_with(|c| c.slots = 2).await;
    let (ask, log) = hung_ask(&farm);
    let started = Instant::now();
    let hung = {
        let (mut client, ask) = (farm.client.clone(), ask.clone());
        tokio::spawn(async move { client.spawn(ask).await.unwrap().into_inner().outcome.unwrap() })
    };
    // Everything else goes on.
    let (id, _) = farm.spawn().await;
    assert!(!hung.is_finished() && started.elapsed() < LATE);
    let Outcome::Refused(refused) = hung.await.unwrap() else { panic!("not refused") };
    assert!(started.elapsed() < LATE, "{:?}", started.elapsed());
    assert_eq!(refused.reason(), Reason::CannotStart, "{refused:?}");
    assert!(refused.detail.contains("disk"), "{refused:?}");
    let node = farm.registry.node(farm.agent.node()).await.unwrap().unwrap();
    assert_eq!(node.availability, Availability::Up);
    assert_eq!((gauge(&farm, "slots_used").await, gauge(&farm, "ports_used").await), (2, 2));
    let Outcome::Refused(full) = farm.send(&farm.ask(STAY)).await else { panic!("not refused") };
    assert_eq!(full.reason(), Reason::Full);
    assert_eq!(farm.list().await.len(), 1, "it is no spawn that others learn of");
    assert_eq!(gauge(&farm, "disk_threads_hung{lane=\"starts\"}").await, 1);

    let reader = release(&log);
    until("the slot is free", async || (gauge(&farm, "slots_used").await == 1).then_some(())).await;
    assert_eq!(processes_of(&ask.spawn_id), [0; 0], "what started after all was ended");
    assert!(farm.registry.spawn(ask.spawn_id.parse().unwrap()).await.unwrap().is_none());
    drop(reader);
    farm.spawn().await;
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_hangs_is_refused_within_the_callers_own_deadline() {
    let farm = Farm::start().await;
    let (ask, log) = hung_ask(&farm);
    let ask = v1::SpawnRequest { deadline_ms: 2000, ..ask };
    let started = Instant::now();
    let Outcome::Refused(refused) = farm.send(&ask).await else { panic!("not refused") };
    assert_eq!(refused.reason(), Reason::CannotStart);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    let _reader = release(&log);
    until_free(&farm).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_a_start_that_hangs_leaves_nothing_behind() {
    let farm = Farm::start().await;
    let (ask, log) = hung_ask(&farm);
    let mut client = farm.client.clone();
    let id = ask.spawn_id.clone();
    let call = tokio::time::timeout(Duration::from_millis(300), client.spawn(ask)).await;
    assert!(call.is_err());
    let _reader = release(&log);
    until_free(&farm).await;
    until("no process is left", async || processes_of(&id).is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_answers_although_a_start_hangs_and_nothing_starts_afterwards() {
    let farm = Farm::start().await;
    let (ask, log) = hung_ask(&farm);
    let (mut client, sent) = (farm.client.clone(), ask.clone());
    let hung = tokio::spawn(async move { client.spawn(sent).await.unwrap().into_inner().outcome.unwrap() });
    until("it is admitted", async || (gauge(&farm, "slots_used").await == 1).then_some(())).await;
    let started = Instant::now();
    assert_eq!(order(&farm, v1::Eligibility::Draining).await, 0);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    tokio::time::timeout(LATE, farm.agent.drained()).await.unwrap();
    let _reader = release(&log);
    let outcome = hung.await.unwrap();
    assert!(matches!(&outcome, Outcome::Refused(r) if r.reason() == Reason::CannotStart), "{outcome:?}");
    until_free(&farm).await;
    assert_eq!(processes_of(&ask.spawn_id), [0; 0]);
    assert!(farm.registry.spawn(ask.spawn_id.parse().unwrap()).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_that_all_hang_are_refused_at_once_and_supervision_goes_on() {
    let farm = Farm::start_with(|c| (c.slots, c.starts) = (20, 20)).await;
    let (id, _) = farm.spawn().await;
    let hung: Vec<_> = (0..16).map(|_| hung_ask(&farm)).collect();
    let calls = hung.iter().map(|(ask, _)| {
        let (mut client, ask) = (farm.client.clone(), ask.clone());
        tokio::spawn(async move { client.spawn(ask).await.unwrap().into_inner().outcome.unwrap() })
    });
    let calls: Vec<_> = calls.collect();
    let all_hang = "disk_threads_hung{lane=\"starts\"}";
    until("every thread hangs", async || (gauge(&farm, all_hang).await == 16).then_some(())).await;
    let started = Instant::now();
    let Outcome::Refused(refused) = farm.send(&farm.ask(STAY)).await else { panic!("not refused") };
    assert_eq!(refused.reason(), Reason::CannotStart);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    let readers: Vec<_> = hung.iter().map(|(_, log)| release(log)).collect();
    for call in calls {
        // One or the other may have been let go before its time was over.
        call.await.unwrap();
    }
    drop(readers);
    for (ask, _) in &hung {
        farm.stop(ask.spawn_id.parse().unwrap()).await;
    }
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_is_reported_although_the_last_lines_cannot_be_read() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let log = farm.dir.path().join(format!("logs/{id}.log"));
    std::fs::remove_file(&log).unwrap();
    make_fifo(&log);
    let pid = farm.info(id).await.pid;
    let group = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    let started = Instant::now();
    farm.until_ended(id, ExitReason::Signaled).await;
    assert!(started.elapsed() < LATE);
    // One whose explanation depends on what it wrote.
    let mut ask = farm.ask("");
    let other: SpawnId = ask.spawn_id.parse().unwrap();
    let log = farm.dir.path().join(format!("logs/{other}.log"));
    ask.session_token = Some(format!("until [[ -p {} ]]; do sleep 0.05; done; exit 3", log.display()));
    let (mut client, sent) = (farm.client.clone(), ask.clone());
    let call = tokio::spawn(async move { client.spawn(sent).await.unwrap().into_inner().outcome.unwrap() });
    until("it has a log", async || log.exists().then_some(())).await;
    std::fs::remove_file(&log).unwrap();
    make_fifo(&log);
    let Outcome::Ended(ended) = call.await.unwrap() else { panic!("not ended") };
    assert_eq!((ended.exit.unwrap().code, ended.log.len()), (Some(3), 0));
    // Readers of logs are refused, too.
    let read = v1::ReadLogRequest { spawn_id: other.to_string(), ..Default::default() };
    let status = farm.client.clone().read_log(read).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::Internal, "{status:?}");
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_answered_although_it_cannot_be_written() {
    let farm = Farm::start().await;
    let kept = farm.dir.path().join("operator.new");
    make_fifo(&kept);
    let started = Instant::now();
    order(&farm, v1::Eligibility::Cordoned).await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    let Outcome::Refused(refused) = farm.send(&farm.ask(STAY)).await else { panic!("not refused") };
    assert_eq!(refused.reason(), Reason::NotEligible);
    drop(remove(&kept));
    let operator = farm.dir.path().join("operator");
    until("the order is on the disk", async || {
        std::fs::read_to_string(&operator).is_ok_and(|text| text.contains("cordoned")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spawns_start_and_end_while_their_records_cannot_be_written() {
    let farm = Farm::start().await;
    let journal = farm.dir.path().join("spawns");
    // The file is gone, so it is written anew, and the new one hangs.
    let fresh = farm.dir.path().join("spawns.new");
    until("the agent has a journal", async || journal.exists().then_some(())).await;
    make_fifo(&fresh);
    std::fs::remove_file(&journal).unwrap();
    let hung = "disk_threads_hung{lane=\"state\"}";
    until("the journal hangs", async || (gauge(&farm, hung).await == 1).then_some(())).await;
    let started = Instant::now();
    let (id, _) = farm.spawn().await;
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    let (stays, _) = farm.spawn().await;
    drop(remove(&fresh));
    until("the journal is whole again", async || {
        let text = std::fs::read_to_string(&journal).unwrap_or_default();
        (text.contains(&stays.to_string()) && !text.contains(&id.to_string())).then_some(())
    })
    .await;
    farm.stop(stays).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_directory_that_was_removed_is_made_again() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    std::fs::remove_dir_all(farm.dir.path().join("logs")).unwrap();
    let (next, _) = farm.spawn().await;
    assert!(farm.dir.path().join(format!("logs/{next}.log")).exists());
    for id in [id, next] {
        farm.stop(id).await;
        farm.until_ended(id, ExitReason::Stopped).await;
    }
    farm.shutdown(OnShutdown::Adopt).await;
}
