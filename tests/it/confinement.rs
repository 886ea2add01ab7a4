//! What a spawned server may do on its node: as which user it runs, in which control group, with which descriptors.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hatchery_tests::binaries::binaries;
use hatchery_tests::processes::status;
use hatchery_tests::wait::TIMEOUT;
use hatchery_tests::{AgentPlan, Farm, Look, processes, skipped, until};
use rustix::process::Signal;
use serde_json::json;

#[tokio::test]
async fn a_server_gets_no_descriptor_of_its_agent() {
    let farm = Farm::builder().agent(AgentPlan::slots(2).executable(stand_in())).start().await;
    let refused = farm.door(0).spawn(&json!({})).await;
    let log = refused.json()["log"].to_string();
    let (_, has) = log.split_once("descriptors: ").unwrap_or_else(|| panic!("{refused:?}"));
    let has: Vec<&str> = has.split_whitespace().take_while(|word| !word.starts_with("end")).collect();
    // Its input and outputs, and the directory that it lists; what the agent was started with, such as a lock of its shell, is not among them.
    assert_eq!(has, ["0", "1", "2", "3"]);
    farm.finish().await;
}

#[tokio::test]
async fn the_library_path_of_a_server_does_not_reach_the_process_that_starts_it() {
    let group = tempfile::tempdir().unwrap();
    fs::write(group.path().join("cgroup.procs"), "").unwrap();
    let ran = Command::new(&binaries().hatchery)
        .arg0("hatchery-launch")
        .arg(group.path())
        .args(["-", "-", "-", "/usr/bin/env"])
        .env_clear()
        .env("HATCHERY_LAUNCH_LD_LIBRARY_PATH", "/opt/server")
        .env("HOME", "/root")
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "LD_LIBRARY_PATH=/opt/server\n");
    assert_eq!(fs::read_to_string(group.path().join("cgroup.procs")).unwrap(), "0");
}

/// Says which descriptors it has, and ends.
fn stand_in() -> PathBuf {
    let directory = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap().keep();
    let script = directory.join("server");
    fs::write(
        &script,
        "#!/bin/sh\necho descriptors: $(ls /proc/self/fd | LC_ALL=C sort) end\nrm -r \"${0%/*}\"\nexit 3\n",
    )
    .unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    script
}

#[tokio::test]
async fn spawns_run_as_their_user_and_what_that_user_cannot_read_is_reported() {
    if !rustix::process::geteuid().is_root() {
        return skipped("spawns of another user", "only root may start them");
    }
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let directory = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    open(directory.path());
    let executable = directory.path().join("ts3d-sc-sim");
    fs::copy(&binaries().simulator, &executable).unwrap();
    let plan = AgentPlan::slots(2).executable(&executable);
    let plan = plan.args(&["--spawn-user", "nobody:nogroup", "--ping-interval", "500ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let told = |farm: &Farm| {
        let log = farm.agents[0].role.log();
        let told = log.lines().filter(|line| line.contains("spawns cannot read a file as --spawn-user"));
        told.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(told(&farm), Vec::<String>::new());
    fs::set_permissions(farm.mark(), fs::Permissions::from_mode(0o700)).unwrap();
    farm.agents[0].restart().await;
    farm.agents[0].role.logs_so("both files", |_| told(&farm).len() >= 2).await;
    let lines = told(&farm);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for (line, flag) in lines.iter().zip(["--license-file", "--model-dir"]) {
        assert!(line.contains(flag) && line.contains("0700") && line.contains("nobody:nogroup"), "{line}");
    }
    open(farm.mark());
    let (id, pid) = farm.starts_one().await;
    let nobody = ["65534"; 4];
    assert_eq!(status(pid, "Uid"), nobody);
    assert_eq!(status(pid, "Gid"), nobody);
    assert_eq!(status(pid, "Groups"), Vec::<String>::new(), "none of root's");
    // Another agent takes it over as any other.
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    farm.audit().await;
    assert_eq!(farm.process(&id).unwrap().pid, pid);
    farm.stops_one(&id).await;
    farm.finish().await;
}

#[tokio::test]
async fn an_agent_that_cannot_limit_its_spawns_does_not_start() {
    let farm = Farm::small(1).await;
    let groups = tempfile::tempdir().unwrap();
    fs::write(groups.path().join("cgroup.controllers"), "hugetlb\n").unwrap();
    let (state, cgroup) = (farm.mark().join("other"), groups.path().to_str().unwrap());
    let any = "127.0.0.1:0";
    let start = async |flags: &[&str]| {
        let args = ["agent", "--node", "other", "--executable", "/bin/true", "--registry", "embedded"];
        let state = ["--state-dir", state.to_str().unwrap(), "--listen", any, "--admin-listen", any];
        farm.run(&[args.as_slice(), &state, &["--liveliness-listen", any], flags].concat()).await
    };
    for (flags, words) in [
        (["--cgroup", cgroup, "--spawn-memory", "1GiB"], ["--spawn-memory", "memory controller", cgroup]),
        (["--cgroup", cgroup, "--spawn-cpus", "1.5"], ["--spawn-cpus", "cpu controller", cgroup]),
        (["--cgroup", "/proc/nowhere", "--spawn-cpus", "1.5"], ["--cgroup", "/proc/nowhere", "--spawn-cpus"]),
        (["--slots", "2", "--spawn-user", "nobody-of-that-name"], ["--spawn-user", "/etc/passwd", "UID:GID"]),
    ] {
        let ran = start(&flags).await;
        assert_eq!(ran.code, 2, "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "no {word} in {ran:?}");
        }
    }
    farm.finish().await;
}

/// A directory of cgroup v2 for one test, with the files that every machine has.
struct Groups(PathBuf);

impl Groups {
    fn new(name: &str) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts
            .lines()
            .find_map(|line| line.split(' ').nth(2)?.eq("cgroup2").then(|| line.split(' ').nth(1))?);
        let mount = mount.ok_or("cgroup v2 is not mounted")?;
        let dir = Path::new(mount).join(format!("hatchery-test-{}-{name}", std::process::id()));
        fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
        Ok(Self(dir))
    }

    /// The groups of spawns.
    fn members(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.is_dir()).collect()
    }

    async fn are_gone(&self) {
        until("the groups are gone", TIMEOUT, async || {
            let left = self.members();
            Look::when(left.is_empty(), || format!("{left:?}"))
        })
        .await;
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        for group in self.members() {
            fs::write(group.join("cgroup.kill"), "1").ok();
            fs::remove_dir(group).ok();
        }
        fs::remove_dir(&self.0).ok();
    }
}

#[tokio::test]
async fn every_spawn_has_a_control_group_that_goes_with_it() {
    let groups = match Groups::new("farm") {
        Ok(groups) => groups,
        Err(why) => return skipped("control groups", &why),
    };
    let plan =
        AgentPlan::slots(4).args(&["--cgroup", groups.0.to_str().unwrap(), "--ping-interval", "500ms"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    let group_of = |id: &str| groups.0.join(format!("spawn-node-a-{id}"));
    let inside = |id: &str| fs::read_to_string(group_of(id).join("cgroup.procs")).unwrap_or_default();

    // It is in there, also under the next agent, and the group goes with it.
    let (first, first_pid) = farm.starts_one().await;
    let (second, second_pid) = farm.starts_one().await;
    assert_eq!(inside(&first), format!("{first_pid}\n"));
    farm.stops_one(&first).await;
    until("its group is gone", TIMEOUT, async || Look::when(!group_of(&first).exists(), || inside(&first)))
        .await;
    farm.agents[0].role.kill();
    farm.agents[0].restart().await;
    farm.audit().await;
    assert_eq!(inside(&second), format!("{second_pid}\n"));
    farm.stops_one(&second).await;
    groups.are_gone().await;

    // One that ends while no agent looks leaves its group to the next.
    let (third, third_pid) = farm.starts_one().await;
    farm.agents[0].role.kill();
    processes::signal(third_pid, Signal::KILL);
    until("it is gone", TIMEOUT, async || Look::when(inside(&third).is_empty(), || inside(&third))).await;
    assert!(group_of(&third).exists());
    farm.agents[0].restart().await;
    farm.ends(&third).await;
    groups.are_gone().await;
    farm.finish().await;
}

#[tokio::test]
async fn what_leaves_its_process_group_goes_with_the_control_group() {
    let groups = match Groups::new("orphans") {
        Ok(groups) => groups,
        Err(why) => return skipped("control groups", &why),
    };
    let scratch = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    let script = scratch.path().join("server");
    // Its child is in a session, and so in a process group, of its own.
    fs::write(&script, "#!/bin/sh\nsetsid sleep 600 &\nsleep 0.3\nexit 3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let plan = AgentPlan::slots(1).args(&["--cgroup", groups.0.to_str().unwrap()]).executable(&script);
    let farm = Farm::builder().agent(plan).start().await;
    let refused = farm.door(0).spawn(&json!({})).await;
    assert_eq!(refused.status, 502, "{refused:?}");
    groups.are_gone().await;
    until("nothing is left", Duration::from_secs(5), async || {
        let left = processes::marked(farm.mark());
        let left: Vec<_> = left.into_iter().filter(|process| process.program() == "sleep").collect();
        Look::when(left.is_empty(), || format!("{left:?}"))
    })
    .await;
    farm.finish().await;
}

#[tokio::test]
async fn a_server_that_is_started_again_for_its_lost_port_is_in_a_control_group_too() {
    let groups = match Groups::new("again") {
        Ok(groups) => groups,
        Err(why) => return skipped("control groups", &why),
    };
    let scratch = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    let (script, mark) = (scratch.path().join("server"), scratch.path().join("mark"));
    let text = format!(
        "#!/bin/sh\n[ -e {mark} ] && exec {simulator} \"$@\"\n: > {mark}\necho \"Can't create lws context.\"\nexit 4\n",
        mark = mark.display(),
        simulator = binaries().simulator.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let plan = AgentPlan::slots(1).args(&["--cgroup", groups.0.to_str().unwrap()]).executable(&script);
    let farm = Farm::builder().agent(plan).start().await;
    let (id, pid) = farm.starts_one().await;
    assert!(mark.exists());
    let inside = fs::read_to_string(groups.0.join(format!("spawn-node-a-{id}/cgroup.procs"))).unwrap();
    assert_eq!(inside, format!("{pid}\n"));
    farm.audit().await;
    farm.stops_one(&id).await;
    groups.are_gone().await;
    farm.finish().await;
}

#[tokio::test]
async fn the_kernel_keeps_each_spawn_within_its_memory_and_its_share_of_the_processors() {
    const WHAT: &str = "limits of memory and processors";
    let groups = match Groups::new("limits") {
        Ok(groups) => groups,
        Err(why) => return skipped(WHAT, &why),
    };
    let offered = fs::read_to_string(groups.0.join("cgroup.controllers")).unwrap();
    if !["memory", "cpu"].iter().all(|wanted| offered.split_whitespace().any(|one| one == *wanted)) {
        return skipped(WHAT, "cgroup v2 has not the controllers memory and cpu here");
    }
    let memory = ["--spawn-memory", "64MiB", "--cgroup", groups.0.to_str().unwrap()];
    let scratch = tempfile::Builder::new().prefix("hatchery-test-").tempdir().unwrap();
    let script = scratch.path().join("server");
    // Reads it all at once.
    fs::write(&script, "#!/bin/sh\ndd if=/dev/zero of=/dev/null bs=256M count=1\nexit 3\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let busy = AgentPlan::slots(1).args(&memory).args(&["--spawn-cpus", "0.2"]);
    let greedy = AgentPlan::slots(1).args(&memory).args(&["--pool", "greedy"]).executable(&script);
    let farm = Farm::builder().agent(busy).agent(greedy).start().await;

    let refused = farm.door(0).spawn(&json!({"pool": "greedy"})).await;
    let problem = refused.problem(502, "spawn-failed");
    assert!(
        problem.text("reason").contains("out of memory: it took more than 67108864 bytes"),
        "{refused:?}"
    );

    let busy = json!({"pool": "default", "sessionToken": "sim:flood_bytes_per_sec=0"});
    let id = farm.door(0).spawned(&busy).await["id"].as_str().unwrap().to_owned();
    let group = groups.0.join(format!("spawn-node-a-{id}"));
    let read = |file: &str| fs::read_to_string(group.join(file)).unwrap();
    assert_eq!((read("cpu.max").trim(), read("memory.max").trim()), ("20000 100000", "67108864"));
    let figure = |name: &str| -> u64 {
        let stat = read("cpu.stat");
        let line = stat.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("{stat}"));
        line.trim().parse().unwrap()
    };
    until("it was held back ten times", TIMEOUT, async || {
        let throttled = figure("nr_throttled ");
        Look::when(throttled >= 10, || throttled.to_string())
    })
    .await;
    // Read in this order, since both go on. A quota is handed out in slices, the last of which may be too much.
    let (used, periods) = (figure("usage_usec "), figure("nr_periods "));
    assert!(used <= (periods + 2) * 25_000, "{used} us in {periods} periods of 20 ms");
    farm.stops_one(&id).await;
    groups.are_gone().await;
    farm.finish().await;
}
