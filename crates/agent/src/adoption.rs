//! Adoption: taking over the spawns of earlier agents.
//!
//! [`survey`] has found out what there is, and changed nothing. Then, with all ports bound and nothing served yet, each finding is acted on:
//!
//! | finding | what happens |
//! | --- | --- |
//! | it runs, and its reports reach this agent | it goes on as it was, whatever the limits are now |
//! | it runs, and reports elsewhere | it is ended: a hang would not be noticed |
//! | it runs without a record (its agent died the instant after starting it, or had no room on the disk) | it goes on if it shows within a few pings that it is ready |
//! | it is a warm server | it is kept if this agent would start the same, else ended; without a record it is ended |
//! | it is gone | its end is reported to the registry, with what its log explains; what is left of its process group is ended |
//!
//! An adopted spawn keeps its port, slot, GPU, endpoint and ping interval. The registry sees no difference: the first report of this agent
//! has it all.

mod doubt;
pub(crate) mod survey;

use std::sync::Arc;
use std::time::Duration;

use model::{Origin, SpawnState, Timestamp};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::time::Instant;
use tracing::Instrument;

use self::survey::Survey;
use crate::node::Node;
use crate::secret::{self, Secret};
use crate::spawn::body::Body;
use crate::spawn::cgroup::Group;
use crate::spawn::exit::{self, Cause, Progress, Status};
use crate::spawn::lifecycle::{Phase, Rules, Signal as End};
use crate::spawn::process::Process;
use crate::spawn::{Facts, ViewerTimes, output};
use crate::state::Moment;
use crate::state::record::{History, Record};
use crate::supervision::driver::Driver;
use crate::table::adopted::AdoptedSpawn;
use crate::table::pool::WarmEnd;
use crate::warm::keeper::Keeper;

/// Puts everything into the table. The drivers are to be run once the registry's relay has seen it.
pub(crate) fn take_over(node: &Arc<Node>, survey: Survey) -> (Vec<Driver>, Vec<Keeper>) {
    let Survey { living, gone, orphans, impostors } = survey;
    for (id, process) in impostors {
        process.signal(End::Kill);
        // The processes of a spawn that goes on are not to be searched for.
        if !living.iter().any(|(history, _)| history.record.id == id || history.record.server == Some(id)) {
            node.leftovers.of(id);
        }
    }
    if living.is_empty() && gone.is_empty() {
        return (Vec::new(), Vec::new());
    }
    tracing::info!(living = living.len(), gone = gone.len(), "an earlier agent left spawns");
    for group in orphans {
        reap_orphans(group);
    }
    for history in gone {
        if history.record.settings.is_some() {
            forget_warm(node, &history.record);
        } else {
            report_gone(node, history);
        }
    }
    let (mut drivers, mut keepers) = (Vec::new(), Vec::new());
    for (history, process) in living {
        if history.record.settings.is_some() {
            keepers.push(keep(node, history, process));
        } else {
            drivers.push(adopt(node, history, process));
        }
    }
    (drivers, keepers)
}

/// Takes over a warm server. One that this agent would have started in another way is ended.
fn keep(node: &Arc<Node>, history: History, process: Process) -> Keeper {
    let History { record, ready, disconnected, ended: _, .. } = history;
    let (clock, now) = (&node.state.clock, Instant::now());
    let secret = secret::of_endpoint(node.fixed_args.liveliness(), &record.liveliness);
    let is_same = record.settings.as_ref() == Some(&node.fingerprint)
        && node.config.ports.contains(&record.port)
        && matches!(secret, Ok(Some(_)))
        && disconnected.is_none();
    let why = (!is_same).then_some(WarmEnd::OtherSettings);
    tracing::info!(server.id = %record.id, pid = record.pid, port = record.port, kept = is_same, "a warm server of an earlier agent was found");
    let group = record.cgroup.clone().map(Group::at).or_else(|| node.groups.as_ref()?.of(record.id));
    let process = process.within(group);
    let started = clock.instant(record.started);
    let until = clock.instant(record.ready_by).max(now + node.table().stall());
    let secret = secret.ok().flatten().unwrap_or_else(Secret::mint);
    let facts = Facts {
        gpu: record.gpu,
        user: record.user,
        ..Facts::of_warm_server(record.id, record.renderer, record.port, secret, started)
    };
    let kept = node.table().adopt_warm(facts, process.pid(), ready.is_some(), why, now);
    let (phase, permit) = match ready {
        Some(_) => (Phase::Ready, None),
        None => (Phase::Launching { until }, Some(node.starts.force())),
    };
    Keeper::new(Arc::clone(node), kept, Body::Process(process), phase, permit)
}

/// A warm server that is gone: no caller knows of it, and the registry does not.
fn forget_warm(node: &Node, record: &Record) {
    tracing::info!(server.id = %record.id, "a warm server of an earlier agent is gone");
    match record.cgroup.clone().map(Group::at) {
        Some(group) => {
            group.kill();
            node.drivers.spawn(group.remove());
        }
        None => node.leftovers.of(record.id),
    }
    let log = output::warm_path(node.state.logs(), record.id);
    node.disk.logs.post(move || drop(std::fs::remove_file(log))).ok();
    node.state.journal.gone(record.id);
}

/// Runs what [`take_over`] has made.
pub(crate) fn run(node: &Arc<Node>, drivers: Vec<Driver>) {
    for driver in drivers {
        let origin = driver.origin();
        let span = tracing::error_span!(
            "spawn",
            spawn.id = %driver.id(),
            requestId = origin.request_id.as_ref().map(display),
            traceId = origin.trace_id.map(display),
            node.id = %node.config.node,
            adopted = true,
        );
        node.drivers.spawn(driver.run().instrument(span));
    }
}

fn adopt(node: &Arc<Node>, history: History, process: Process) -> Driver {
    let now = Instant::now();
    let History { record, ready, viewing, disconnected, ending, ended: _ } = history;
    let clock = &node.state.clock;
    let viewing = viewing_of(viewing, |at| clock.instant(at));
    let expires = record.expires.map(|at| clock.instant(at));
    let ready = ready.map(|at| clock.instant(at));
    let until = clock.instant(record.ready_by).max(now + node.table().stall());
    let before = if ready.is_some() { Phase::Ready } else { Phase::Launching { until } };
    let (phase, state) = match (ending, disconnected) {
        // An end that was begun is begun again, with the whole grace.
        (Some(_), _) => (before, SpawnState::Stopping),
        (None, Some(_)) => {
            (Phase::Disconnected { until: now + node.rules.stop_grace }, SpawnState::Disconnected)
        }
        (None, None) if ready.is_some() => (before, SpawnState::Ready),
        (None, None) => (before, SpawnState::Launching),
    };
    let secret = secret::of_endpoint(node.fixed_args.liveliness(), &record.liveliness);
    let end = ending.or(secret.is_err().then_some(Cause::Unreachable));
    let secret = secret.unwrap_or_default();
    let token = secret.as_ref().map(Secret::viewer_token);
    let (id, port) = (record.id, record.port);
    // The interval that its command line says, whatever it is for new spawns.
    let ping_interval = Duration::from_millis(record.ping_ms);
    let rules = Rules { ping_interval: Some(ping_interval), ..node.rules.clone() };
    tracing::info!(
        spawn.id = %id,
        requestId = record.request_id,
        pid = record.pid,
        port,
        %state,
        ending = end.map(|cause| cause.reason().as_str()),
        "spawn adopted"
    );
    // One that was never written down has its group where it would get it today.
    let group = record.cgroup.clone().map(Group::at);
    let group = group.or_else(|| node.groups.as_ref()?.of(record.server.unwrap_or(id)));
    let process = process.within(group);
    let started = clock.instant(record.started);
    let facts = if record.endpoint.is_empty() {
        let endpoint = node.table().endpoint(None, id, port, token.as_ref());
        let record = Record { endpoint, ..record };
        node.state.journal.started(record.clone());
        facts(record, started)
    } else {
        facts(record, started)
    };
    let facts = Facts { secret, token, ..facts };
    let admitted = node.table().adopt(AdoptedSpawn {
        facts,
        pid: process.pid(),
        state,
        ready,
        viewing,
        expires,
        ping_interval,
        end,
    });
    node.metrics.adopted.inc();
    let driver = Driver::from(Arc::clone(node), admitted, Body::Process(process), phase, rules);
    if ready.is_none() { driver.starting(node.starts.force()) } else { driver }
}

fn viewing_of(
    (connected, disconnected): (Option<Moment>, Option<Moment>),
    at: impl Fn(Moment) -> Instant,
) -> ViewerTimes {
    ViewerTimes { connected: connected.map(&at), disconnected: disconnected.map(&at) }
}

fn facts(record: Record, started: Instant) -> Facts {
    Facts {
        origin: Origin {
            // Empty where it was read off a process.
            request_id: record.request_id.parse().ok(),
            trace_id: record.trace_id,
            phases: record.phases,
        },
        id: record.id,
        renderer: record.renderer,
        port: record.port,
        endpoint: record.endpoint,
        gpu: record.gpu,
        labels: record.labels,
        tags: record.tags,
        owner: record.owner,
        secret: None,
        token: None,
        endpoint_form: None,
        user: record.user,
        server: record.server,
        max_idle: record.max_idle_ms.map(Duration::from_millis),
        started,
    }
}

/// Reports the end of a spawn that is gone.
fn report_gone(node: &Node, history: History) {
    let now = Instant::now();
    let History { record, ready, viewing, disconnected, ending, ended } = history;
    let clock = &node.state.clock;
    // Moments of an earlier run of the machine mean nothing any more.
    let of_this_run = record.boot == clock.boot();
    let instant = |moment| if of_this_run { clock.instant(moment) } else { now };
    let started = if of_this_run {
        clock.instant(record.started)
    } else {
        now.checked_sub(Timestamp::now().since(record.started_at)).unwrap_or(now)
    };
    let progress = match (ending, disconnected, ready) {
        (Some(cause), _, _) => Progress::Ending(cause),
        (None, Some(_), _) => Progress::Disconnected,
        (None, None, Some(_)) => Progress::Ready,
        (None, None, None) => Progress::Launching,
    };
    let group = record.cgroup.clone().map(Group::at);
    let (at, exit) = match ended {
        Some((at, exit)) => (instant(at), exit),
        None => {
            let exit = exit::explain(progress, Status::Unseen, &output::last_words(&record.log));
            let exit = match group.as_ref().and_then(Group::out_of_memory) {
                Some(limit) => exit::out_of_memory(exit, &limit),
                None => exit,
            };
            node.metrics.ended(exit.reason);
            (now, exit)
        }
    };
    tracing::info!(spawn.id = %record.id, requestId = record.request_id, reason = %exit.reason, text = exit.text, "a spawn of an earlier agent is gone");
    match group {
        Some(group) => {
            group.kill();
            node.drivers.spawn(group.remove());
        }
        None => node.leftovers.of(record.server.unwrap_or(record.id)),
    }
    let facts = facts(record, started);
    node.logs.retire(facts.id, now);
    let viewing = viewing_of(viewing, instant);
    node.table().add_ended(facts, ready.map(instant), viewing, at, exit, now);
}

fn reap_orphans(group: u32) {
    let Some(leader) = i32::try_from(group).ok().and_then(Pid::from_raw) else { return };
    match kill_process_group(leader, Signal::KILL) {
        Ok(()) => {
            tracing::warn!(group, "a spawn of an earlier agent had left processes behind, they were ended")
        }
        Err(error) => tracing::debug!(%error, group, "failed to end what a spawn had left behind"),
    }
}
