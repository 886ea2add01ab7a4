//! One run: a farm, its callers and its faults, from a seed to a verdict.

use std::process::ExitCode;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::callers::{Caller, open_all, operate};
use crate::farm::{DOORS, Farm, NODES};
use crate::steps::Steps;
use crate::subscriber::Habit;
use crate::{at_rest, defects, events, faults, keys, stoppers, subscriber};

/// How long callers come and things go wrong.
const TROUBLE: Duration = Duration::from_secs(20);
/// Between the start of a farm and its first caller.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs a seed. The last line of the output says what came of it: `ok` or `violation`, the hash of all steps and their number.
pub(crate) fn run(seed: u64, prints: bool) -> ExitCode {
    let disks = tempfile::Builder::new().prefix("simulation-").tempdir_in(disk_root());
    let disks = match disks {
        Ok(disks) => disks,
        Err(error) => {
            println!("failed to make a directory for the disks: {error}");
            return ExitCode::FAILURE;
        }
    };
    let defects = defects::watch(std::env::var_os("SIMULATION_LOG").is_some());
    simulation::begin(seed);
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            println!("failed to make a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let steps = runtime.block_on(simulate(seed, prints, disks.path().to_owned()));
    for defect in defects.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        steps.violate(defect);
    }
    let (hash, count) = steps.hash();
    let verdict = match steps.violation() {
        None => ExitCode::SUCCESS,
        Some(why) => {
            if !prints {
                for step in steps.last() {
                    println!("{step}");
                }
            }
            println!("seed {seed}: a promise is broken: {why}");
            ExitCode::from(3)
        }
    };
    println!("seed {seed}: {count} steps, hash {hash:016x}");
    drop(disks);
    // Tasks of processes that crashed may wait for ever, and none must run while all of them are dropped.
    std::mem::forget(runtime);
    verdict
}

/// A file system in memory, where there is one.
fn disk_root() -> std::path::PathBuf {
    let memory = std::path::PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

async fn simulate(seed: u64, prints: bool, disks: std::path::PathBuf) -> Arc<Steps> {
    let steps = Arc::new(Steps::new(prints));
    let mut random = fastrand::Rng::with_seed(seed);
    let farm = Farm::start(random.u64(..), Arc::clone(&steps), disks).await;
    sleep(WARM_UP).await;

    let (mut faulty, mut users) = (JoinSet::new(), JoinSet::new());
    tokio::spawn(events::watch(Arc::clone(&farm)));
    tokio::spawn(keys::watch(Arc::clone(&farm)));
    for number in 0..farm.views.len() {
        let habit = if number == 0 { Habit::QUICK } else { Habit::random(&mut random) };
        let reader = fastrand::Rng::with_seed(random.u64(..));
        tokio::spawn(subscriber::follow(Arc::clone(&farm), number, habit, reader));
    }
    if random.u32(..3) == 0 {
        let stopper = fastrand::Rng::with_seed(random.u64(..));
        tokio::spawn(farm.settled.clone().run_until_cancelled_owned(stoppers::stop_some(
            Arc::clone(&farm),
            stopper,
            random.u32(3..12),
        )));
    }
    let began = Instant::now();
    let plan = faults::plan(&mut random, TROUBLE);
    faulty.spawn(faults::carry_out(Arc::clone(&farm), plan, began));
    let operator = fastrand::Rng::with_seed(random.u64(..));
    if random.u32(..3) > 0 {
        users.spawn(operate(Arc::clone(&farm), operator, began + TROUBLE));
    }
    for (at, caller) in everybody(&mut random) {
        sleep_until(began + at).await;
        users.spawn(caller.run(Arc::clone(&farm)));
    }
    sleep_until(began + TROUBLE).await;
    while faulty.join_next().await.is_some() {}
    farm.network.heal();
    farm.settled.cancel();
    steps.note(format_args!("nothing goes wrong any more"));
    let supervisor = tokio::spawn(supervise(Arc::clone(&farm)));
    for host in DOORS {
        farm.start_door(host);
    }
    for host in NODES {
        farm.start_agent(host).await;
    }
    while users.join_next().await.is_some() {}
    steps.note(format_args!("all callers have left"));
    open_all(&farm).await;
    at_rest::wait(&farm).await;
    supervisor.abort();
    steps
}

/// All callers of a run, and when they come, in order.
fn everybody(random: &mut fastrand::Rng) -> Vec<(Duration, Caller)> {
    let last = u64::try_from(TROUBLE.as_millis()).unwrap_or(u64::MAX);
    let alone = random.u32(8..50);
    let mut callers: Vec<(Duration, Caller)> = (0..alone)
        .map(|number| (Duration::from_millis(random.u64(..last)), Caller::random(number, random)))
        .collect();
    for crowd in 0..random.u32(..4) {
        let at = random.u64(..last);
        for _ in 0..random.u32(2..5) {
            let number = u32::try_from(callers.len()).unwrap_or(u32::MAX);
            let at = Duration::from_millis(at + random.u64(..400));
            callers.push((at, Caller::of_crowd(number, crowd, random)));
        }
    }
    // More at once than the farm has slots.
    if random.u32(..5) == 0 {
        let at = random.u64(..last);
        for _ in 0..30 {
            let number = u32::try_from(callers.len()).unwrap_or(u32::MAX);
            callers.push((Duration::from_millis(at + random.u64(..1500)), Caller::random(number, random)));
        }
    }
    callers.sort_by_key(|(at, _)| *at);
    callers
}

/// The service manager: starts agents anew that have closed themselves.
async fn supervise(farm: Arc<Farm>) {
    loop {
        sleep(Duration::from_secs(1)).await;
        for host in NODES {
            if farm.has_closed(host) {
                farm.stop_agent(host).await;
                farm.start_agent(host).await;
            }
        }
    }
}
