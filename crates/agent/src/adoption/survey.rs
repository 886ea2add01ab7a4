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
use std::time::Duration;

use model::{RendererType, SpawnId, Timestamp};

use crate::config::{Config, Launcher};
use crate::liveliness::secret;
use crate::procfs;
use crate::spawn::lifecycle::lost_after;
use crate::spawn::output;
use crate::spawn::process::Process;
use crate::spawn::user::Ids;
use crate::spawn::users::SpawnUsers;
use crate::state::StateDir;
use crate::state::record::{History, Record};

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
pub(crate) fn take(state: &StateDir, config: &Config) -> io::Result<Survey> {
    let mut survey = Survey::default();
    for history in state.journal.histories() {
        let record = &history.record;
        let process = if history.ended.is_none() && record.boot == state.clock.boot() {
            Process::adopt(record.pid, record.start)?
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
        let why = match doubts(config, pid, &taken.users) {
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

/// Why a process without a record that looks like a spawn is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// It runs as this user, who no spawn runs as.
    User(u32),
    /// It runs another program, or as a user whose spawn is another process.
    NotTheServer,
}

/// A recorded process is known by its number and start; the user must not have changed all the same.
fn is_another_users(record: &Record, pid: u32) -> bool {
    // Between its start and its server it is still the agent's.
    let own = rustix::process::geteuid().as_raw();
    record
        .user
        .is_some_and(|user| procfs::uids(pid).is_some_and(|[real, ..]| real != user.uid && real != own))
}

/// `taken` are the users of spawns that have records.
fn doubts(config: &Config, pid: u32, taken: &HashSet<u32>) -> Option<Doubt> {
    let [uid, ..] = procfs::uids(pid)?;
    let own = rustix::process::geteuid().as_raw();
    let of_spawns = config.spawn_users.as_ref().is_some_and(|users| users.holds(uid));
    if uid != own && !of_spawns {
        return Some(Doubt::User(uid));
    }
    let is_server = match &config.launcher {
        // One that this agent may not look into has at least its user.
        Launcher::Executable(file) => procfs::executes(pid, file) != Some(false),
        Launcher::Nothing => true,
    };
    let is_taken = matches!(config.spawn_users, Some(SpawnUsers::Each(_))) && taken.contains(&uid);
    (!is_server || is_taken).then_some(Doubt::NotTheServer)
}

/// Who a process without a record was started as.
fn user_of(config: &Config, pid: u32) -> Option<Ids> {
    let [uid, ..] = procfs::uids(pid)?;
    match config.spawn_users.as_ref()? {
        SpawnUsers::One(user) => (user.uid == uid).then_some(Ids { uid, gid: user.gid }),
        SpawnUsers::Each(range) => range.holds(uid).then(|| range.ids(uid)),
    }
}

/// Whether a process writes to the log of this spawn.
fn is_output_of(state: &StateDir, pid: u32, id: SpawnId) -> Option<bool> {
    let log = std::fs::metadata(output::path(state.logs(), id)).ok()?;
    Some(procfs::writes_to(pid, &log).unwrap_or(false))
}

/// The record of a process that looks like a spawn: its command line names a spawn whose log is here, and it writes there.
fn recognise(state: &StateDir, config: &Config, pid: u32, start: u64) -> Option<Record> {
    let arguments = procfs::arguments(pid);
    let option = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).map(String::as_str)
    };
    let named: SpawnId = option("--id")?.parse().ok()?;
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
    use std::os::unix::process::CommandExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn only_a_server_of_a_user_of_spawns_is_taken_for_a_spawn() {
        let (own, pid) = (rustix::process::geteuid().as_raw(), std::process::id());
        let server = std::env::current_exe().unwrap();
        let config = |file: &str, users| Config {
            spawn_users: users,
            ..Config::new("n".parse().unwrap(), Launcher::Executable(file.into()), "/s".into())
        };
        let nobody = HashSet::new();
        let good = config(server.to_str().unwrap(), None);
        assert_eq!(doubts(&good, pid, &nobody), None);
        assert_eq!(doubts(&config("/bin/other", None), pid, &nobody), Some(Doubt::NotTheServer));
        if own != 0 {
            return;
        }
        let sleep = |uid: u32| {
            let mut command = Command::new("/bin/sleep");
            command.arg("600").uid(uid).gid(uid).stdout(Stdio::null()).stderr(Stdio::null());
            command.spawn().unwrap()
        };
        let mut child = sleep(1_910_061_300);
        let each = |first| Some(SpawnUsers::Each((first..=first + 1).into()));
        for (users, taken, want) in [
            (None, false, Some(Doubt::User(1_910_061_300))),
            (each(1_910_061_400), false, Some(Doubt::User(1_910_061_300))),
            (each(1_910_061_300), false, None),
            (each(1_910_061_300), true, Some(Doubt::NotTheServer)),
        ] {
            let taken = taken.then_some(1_910_061_300).into_iter().collect();
            assert_eq!(doubts(&config("/bin/sleep", users), child.id(), &taken), want);
        }
        let ids = Some(Ids { uid: 1_910_061_300, gid: 1_910_061_300 });
        assert_eq!(user_of(&config("/bin/sleep", each(1_910_061_300)), child.id()), ids);
        child.kill().unwrap();
        child.wait().unwrap();
    }

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
