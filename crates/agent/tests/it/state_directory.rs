//! State directories that are full, read-only, damaged or gone: what runs is adopted, and nothing is admitted until writing works.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use agent::{Agent, OnShutdown};
use model::{ExitReason, SpawnId};
use tempfile::TempDir;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, config, connect, http, runs, until};

/// A small file system in memory, unmounted in the end.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, with a word about it, where this process may not mount.
    #[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
    fn mount(dir: &TempDir) -> Option<Self> {
        let path = dir.path().join("disk");
        std::fs::create_dir(&path).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"])
            .arg(&path)
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("skipped: this process may not mount a file system");
        }
        mounted.then_some(Self(path))
    }

    fn remount(&self, option: &str) {
        let done =
            Command::new("mount").args(["-o", &format!("remount,{option}")]).arg(&self.0).status().unwrap();
        assert!(done.success());
    }

    /// Leaves no room at all.
    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("ballast")).unwrap();
        for size in [65_536, 4096, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(&self.0).status().ok();
    }
}

async fn agent_on(farm: Farm, state_dir: &Path) -> Farm {
    let (registry, ports) = (farm.registry.clone(), farm.ports.clone());
    let (grpc, liveliness) = (farm.agent.grpc_addr(), farm.agent.liveliness_addr());
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    let mut config = config(&dir);
    config.state_dir = state_dir.to_owned();
    // A directory that was lost has another identity; the address says that it is the same machine.
    config.listen = grpc;
    config.liveliness_listen = liveliness;
    config.ports = ports.clone();
    let agent = Agent::start(config, registry.clone()).await.unwrap();
    let client = connect(&agent).await;
    Farm { agent, registry, client, dir, ports }
}

/// Nothing is admitted, what runs goes on, and with writing restored everything is as usual.
async fn recovers(farm: Farm, adopted: SpawnId, pid: u32, restore: impl FnOnce()) {
    assert!(runs(pid));
    assert_eq!(farm.info(adopted).await.pid, pid, "adopted");
    let Outcome::Refused(refused) = farm.send(&farm.ask(STAY)).await else { panic!("not refused") };
    assert_eq!(refused.reason(), Reason::CannotStart);
    assert!(refused.detail.contains("state directory"), "{refused:?}");
    let ready = http(farm.agent.admin_addr(), "GET /readyz HTTP/1.1").await;
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("state directory"), "{ready}");
    restore();
    until("spawns are admitted again", async || {
        matches!(farm.send(&farm.ask(STAY)).await, Outcome::Ready(_)).then_some(())
    })
    .await;
    assert_eq!(farm.info(adopted).await.state, "ready");
    for spawn in farm.list().await.into_iter().filter(|spawn| spawn.exit.is_none()) {
        farm.stop(spawn.spawn_id.parse().unwrap()).await;
    }
    farm.until_ended(adopted, ExitReason::Stopped).await;
    farm.until_empty().await;
    // Its threads may still have files there.
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_adopts_from_a_full_disk_and_admits_when_there_is_room() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home) else { return };
    let state = disk.0.join("state");
    let farm = Farm::start_with(|config| config.state_dir = state.clone()).await;
    let (id, _) = farm.spawn().await;
    let pid = farm.info(id).await.pid;
    disk.fill();
    let farm = agent_on(farm, &state).await;
    recovers(farm, id, pid, || disk.empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_adopts_from_a_read_only_disk_and_admits_when_it_can_be_written() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home) else { return };
    let state = disk.0.join("state");
    let farm = Farm::start_with(|config| config.state_dir = state.clone()).await;
    // Its output goes elsewhere, or the file system could not become read-only.
    let (id, _) = farm.spawn_as(&format!("exec >/dev/null 2>&1; {STAY}")).await;
    let pid = farm.info(id).await.pid;
    let (registry, ports) = (farm.registry.clone(), farm.ports.clone());
    let liveliness = farm.agent.liveliness_addr();
    let dir = farm.shutdown(OnShutdown::Adopt).await;
    // Files that the agent before has open are closed with the last of its tasks.
    until("the disk is read-only", async || {
        let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).output().unwrap();
        mounted.status.success().then_some(())
    })
    .await;
    let mut config = config(&dir);
    config.state_dir = state.clone();
    config.liveliness_listen = liveliness;
    config.ports = ports.clone();
    let agent = Agent::start(config, registry.clone()).await.unwrap();
    let client = connect(&agent).await;
    let farm = Farm { agent, registry, client, dir, ports };
    recovers(farm, id, pid, || disk.remount("rw")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_refuses_while_its_disk_is_full() {
    let home = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&home) else { return };
    let state = disk.0.join("state");
    let farm = Farm::start_with(|config| config.state_dir = state.clone()).await;
    let (id, _) = farm.spawn().await;
    let pid = farm.info(id).await.pid;
    disk.fill();
    for _ in 0..3 {
        let Outcome::Refused(refused) = farm.send(&farm.ask(STAY)).await else { panic!("not refused") };
        assert_eq!(refused.reason(), Reason::CannotStart);
        assert!(refused.detail.contains("No space left"), "{refused:?}");
    }
    assert_eq!((farm.info(id).await.state.as_str(), runs(pid)), ("ready", true));
    disk.empty();
    let (next, _) = farm.spawn().await;
    for id in [id, next] {
        farm.stop(id).await;
        farm.until_ended(id, ExitReason::Stopped).await;
    }
    farm.until_empty().await;
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spawns_are_recognised_without_any_record_of_them() {
    let farm = Farm::start().await;
    let (first, _) = farm.spawn().await;
    let (second, _) = farm.spawn().await;
    let pids = [farm.info(first).await.pid, farm.info(second).await.pid];
    let state = farm.dir.path().to_owned();
    // The whole directory is gone, logs included.
    let farm = {
        for entry in std::fs::read_dir(&state).unwrap().flatten() {
            let path = entry.path();
            if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }.unwrap();
        }
        agent_on(farm, &state).await
    };
    for (id, pid) in [(first, pids[0]), (second, pids[1])] {
        assert_eq!(farm.info(id).await.pid, pid);
        until("it is ready again", async || (farm.info(id).await.state == "ready").then_some(())).await;
    }
    farm.spawn().await;
    // A journal that cannot be understood.
    let journal = state.join("spawns");
    let ids = [first, second];
    let dir = {
        std::fs::write(&journal, "\0\0\0 not what it was\n{\"started\":").unwrap();
        farm
    };
    let farm = agent_on(dir, &state).await;
    for (id, pid) in ids.iter().zip(pids) {
        assert_eq!(farm.info(*id).await.pid, pid);
    }
    tokio::time::timeout(Duration::from_secs(20), farm.shutdown(OnShutdown::Kill)).await.unwrap();
}
