//! What a service manager learns from the socket that `NOTIFY_SOCKET` names: that a role is ready, that it runs, that it ends.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as Socket};
use std::path::Path;

use hatchery_tests::{AgentPlan, Farm, Look, RedisServer, Role, until, wait::TIMEOUT};
use rustix::process::Signal;
use tokio::net::UnixDatagram;

/// A service manager that keeps what is reported to it.
struct Manager {
    socket: UnixDatagram,
    reports: Vec<String>,
}

impl Manager {
    fn at(address: &SocketAddr) -> Self {
        let socket = Socket::bind_addr(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket: UnixDatagram::from_std(socket).unwrap(), reports: Vec::new() }
    }

    fn of(path: &Path) -> Self {
        Self::at(&SocketAddr::from_pathname(path).unwrap())
    }

    fn read(&mut self) {
        let mut report = [0; 1024];
        while let Ok(length) = self.socket.try_recv(&mut report) {
            self.reports.push(String::from_utf8_lossy(&report[..length]).into_owned());
        }
    }

    /// Waits for a report that begins so.
    async fn gets(&mut self, beginning: &str) {
        until(&format!("a report that begins with {beginning:?}"), TIMEOUT, async || {
            self.read();
            let there = self.reports.iter().any(|report| report.starts_with(beginning));
            Look::when(there, || format!("{:?}", self.reports))
        })
        .await;
    }

    /// Waits until the role has reported several times that it runs.
    async fn sees_it_run(&mut self) {
        self.reports.retain(|report| report != "WATCHDOG=1");
        until("reports to the watchdog", TIMEOUT, async || {
            self.read();
            let count = self.reports.iter().filter(|report| *report == "WATCHDOG=1").count();
            Look::when(count >= 3, || format!("{:?}", self.reports))
        })
        .await;
    }

    fn received(&self, variable: &str) -> usize {
        self.reports.iter().filter(|report| report.lines().any(|line| line == variable)).count()
    }
}

#[tokio::test]
async fn a_service_manager_learns_when_a_role_is_ready_that_it_runs_and_when_it_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("agent");
    let mut of_agent = Manager::of(&path);
    let socket = format!("NOTIFY_SOCKET={}", path.display());
    let plan = AgentPlan::slots(2).under(&["env", &socket, "WATCHDOG_USEC=200000"]);
    let mut farm = Farm::builder().agent(plan).start().await;
    of_agent.gets("READY=1\nSTATUS=eligible, 0 of 2 slots in use").await;
    of_agent.sees_it_run().await;

    // A name without a file, as in containers. There is no registry when the front door starts.
    let name = format!("hatchery-test-{}", std::process::id());
    let mut of_door = Manager::at(&SocketAddr::from_abstract_name(&name).unwrap());
    let mut redis = RedisServer::start(farm.mark()).await;
    redis.kill();
    let args =
        ["frontdoor", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--registry", &redis.url()];
    let variables = [("NOTIFY_SOCKET", format!("@{name}").into()), ("WATCHDOG_USEC", "200000".into())];
    let mut door =
        Role::start_in("frontdoor-1", farm.mark(), &args.map(str::to_owned), farm.mark(), &variables);
    door.announcement().await;
    of_door.gets("STATUS=not ready: ").await;
    of_door.sees_it_run().await;
    assert_eq!(of_door.received("READY=1"), 0, "{:?}", of_door.reports);
    redis.restart().await;
    of_door.gets("READY=1\nSTATUS=ready").await;
    door.signal(Signal::TERM);
    of_door.gets("STOPPING=1\nSTATUS=ending").await;
    assert!(door.end().await.success());
    assert_eq!(of_door.received("READY=1"), 1, "{:?}", of_door.reports);
    drop(door);
    redis.kill();

    farm.agents[0].role.signal(Signal::TERM);
    of_agent.gets("STOPPING=1\nSTATUS=ending, --on-shutdown adopt").await;
    assert!(farm.agents[0].role.end().await.success());
    farm.agents[0].role.killed = true;
    farm.shut_down().await;
}
