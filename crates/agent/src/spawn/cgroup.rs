//! A control group (cgroup v2) for each spawn: what it may take of the machine, and a way to end all of it.
//!
//! ```text
//! DIR/                     --cgroup, or the agent's own group
//!   agent/                 the agent itself, if it was in DIR: a group with groups in it has no processes of its own
//!   spawn-NODE-ID/         one spawn
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::SpawnId;

use crate::config::{Config, ConfigError};
use crate::spawn::limits::MAX_PROCESSES;

/// In microseconds; what of it a spawn may run is its share of a processor.
const CPU_PERIOD: u32 = 100_000;
/// After the end of a spawn: the kernel keeps a group until its last process is really gone.
const REMOVE_AFTER: [u64; 5] = [0, 10, 50, 200, 1000];
/// An empty group that is younger may be waiting for its process.
const YOUNG: Duration = Duration::from_secs(30);
/// How to get what is missing.
const ADVICE: &str = "boot with cgroup v2 alone (systemd.unified_cgroup_hierarchy=1 on the kernel's command line) and let the \
                      agent have the group (Delegate=yes under systemd)";

/// Where the groups of spawns are made.
#[derive(Debug, Clone)]
pub(crate) struct Groups {
    dir: PathBuf,
    prefix: String,
    memory: Option<u64>,
    cpus: Option<f64>,
    pids: bool,
}

impl Groups {
    /// Makes sure that groups can be made that limit what is to be limited; `None` when nothing asks for groups. `ours` are
    /// processes that may be moved out of the way.
    pub(crate) fn open(config: &Config, ours: &[u32]) -> Result<Option<Self>, ConfigError> {
        let Some((flag, dir)) = wanted(config)? else { return Ok(None) };
        let problem = |why: String| ConfigError::new(flag, why);
        let shown = dir.display();
        if !dir.exists() {
            fs::create_dir(&dir).map_err(|e| {
                problem(format!("it needs the group {shown} (--cgroup), which cannot be made: {e}"))
            })?;
        }
        let wanted = controllers(config, flag, &dir)?;
        let pids = wanted.contains(&"pids");
        pass_on(&dir, &wanted, ours).map_err(|e| {
            problem(format!("the agent cannot have {} in {shown} (--cgroup): {e}", wanted.join(", ")))
        })?;
        let prefix = format!("spawn-{}-", config.node);
        let groups = Self { dir, prefix, memory: config.spawn_memory, cpus: config.spawn_cpus, pids };
        let trial = groups.dir.join(format!("{}trial", groups.prefix));
        fs::create_dir(&trial).and_then(|()| fs::remove_dir(&trial)).map_err(|e| {
            problem(format!("the agent cannot make groups in {} (--cgroup): {e}", groups.dir.display()))
        })?;
        Ok(Some(groups))
    }

    /// Where groups would be made, if anything asks for them; what a directory that is there offers is checked. Changes nothing.
    pub(crate) fn place(config: &Config) -> Result<Option<PathBuf>, ConfigError> {
        let Some((flag, dir)) = wanted(config)? else { return Ok(None) };
        if dir.exists() {
            controllers(config, flag, &dir)?;
        }
        Ok(Some(dir))
    }

    fn path(&self, id: SpawnId) -> PathBuf {
        self.dir.join(format!("{}{id}", self.prefix))
    }

    /// Makes the group of a spawn, with its limits.
    pub(crate) fn make(&self, id: SpawnId) -> io::Result<Group> {
        let dir = self.path(id);
        fs::create_dir(&dir)?;
        let group = Group { dir };
        match self.limit(&group) {
            Ok(()) => Ok(group),
            Err(error) => {
                group.try_remove().ok();
                Err(error)
            }
        }
    }

    fn limit(&self, group: &Group) -> io::Result<()> {
        if let Some(bytes) = self.memory {
            group.set("memory.max", &bytes.to_string())?;
            // A server without one of its processes is no server.
            group.set("memory.oom.group", "1")?;
            // Kernels that cannot swap have no such file.
            if group.dir.join("memory.swap.max").exists() {
                group.set("memory.swap.max", "0")?;
            }
        }
        if let Some(cpus) = self.cpus {
            let quota = (cpus * f64::from(CPU_PERIOD)).round();
            group.set("cpu.max", &format!("{quota} {CPU_PERIOD}"))?;
        }
        if self.pids {
            group.set("pids.max", &MAX_PROCESSES.to_string())?;
        }
        Ok(())
    }

    /// The group of a spawn that an earlier agent started, if it has one.
    pub(crate) fn of(&self, id: SpawnId) -> Option<Group> {
        let dir = self.path(id);
        dir.is_dir().then_some(Group { dir })
    }

    /// Removes empty groups of this node, as many as `which` says. The kernel refuses to remove one that has processes.
    pub(crate) fn sweep(&self, which: Sweep) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let old = |meta: fs::Metadata| {
                let age = meta.modified().ok().and_then(|made| SystemTime::now().duration_since(made).ok());
                age.is_some_and(|age| age >= YOUNG)
            };
            let id = entry
                .file_name()
                .to_str()
                .and_then(|name| name.strip_prefix(&self.prefix)?.parse::<SpawnId>().ok());
            if id.is_some() && (which == Sweep::All || entry.metadata().is_ok_and(old)) {
                Group { dir: entry.path() }.try_remove().ok();
            }
        }
    }
}

/// Which empty groups are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sweep {
    /// All of them: nothing is being started.
    All,
    /// Those that are older than a start can take: the process of a younger one may be on its way.
    Old,
}

/// The group of one spawn.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    dir: PathBuf,
}

impl Group {
    /// The group that an earlier agent wrote down.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let path = self.dir.join(file);
        fs::write(&path, value)
            .map_err(|e| io::Error::new(e.kind(), format!("{} {value}: {e}", path.display())))
    }

    /// Ends everything in it, also what left its process group.
    pub(crate) fn kill(&self) {
        // Kernels before 5.14 cannot; the process group was ended anyway.
        if self.dir.join("cgroup.kill").exists()
            && let Err(error) = self.set("cgroup.kill", "1")
        {
            tracing::warn!(%error, "failed to end a control group");
        }
    }

    /// The limit that the kernel ended processes of it for, in bytes, if it did.
    pub(crate) fn out_of_memory(&self) -> Option<String> {
        let events = fs::read_to_string(self.dir.join("memory.events")).ok()?;
        let kills =
            events.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok())?;
        let limit = fs::read_to_string(self.dir.join("memory.max")).unwrap_or_default();
        (kills > 0).then(|| limit.trim().to_owned())
    }

    fn try_remove(&self) -> io::Result<()> {
        match fs::remove_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// Removes it as soon as the kernel lets go of it; what takes longer is left to [`Groups::sweep`].
    pub(crate) async fn remove(self) {
        let mut last = None;
        for wait in REMOVE_AFTER {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            match self.try_remove() {
                Ok(()) => return,
                Err(error) => last = Some(error),
            }
        }
        if let Some(error) = last {
            tracing::warn!(%error, path = %self.dir.display(), "a control group cannot be removed yet");
        }
    }
}

/// The flag that asks for groups, if one does, and the directory that they are made in.
fn wanted(config: &Config) -> Result<Option<(&'static str, PathBuf)>, ConfigError> {
    let flag = match (&config.cgroup, config.spawn_memory, config.spawn_cpus) {
        (_, Some(_), _) => "--spawn-memory",
        (_, None, Some(_)) => "--spawn-cpus",
        (Some(_), None, None) => "--cgroup",
        (None, None, None) => return Ok(None),
    };
    let missing = || format!("it needs cgroup v2, which this machine has not mounted; {ADVICE}");
    let dir = config.cgroup.clone().or_else(own_group).ok_or_else(|| ConfigError::new(flag, missing()))?;
    Ok(Some((flag, dir)))
}

/// The controllers that spawns need of a directory that is there, which must offer them; that of processes where it does.
fn controllers(config: &Config, flag: &'static str, dir: &Path) -> Result<Vec<&'static str>, ConfigError> {
    let shown = dir.display();
    let offered = fs::read_to_string(dir.join("cgroup.controllers")).map_err(|e| {
        let why = format!("it needs a cgroup v2 directory, which {shown} (--cgroup) is not: {e}; {ADVICE}");
        ConfigError::new(flag, why)
    })?;
    let offers = |controller: &str| offered.split_whitespace().any(|one| one == controller);
    let needed = [
        ("--spawn-memory", "memory", config.spawn_memory.is_some()),
        ("--spawn-cpus", "cpu", config.spawn_cpus.is_some()),
    ];
    let lacking = needed.iter().find(|(_, controller, needed)| *needed && !offers(controller));
    if let Some((flag, controller, _)) = lacking {
        let has = if offered.trim().is_empty() { "none" } else { offered.trim() };
        let why = format!(
            "it needs the {controller} controller of cgroup v2 in {shown} (--cgroup), which has {has}; {ADVICE}"
        );
        return Err(ConfigError::new(flag, why));
    }
    let wanted = needed.iter().map(|(_, controller, needed)| (*controller, *needed));
    let wanted = wanted.chain([("pids", offers("pids"))]);
    Ok(wanted.filter(|(_, needed)| *needed).map(|(controller, _)| controller).collect())
}

/// Has a directory pass controllers on to the groups in it.
fn pass_on(dir: &Path, controllers: &[&str], ours: &[u32]) -> io::Result<()> {
    let file = dir.join("cgroup.subtree_control");
    let already = fs::read_to_string(&file)?;
    let missing = controllers.iter().filter(|one| !already.split_whitespace().any(|passed| passed == **one));
    let missing: Vec<String> = missing.map(|one| format!("+{one}")).collect();
    if missing.is_empty() {
        return Ok(());
    }
    match fs::write(&file, missing.join(" ")) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        other => return other,
    }
    // It has processes in it. The agent may be one, spawns of an earlier one, which had no groups, others.
    let aside = dir.join("agent");
    if !aside.exists() {
        fs::create_dir(&aside)?;
    }
    let inside = fs::read_to_string(dir.join("cgroup.procs"))?;
    for pid in inside.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()) {
        if pid != std::process::id() && !ours.contains(&pid) {
            let why = format!("process {pid}, which is not the agent's, is in it; name a group of its own");
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
        }
        fs::write(aside.join("cgroup.procs"), pid.to_string())?;
    }
    fs::write(&file, missing.join(" "))
}

/// The agent's own group, where it is a group of cgroup v2.
fn own_group() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    // ID PARENT DEVICE ROOT MOUNT-POINT OPTIONS… - TYPE SOURCE …
    let mount = mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4)).flatten()
    })?;
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(Path::new(mount).join(own))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Launcher;

    /// A directory that looks like a group to those who read and write.
    fn tree(controllers: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), controllers).unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "").unwrap();
        fs::write(dir.path().join("cgroup.procs"), "").unwrap();
        dir
    }

    fn config(dir: &Path) -> Config {
        let launcher = Launcher::Executable("/opt/ts3d_sc_server".into());
        let cgroup = Some(dir.to_owned());
        Config { cgroup, ..Config::new("node-a".parse().unwrap(), launcher, "/tmp/state".into()) }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[test]
    fn who_limits_nothing_gets_no_groups() {
        let config = Config { cgroup: None, ..config(Path::new("/nonexistent")) };
        assert!(Groups::open(&config, &[]).unwrap().is_none());
    }

    #[test]
    fn a_spawn_gets_a_group_with_all_limits_that_were_asked_for() {
        let dir = tree("cpuset cpu io memory pids\n");
        let config = Config { spawn_memory: Some(4 << 30), spawn_cpus: Some(1.5), ..config(dir.path()) };
        let groups = Groups::open(&config, &[]).unwrap().unwrap();
        assert_eq!(read(&dir.path().join("cgroup.subtree_control")), "+memory +cpu +pids");
        let id = SpawnId::mint();
        assert!(groups.of(id).is_none());
        let group = groups.make(id).unwrap();
        assert_eq!(group.dir(), dir.path().join(format!("spawn-node-a-{id}")));
        assert!(groups.of(id).is_some());
        for (file, value) in [
            ("memory.max", "4294967296"),
            ("memory.oom.group", "1"),
            ("cpu.max", "150000 100000"),
            ("pids.max", "4096"),
        ] {
            assert_eq!(read(&group.dir().join(file)), value, "{file}");
        }
    }

    #[test]
    fn what_was_not_asked_for_is_not_limited() {
        let dir = tree("cpu memory\n");
        let groups = Groups::open(&config(dir.path()), &[]).unwrap().unwrap();
        let group = groups.make(SpawnId::mint()).unwrap();
        assert_eq!(fs::read_dir(group.dir()).unwrap().count(), 0);
        assert_eq!(read(&dir.path().join("cgroup.subtree_control")), "");
    }

    #[test]
    fn what_the_machine_cannot_limit_is_reported_with_its_flag_and_a_remedy() {
        let dir = tree("hugetlb\n");
        let (memory, cpus) = (Some(1 << 30), Some(2.0));
        let limited = Config { spawn_memory: memory, ..config(dir.path()) };
        let error = Groups::open(&limited, &[]).unwrap_err();
        assert_eq!(error.flag, "--spawn-memory");
        for word in ["memory controller", "has hugetlb", "unified_cgroup_hierarchy", "Delegate=yes"] {
            assert!(error.problem.contains(word), "no {word} in {error}");
        }
        let limited = Config { spawn_cpus: cpus, ..config(dir.path()) };
        assert_eq!(Groups::open(&limited, &[]).unwrap_err().flag, "--spawn-cpus");
        let plain = tempfile::tempdir().unwrap();
        let error = Groups::open(&config(plain.path()), &[]).unwrap_err();
        assert_eq!(error.flag, "--cgroup");
        assert!(error.problem.contains("cgroup v2 directory"), "{error}");
        let error = Groups::open(&config(Path::new("/nonexistent/group")), &[]).unwrap_err();
        assert!(error.problem.contains("/nonexistent/group"), "{error}");
    }

    #[test]
    fn the_kernels_verdict_is_read() {
        let dir = tree("memory\n");
        let config = Config { spawn_memory: Some(1024), ..config(dir.path()) };
        let group = Groups::open(&config, &[]).unwrap().unwrap().make(SpawnId::mint()).unwrap();
        assert_eq!(group.out_of_memory(), None);
        let events = group.dir().join("memory.events");
        fs::write(&events, "low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\noom_group_kill 0\n").unwrap();
        assert_eq!(group.out_of_memory(), None);
        fs::write(&events, "low 0\nhigh 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n").unwrap();
        assert_eq!(group.out_of_memory().as_deref(), Some("1024"));
    }

    #[tokio::test]
    async fn groups_go_with_their_spawns_and_those_that_stayed_are_swept() {
        let dir = tree("");
        let groups = Groups::open(&config(dir.path()), &[]).unwrap().unwrap();
        let (gone, left) = (SpawnId::mint(), SpawnId::mint());
        groups.make(gone).unwrap().remove().await;
        assert!(groups.of(gone).is_none());
        groups.make(left).unwrap();
        let others = dir.path().join(format!("spawn-node-b-{left}"));
        fs::create_dir(&others).unwrap();
        groups.sweep(Sweep::Old);
        assert!(groups.of(left).is_some(), "its process may be on its way");
        groups.sweep(Sweep::All);
        assert!(groups.of(left).is_none() && others.exists());
        groups.make(left).unwrap().set("cgroup.procs", "1").unwrap();
        groups.sweep(Sweep::All);
        assert!(groups.of(left).is_some(), "a process is in there");
    }
}
