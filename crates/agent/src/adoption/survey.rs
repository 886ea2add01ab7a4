//! What earlier agents left on the machine: records held against processes, and processes against records.
//!
//! A survey changes nothing, so that an agent that cannot start after all has hurt no spawn. It sorts what it finds:
//!
//! | what | where it goes |
//! | --- | --- |
//! | a record whose process runs (number, start time and run of the machine agree) | `living` |
//! | a process without a record whose command line and log name a spawn, run by a user of spawns, with a port and slot of its own | `living` |
//! | a record whose process is gone, or is another user's | `gone` |
//! | a process group whose leader is `gone` and that still writes to the spawn's log | `orphans` |
//! | a process that claims to be a spawn and is not its server, or a warm server without a record | `impostors` |
//!
//! A record of a warm server counts as that of a spawn here; `adoption` distinguishes them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use model::{RendererType, SpawnId, Timestamp};

use super::doubt::{Doubt, Programs, doubts, user_of};
use crate::config::{Config, Launcher};
use crate::disk::Disk;
use crate::procfs;
use crate::secret;
use crate::simulated::{Server, SimulatedMachine};
use crate::spawn::lifecycle::lost_after;
use crate::spawn::output;
use crate::spawn::process::Process;
use crate::state::StateDir;
use crate::state::record::{History, Record};
use crate::users::SpawnUsers;
use crate::users::user::Ids;

/// What earlier agents left, in memory only: nothing was changed.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    pub(super) living: Vec<(History, Process)>,
    pub(super) gone: Vec<History>,
    /// Process groups whose leader, one of the gone, has left them behind.
    pub(super) orphans: Vec<u32>,
    /// Processes of spawns, and the spawns that they claim to be but are not.
    pub(super) impostors: Vec<(SpawnId, Process)>,
}

impl Survey {
    /// The ids of those that run.
    pub(crate) fn living(&self) -> HashSet<SpawnId> {
        self.living.iter().map(|(history, _)| history.record.id).collect()
    }

    /// What they run as.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.living.iter().map(|(_, process)| process.pid()).collect()
    }
}

/// Looks at what there is, and changes nothing about it.
pub(crate) async fn take(state: &StateDir, config: &Config, disk: &Disk) -> io::Result<Survey> {
    let mut programs = Programs::of(config, disk);
    let mut survey = Survey::default();
    for history in state.journal.histories() {
        let record = &history.record;
        let process = if history.ended.is_none() && record.boot == state.clock.boot() {
            adopt(config, record.pid, record.start)?
        } else {
            None
        };
        match process {
            Some(process) if is_another_users(record, process.pid()) => {
                tracing::warn!(spawn.id = %record.id, requestId = record.request_id, pid = process.pid(), "a process of another user is not adopted as a spawn");
                survey.gone.push(history);
            }
            Some(process) => survey.living.push((history, process)),
            None => survey.gone.push(history),
        }
    }
    let recorded: HashSet<SpawnId> =
        survey.living.iter().map(|(history, _)| history).chain(&survey.gone).map(|s| s.record.id).collect();
    let mut taken = Taken::default();
    for (history, _) in &survey.living {
        taken.add(&history.record);
    }
    let gone: HashMap<u32, SpawnId> = survey.gone.iter().map(|s| (s.record.pid, s.record.id)).collect();
    if let Launcher::Simulated(SimulatedMachine(machine)) = &config.launcher {
        for server in machine.servers() {
            let claimed = recognise_simulated(state, config, server.as_ref());
            let Some(record) = claimed.filter(|record| !taken.is_own_process(config, record)) else {
                continue;
            };
            let is_warm = output::warm_server_of(&record.log).is_some();
            let fits = !is_warm && !recorded.contains(&record.id) && taken.misfit(config, &record).is_none();
            let process = Process::Simulated(server, true);
            if fits {
                taken.add(&record);
                survey.living.push((History::new(record), process));
            } else {
                survey.impostors.push((record.id, process));
            }
        }
        return Ok(survey);
    }
    for pid in procfs::all() {
        let Some(stat) = procfs::stat(pid).filter(|stat| !stat.has_ended()) else { continue };
        if stat.group != pid {
            if let Some(id) = gone.get(&stat.group)
                && is_output_of(state, pid, *id) == Some(true)
            {
                survey.orphans.push(stat.group);
            }
            continue;
        }
        let Some(record) = recognise(state, config, pid, stat.start) else { continue };
        if taken.is_own_process(config, &record) {
            continue;
        }
        let is_warm = output::warm_server_of(&record.log).is_some();
        let why = match doubts(config, pid, &taken.users, &mut programs).await {
            Some(Doubt::User(uid)) => {
                tracing::warn!(spawn.id = %record.id, pid, uid, "a process of another user looks like a spawn, it is not adopted");
                continue;
            }
            Some(Doubt::NotTheServer) => Some("it is not the server"),
            // No spawn has it, and with what settings it was started is not known.
            None if is_warm => Some("it is a warm server without a record"),
            None if recorded.contains(&record.id) => Some("the record of this spawn names another process"),
            None => taken.misfit(config, &record),
        };
        let Some(process) = Process::adopt(pid, stat.start)? else { continue };
        if let Some(why) = why {
            tracing::warn!(spawn.id = %record.id, pid, why, "a process looks like a spawn but is not its server, it is ended");
            survey.impostors.push((record.id, process));
            continue;
        }
        taken.add(&record);
        survey.living.push((History::new(record), process));
    }
    Ok(survey)
}

/// What spawns that are adopted have, so that no process without a record gets it by claiming to be a spawn.
#[derive(Debug, Default)]
struct Taken {
    spawns: HashMap<SpawnId, Option<Ids>>,
    pids: HashSet<u32>,
    users: HashSet<u32>,
    ports: HashSet<u16>,
}

impl Taken {
    fn add(&mut self, record: &Record) {
        self.spawns.insert(record.id, record.user);
        self.pids.insert(record.pid);
        self.users.extend(record.user.map(|user| user.uid));
        self.ports.insert(record.port);
    }

    /// Whether what looks like a spawn is the process of an adopted one, or one that it has started. Where each spawn has a user of
    /// its own, another user's is neither.
    fn is_own_process(&self, config: &Config, record: &Record) -> bool {
        if self.pids.contains(&record.pid) {
            return true;
        }
        let Some(user) = self.spawns.get(&record.id) else { return false };
        let each_has_own = matches!(config.spawn_users, Some(SpawnUsers::Each(_)));
        !each_has_own || user.is_none() || record.user.is_none() || record.user == *user
    }

    /// Why a server without a record cannot be the spawn that it claims to be.
    fn misfit(&self, config: &Config, record: &Record) -> Option<&'static str> {
        let each_has_own = matches!(config.spawn_users, Some(SpawnUsers::Each(_)));
        if self.ports.contains(&record.port) {
            Some("another spawn has its port")
        } else if self.spawns.len() >= usize::try_from(config.slots).unwrap_or(usize::MAX) {
            Some("every slot is taken")
        } else if each_has_own && !secret::is_in(&record.liveliness) {
            Some("its liveliness URL has no secret of an agent")
        } else {
            None
        }
    }
}

/// A recorded process is known by its number and start; the user must not have changed all the same.
fn is_another_users(record: &Record, pid: u32) -> bool {
    // Between its start and its server it is still the agent's.
    let own = rustix::process::geteuid().as_raw();
    record
        .user
        .is_some_and(|user| procfs::uids(pid).is_some_and(|[real, ..]| real != user.uid && real != own))
}

/// Whether a process writes to the log of this spawn.
fn is_output_of(state: &StateDir, pid: u32, id: SpawnId) -> Option<bool> {
    let log = std::fs::metadata(output::path(state.logs(), id)).ok()?;
    Some(procfs::writes_to(pid, &log).unwrap_or(false))
}

/// Takes over the process of a record, if it still runs.
fn adopt(config: &Config, pid: u32, start: u64) -> io::Result<Option<Process>> {
    let Launcher::Simulated(SimulatedMachine(machine)) = &config.launcher else {
        return Process::adopt(pid, start);
    };
    let same = machine.servers().into_iter().find(|server| (server.pid(), server.started()) == (pid, start));
    Ok(same.map(|server| Process::Simulated(server, true)))
}

/// The record of a simulated process, whose log a simulation knows.
fn recognise_simulated(state: &StateDir, config: &Config, server: &dyn Server) -> Option<Record> {
    let arguments = server.arguments();
    let named: SpawnId = option(&arguments, "--id")?.parse().ok()?;
    let id = output::spawn_of(&server.log()).unwrap_or(named);
    claimed_record(state, config, (server.pid(), server.started()), &arguments, (id, named, server.log()))
}

/// The value of an option on a command line.
fn option<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let at = arguments.iter().position(|argument| argument == name)?;
    arguments.get(at + 1).map(String::as_str)
}

/// The record of a process that looks like a spawn: its command line names a spawn whose log is here, and it writes there.
fn recognise(state: &StateDir, config: &Config, pid: u32, start: u64) -> Option<Record> {
    let arguments = procfs::arguments(pid);
    let named: SpawnId = option(&arguments, "--id")?.parse().ok()?;
    let log = output::path(state.logs(), named);
    let is_ours = match std::fs::metadata(&log) {
        Ok(file) => procfs::writes_to(pid, &file) != Some(false),
        // The log was removed.
        Err(_) => procfs::writes_to_removed(pid, &log),
    };
    // A server that was kept warm writes to a file of another name, and to its spawn's once it has one.
    let log = if is_ours {
        log
    } else {
        procfs::outputs(pid).find(|open| {
            open.parent() == Some(state.logs())
                && (output::warm_server_of(open) == Some(named) || output::spawn_of(open).is_some())
        })?
    };
    let id = if is_ours { named } else { output::spawn_of(&log).unwrap_or(named) };
    claimed_record(state, config, (pid, start), &arguments, (id, named, log))
}

/// What a command line says of a spawn.
fn claimed_record(
    state: &StateDir,
    config: &Config,
    (pid, start): (u32, u64),
    arguments: &[String],
    (id, named, log): (SpawnId, SpawnId, PathBuf),
) -> Option<Record> {
    let option = |name: &str| option(arguments, name);
    let renderer = if option("--ssr").is_some() { RendererType::Ssr } else { RendererType::Csr };
    let now = state.clock.now();
    let ping: Option<f64> = option("--liveliness-update-frequency").and_then(|seconds| seconds.parse().ok());
    // A server that was taken over may claim any; its silence must be noticed all the same.
    let ping = ping.filter(|_| !matches!(config.spawn_users, Some(SpawnUsers::Each(_))));
    let ping =
        ping.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(config.ping_interval);
    Some(Record {
        id,
        pid,
        start,
        boot: state.clock.boot().to_owned(),
        port: option("--sc-port")?.parse().ok()?,
        renderer,
        gpu: option("--ssr-gpu-index").and_then(|gpu| gpu.parse().ok()),
        // The agent's own form fills it in.
        endpoint: String::new(),
        // Neither is on the command line; the registry knows the owner from the reservation, and the tags from its record.
        labels: Default::default(),
        tags: Default::default(),
        owner: None,
        user: user_of(config, pid),
        liveliness: option("--liveliness-endpoint")?.to_owned(),
        ping_ms: u64::try_from(ping.as_millis()).unwrap_or(u64::MAX),
        request_id: String::new(),
        trace_id: None,
        phases: None,
        log,
        cgroup: None,
        started: now,
        started_at: Timestamp::now(),
        ready_by: now.after(lost_after(ping)),
        expires: None,
        server: (id != named).then_some(named),
        settings: None,
        max_idle_ms: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_without_a_record_gets_nothing_of_another_spawn() {
        let dir = tempfile::tempdir().unwrap();
        let config = |users| Config {
            spawn_users: users,
            slots: 2,
            ..Config::new("n".parse().unwrap(), Launcher::Executable("/bin/sleep".into()), "/s".into())
        };
        let shared = config(None);
        let each = config(Some(SpawnUsers::Each((1_910_061_500..=1_910_061_501).into())));
        let url = secret::endpoint("http://127.0.0.1:1", Some(&secret::Secret::mint()));
        let record = |pid, port, uid: Option<u32>, liveliness: &str| Record {
            id: SpawnId::mint(),
            pid,
            start: 1,
            boot: String::new(),
            port,
            renderer: RendererType::Csr,
            gpu: None,
            endpoint: String::new(),
            labels: Default::default(),
            tags: Default::default(),
            owner: None,
            user: uid.map(|uid| Ids { uid, gid: uid }),
            liveliness: liveliness.to_owned(),
            ping_ms: 1000,
            request_id: String::new(),
            trace_id: None,
            phases: None,
            log: dir.path().to_owned(),
            cgroup: None,
            started: crate::state::moment::Moment(0),
            started_at: Timestamp::now(),
            ready_by: crate::state::moment::Moment(0),
            expires: None,
            server: None,
            settings: None,
            max_idle_ms: None,
        };
        let mut taken = Taken::default();
        let first = record(10, 100, Some(1_910_061_500), &url);
        taken.add(&first);
        assert!(taken.is_own_process(&each, &first));
        let other = |uid| Record { id: first.id, ..record(11, 101, Some(uid), &url) };
        assert!(taken.is_own_process(&each, &other(1_910_061_500)), "it has started another one");
        assert!(
            !taken.is_own_process(&each, &other(1_910_061_501))
                && taken.is_own_process(&shared, &other(1_910_061_501))
        );

        let plain = "http://127.0.0.1:1/liveliness";
        for (config, port, url, want) in [
            (&each, 101, url.as_str(), None),
            (&each, 100, &url, Some("port")),
            (&each, 101, plain, Some("secret")),
            (&shared, 101, plain, None),
            (&shared, 100, plain, Some("port")),
        ] {
            let why = taken.misfit(config, &record(12, port, Some(1_910_061_501), url));
            assert_eq!(why.is_some(), want.is_some(), "{why:?}");
            assert!(why.unwrap_or_default().contains(want.unwrap_or_default()), "{why:?}");
        }
        taken.add(&record(12, 101, Some(1_910_061_501), &url));
        let why = taken.misfit(&shared, &record(13, 102, None, &url)).unwrap();
        assert!(why.contains("slot"), "{why}");
    }
}
