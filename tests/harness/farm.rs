//! A farm: some front doors, some agents, one Redis, each a process of its own on ports of its own.
//!
//! Dropping a farm ends all of it, at once and whatever state it is in. A test that went well ends its farm by
//! [`Farm::finish`], which also looks at what is left behind.

mod handover;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

pub use crate::agent::Agent;
use crate::command::{self, Ran};
pub use crate::door::Door;
use crate::guard::Guard;
use crate::http::Client;
use crate::link::Link;
use crate::logs;
use crate::plan::AgentPlan;
use crate::processes::{self, Process};
use crate::program::{Program, Release};
use crate::redis::RedisServer;
use crate::role::Role;
use crate::sentinels::Sentinels;
use crate::wait::{Look, TIMEOUT, until};

/// What is logged: everything of ours, for the case that a test fails.
const LOG: &str = "info,frontdoor=debug,agent=debug,registry=debug";

/// What a farm is to be.
#[derive(Debug, Default)]
pub struct FarmBuilder {
    pub(crate) doors: Vec<Release>,
    door_args: Vec<String>,
    agents: Vec<AgentPlan>,
    plain_log: bool,
    links: bool,
    sentinels: bool,
    keys: bool,
    redis_clock: bool,
    unread_log: bool,
    env: Vec<(String, String)>,
    password_file: Option<PathBuf>,
    registry_certs: Option<PathBuf>,
}

impl FarmBuilder {
    /// With logs that nobody reads: every process writes to a pipe that is full.
    #[must_use]
    pub fn unread_log(mut self) -> Self {
        self.unread_log = true;
        self
    }

    /// With this variable in the environment of every front door and agent.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a user of Redis named `farm`, whose password every process reads from this file, as it is then.
    #[must_use]
    pub fn password_file(mut self, file: &Path) -> Self {
        self.password_file = Some(file.to_owned());
        self.env("HATCHERY_REGISTRY_PASSWORD_FILE", &file.display().to_string())
    }

    /// With a Redis that is spoken to by TLS, with `ca.pem`, `redis.pem` and `redis.key` of this directory on both sides, as they are then.
    #[must_use]
    pub fn registry_certs(mut self, dir: &Path) -> Self {
        self.registry_certs = Some(dir.to_owned());
        self
    }

    /// With callers who have to show API keys. The farm's own clients show one that is good for everything.
    #[must_use]
    pub fn keys(mut self) -> Self {
        self.keys = true;
        self
    }

    /// With the log of an installation that sets nothing, for what is measured.
    #[must_use]
    pub fn plain_log(mut self) -> Self {
        self.plain_log = true;
        self
    }

    /// With a link that can be disturbed between every process and Redis, and before every agent.
    #[must_use]
    pub fn links(mut self) -> Self {
        self.links = true;
        self
    }

    /// With a replica and Sentinels, who are asked for the registry. There are no links to it then.
    #[must_use]
    pub fn sentinels(mut self) -> Self {
        self.sentinels = true;
        self
    }

    /// With a Redis whose clock can be stepped.
    #[must_use]
    pub fn redis_with_a_clock(mut self) -> Self {
        self.redis_clock = true;
        self
    }

    /// With so many front doors; else there is one.
    #[must_use]
    pub fn doors(mut self, count: usize) -> Self {
        self.doors = vec![Release::Current; count];
        self
    }

    /// With one front door of each of these releases.
    #[must_use]
    pub fn doors_of(mut self, releases: &[Release]) -> Self {
        self.doors = releases.to_vec();
        self
    }

    /// With these arguments for every front door.
    #[must_use]
    pub fn door_args(mut self, args: &[&str]) -> Self {
        self.door_args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// With one more agent: the first is `node-a`, the second `node-b`, and so on.
    #[must_use]
    pub fn agent(mut self, plan: AgentPlan) -> Self {
        self.agents.push(plan);
        self
    }

    /// Starts it and waits until every front door sees every node.
    pub async fn start(mut self) -> Farm {
        let scratch =
            tempfile::Builder::new().prefix("hatchery-test-").tempdir().expect("a scratch directory");
        let mark = scratch.path().to_owned();
        fs::write(mark.join("license"), "for tests\n").expect("a file can be written");
        fs::create_dir(mark.join("models")).expect("a directory can be made");
        fs::write(mark.join("models/bolt.scs"), "").expect("a file can be written");
        let guard = Guard::over(&mark);
        let operator = self.keys.then(|| {
            let keys = mark.join("keys");
            self.door_args.extend(["--api-keys".to_owned(), keys.display().to_string()]);
            command::new_key(&mark, &keys, &["--scope", "spawn,operate"])
        });
        let redis = if self.redis_clock {
            RedisServer::with_a_clock_of_its_own(&mark).await
        } else {
            RedisServer::start(&mark).await
        };
        let url = match (&self.registry_certs, &self.password_file) {
            (Some(dir), _) => redis.speaks_tls(dir).await,
            (None, None) => redis.url(),
            (None, Some(file)) => {
                redis.has_user(&fs::read_to_string(file).expect("a password")).await;
                redis.url().replace("://", "://farm@")
            }
        };
        let log = if self.plain_log { None } else { Some(LOG) };
        let sentinels = if self.sentinels { Some(Sentinels::over(&redis, &mark).await) } else { None };
        let mut links = Vec::new();
        let mut registry = async |name: &str| {
            if let Some(sentinels) = &sentinels {
                return common(&sentinels.url(), log);
            }
            if !self.links {
                return common(&url, log);
            }
            let link = Link::to(redis.addr(), format!("{name} to Redis")).await;
            let common = common(&format!("redis://{}", link.addr), log);
            links.push(link);
            common
        };
        let mut agents = Vec::new();
        for plan in &mut self.agents {
            plan.program.env.clone_from(&self.env);
        }
        for (plan, letter) in self.agents.iter().zip('a'..='z') {
            let node = format!("node-{letter}");
            let common = registry(&node).await;
            agents.push(Agent::new(&mark, &common, node, plan, self.links, self.unread_log).await);
        }
        let mut doors = Vec::new();
        if self.doors.is_empty() {
            self.doors.push(Release::Current);
        }
        for (index, release) in self.doors.iter().enumerate() {
            let common = registry(&format!("frontdoor-{index}")).await;
            let program = Program { release: *release, env: self.env.clone(), ..Program::default() };
            let mut door = Door::new(&mark, &common, index, &self.door_args, self.unread_log, program);
            door.operator = operator.as_deref().map(|text| &*text.to_owned().leak());
            doors.push(door);
        }
        for agent in &mut agents {
            agent.comes_up().await;
        }
        for door in &mut doors {
            door.comes_up().await;
        }
        for agent in &mut agents {
            links.extend(agent.link.take());
        }
        let scratch = Some(scratch);
        let farm = Farm { doors, agents, redis, sentinels, links, mark, scratch, _guard: guard };
        farm.sees_every_node().await;
        farm
    }
}

fn common(registry: &str, log: Option<&str>) -> Vec<String> {
    let mut args = vec!["--registry", registry, "--farm", "test"];
    args.extend(log.into_iter().flat_map(|log| ["--log-format", "json", "--log", log]));
    args.into_iter().map(str::to_owned).collect()
}

/// A running farm.
#[derive(Debug)]
pub struct Farm {
    /// In the order of their numbers.
    pub doors: Vec<Door>,
    /// In the order of their names.
    pub agents: Vec<Agent>,
    /// The registry.
    pub redis: RedisServer,
    /// Who watches over it, if that was asked for.
    pub sentinels: Option<Sentinels>,
    /// What lies between the processes, if it was asked for.
    pub links: Vec<Link>,
    mark: PathBuf,
    scratch: Option<TempDir>,
    _guard: Guard,
}

impl Farm {
    /// A farm to be.
    pub fn builder() -> FarmBuilder {
        FarmBuilder::default()
    }

    /// One front door and one agent with so many slots.
    pub async fn small(slots: u16) -> Self {
        Self::builder().agent(AgentPlan::slots(slots)).start().await
    }

    /// The way into the front door of this number.
    pub fn door(&self, index: usize) -> Client {
        self.doors[index].http
    }

    /// The agent of a node.
    pub fn agent(&self, node: &str) -> &Agent {
        let found = self.agents.iter().find(|agent| agent.node == node);
        found.unwrap_or_else(|| panic!("there is no {node}"))
    }

    /// The same, to be done something to.
    pub fn agent_mut(&mut self, node: &str) -> &mut Agent {
        let found = self.agents.iter_mut().find(|agent| agent.node == node);
        found.unwrap_or_else(|| panic!("there is no {node}"))
    }

    /// The scratch directory, which is also what marks the farm's processes.
    pub fn mark(&self) -> &Path {
        &self.mark
    }

    /// The spawned processes and their offspring.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = processes::marked(&self.mark);
        all.retain(|process| !["hatchery", "redis-server", "unshare"].contains(&process.program()));
        all
    }

    /// The process of a spawn.
    pub fn process(&self, id: &str) -> Option<Process> {
        self.processes().into_iter().find(|process| process.option("--id") == Some(id))
    }

    /// Runs an operator's command against the first front door.
    pub async fn run(&self, args: &[&str]) -> Ran {
        command::run(&self.mark, self.door(0), args).await
    }

    /// A spawn's record, as the first front door tells it.
    pub async fn record(&self, id: &str) -> Value {
        self.door(0).json(&format!("/v1/spawns/{id}")).await
    }

    /// Waits until a spawn is in this state; its record then.
    pub async fn reaches(&self, id: &str, state: &str, limit: Duration) -> Value {
        until(&format!("spawn {id} is {state}"), limit, async || {
            let response = self.door(0).get(&format!("/v1/spawns/{id}")).send().await;
            match response.status {
                200 if response.json()["state"] == state => Look::Ready(response.json()),
                _ => Look::NotYet(format!("{response:?}")),
            }
        })
        .await
    }

    /// Waits until a spawn has ended; how it did.
    pub async fn ends(&self, id: &str) -> Value {
        self.reaches(id, "exited", TIMEOUT).await["exit"].clone()
    }

    /// Waits until so many requests wait in line at all front doors together, and the registry has seen them there.
    pub async fn waiting(&self, count: usize) {
        let wanted = u32::try_from(count).map(f64::from).expect("a small number");
        until(&format!("{count} wait in line"), TIMEOUT, async || {
            let mut waiting = 0.0;
            for door in &self.doors {
                waiting += door.metrics().await.sum("hatchery_frontdoor_waiting");
            }
            Look::when((waiting - wanted).abs() < 0.5, || format!("{waiting} do"))
        })
        .await;
        // What a front door asks the registry now is answered after what it asked before.
        for door in &self.doors {
            for _ in 0..3 {
                door.http.json("/v1/nodes").await;
            }
        }
    }

    /// Has one spawn started on whatever node; its id and its process.
    pub async fn starts_one(&self) -> (String, u32) {
        let id = self.door(0).spawned(&json!({})).await["id"].as_str().expect("an id").to_owned();
        let pid = self.process(&id).expect("it runs").pid;
        (id, pid)
    }

    /// Stops one spawn, and waits until it has ended so.
    pub async fn stops_one(&self, id: &str) {
        self.stop([id]).await;
        assert_eq!(self.ends(id).await["reason"], "stopped");
    }

    /// Stops these spawns through whatever front door, and waits for nothing.
    pub async fn stop(&self, ids: impl IntoIterator<Item = &str>) {
        for (i, id) in ids.into_iter().enumerate() {
            let door = self.door(i % self.doors.len());
            let response = door.delete(&format!("/v1/spawns/{id}")).send().await;
            assert_eq!(response.status, 202, "{response:?}");
        }
    }

    async fn sees_every_node(&self) {
        let wanted: Vec<&str> = self.agents.iter().map(|agent| agent.node.as_str()).collect();
        for door in &self.doors {
            until(&format!("{} sees every node", door.role.name), TIMEOUT, async || {
                let ready = door.http.get("/readyz").send().await;
                let nodes = door.http.get("/v1/nodes").send().await;
                if (ready.status, nodes.status) != (200, 200) {
                    return Look::NotYet(format!("{ready:?} {nodes:?}"));
                }
                let nodes = nodes.json();
                let nodes: Vec<&Value> = nodes["nodes"].as_array().into_iter().flatten().collect();
                let up =
                    nodes.iter().filter(|node| node["availability"] == "up").map(|node| node["id"].as_str());
                let seen: Vec<&str> = up.flatten().collect();
                if seen != wanted {
                    return Look::NotYet(format!("{seen:?} of {wanted:?}"));
                }
                // So does its snapshot, which it falls back on.
                let metrics = door.metrics().await.sum("hatchery_frontdoor_snapshot_nodes");
                Look::when(metrics >= wanted.len() as f64, || format!("{metrics} in its snapshot"))
            })
            .await;
        }
    }

    /// Ends a farm that has nothing left to do: it must be empty, end in order, and leave nothing.
    pub async fn finish(self) {
        self.assert_empty().await;
        self.shut_down().await;
    }

    /// Ends a farm that may still have spawns on nodes whose agents are gone.
    pub async fn shut_down(mut self) {
        let mut roles: Vec<&mut Role> = self.doors.iter_mut().map(|door| &mut door.role).collect();
        roles.extend(self.agents.iter_mut().map(|agent| &mut agent.role));
        roles.retain(|role| !role.killed);
        for role in &mut roles {
            assert_eq!(role.exited(), None, "{} ended by itself", role.name);
            role.signal(Signal::TERM);
        }
        for role in &mut roles {
            let status = role.end().await;
            assert!(status.success(), "{} ended with {status}", role.name);
            let said = role.said();
            assert_eq!(said.lines().count(), 1, "{} says one line: {said}", role.name);
            let errors = logs::errors(&role.name, &role.log());
            assert!(errors.is_empty(), "{} logged {errors:#?}", role.name);
        }
    }
}

impl Drop for Farm {
    #[expect(clippy::print_stderr, reason = "the test's own output, shown when it fails")]
    fn drop(&mut self) {
        for agent in &mut self.agents {
            agent.role.kill();
        }
        for door in &mut self.doors {
            door.role.kill();
        }
        processes::end_all(&self.mark);
        self.redis.kill();
        if std::thread::panicking() {
            let agents = self.agents.iter().map(|agent| &agent.role);
            for role in self.doors.iter().map(|door| &door.role).chain(agents) {
                eprintln!("---- last of {}'s log:\n{}", role.name, logs::tail(&role.log(), 40));
            }
            let kept = self.scratch.take().map(TempDir::keep);
            eprintln!("---- all of it is kept in {}", kept.unwrap_or_default().display());
        }
    }
}
