//! Three views of one farm that must agree: the processes on the machine, the slots the nodes count, the spawns on record.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::farm::Farm;
use crate::http::Client;
use crate::processes;
use crate::wait::{Look, TIMEOUT, until};

/// States of a spawn that has a process.
const LIVE: [&str; 5] = ["launching", "ready", "suspect", "disconnected", "stopping"];

/// What runs where, by node.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Spawn ids, as the operating system knows them.
    pub processes: BTreeMap<String, BTreeSet<String>>,
    /// Spawn ids, as records have them.
    pub spawns: BTreeMap<String, BTreeSet<String>>,
    /// Used slots, as nodes count them.
    pub used: BTreeMap<String, u64>,
    /// Used GPU slots, as nodes count them; nodes that count none are left out.
    pub gpus: BTreeMap<String, u64>,
    /// GPU slots that processes were given.
    pub gpu_processes: BTreeMap<String, u64>,
    /// Processes that should not be there at all: offspring of a spawn that has gone, and what nobody reaped.
    pub orphans: Vec<String>,
}

impl Audit {
    /// How many spawns there are, where the views agree.
    pub fn total(&self) -> u64 {
        self.used.values().sum()
    }

    /// Slots that are taken for what no process runs yet, and GPU slots: what a front door that died had reserved.
    fn reserved(&self) -> Option<u64> {
        let none = BTreeSet::new();
        let running = |node| self.processes.get(node).unwrap_or(&none).len() as u64;
        let slots = self.used.iter().map(|(node, used)| used.checked_sub(running(node)));
        let gpus = self.gpus.iter().map(|(node, used)| {
            let running = self.gpu_processes.get(node).copied().unwrap_or_default();
            used.checked_sub(running).filter(|more| *more <= self.used[node] - running.min(self.used[node]))
        });
        gpus.sum::<Option<u64>>()?;
        slots.sum()
    }

    /// The same but for so many slots.
    fn agree_but(&self, reserved: u64) -> bool {
        self.orphans.is_empty()
            && self.processes == self.spawns
            && self.reserved().is_some_and(|found| found <= reserved)
    }

    fn is_empty_but(&self, reserved: u64) -> bool {
        self.agree_but(reserved) && self.processes.is_empty()
    }
}

/// All spawns on record, newest first, page by page.
pub async fn all_spawns(door: Client, filter: &str) -> Vec<Value> {
    try_all_spawns(door, filter).await.unwrap_or_else(|answer| panic!("{answer}"))
}

/// The same where a call may be refused.
async fn try_all_spawns(door: Client, filter: &str) -> Result<Vec<Value>, String> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = try_json(door, &format!("/v1/spawns?limit=100{filter}{cursor}")).await?;
        all.extend(
            page["spawns"].as_array().unwrap_or_else(|| panic!("no spawns in {page}")).iter().cloned(),
        );
        match &page["nextCursor"] {
            Value::String(next) => cursor = format!("&cursor={next}"),
            Value::Null => return Ok(all),
            other => panic!("nextCursor is {other}"),
        }
    }
}

/// On a busy machine Redis may be too slow for one call.
async fn try_json(door: Client, path: &str) -> Result<Value, String> {
    let answer = door.get(path).send().await;
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{path}: {answer:?}")) }
}

impl Farm {
    /// Waits until all views agree, through every front door that lives.
    pub async fn audit(&self) -> Audit {
        self.audit_but(0, TIMEOUT).await
    }

    /// All spawns on record, as soon as they can be had.
    pub async fn on_record(&self, door: Client) -> Vec<Value> {
        until("records can be read", TIMEOUT, async || match try_all_spawns(door, "").await {
            Ok(all) => Look::Ready(all),
            Err(answer) => Look::NotYet(answer),
        })
        .await
    }

    /// The same with another limit, and with so many slots that may be reserved for nothing.
    pub async fn audit_but(&self, reserved: u64, limit: Duration) -> Audit {
        until("processes, nodes and records agree", limit, async || {
            for door in self.doors.iter().filter(|door| !door.role.killed) {
                let audit = match self.look_around(door.http).await {
                    Ok(audit) => audit,
                    Err(answer) => return Look::NotYet(answer),
                };
                if !audit.agree_but(reserved) {
                    return Look::NotYet(format!("through {}: {audit:#?}", door.role.name));
                }
            }
            let door = self.doors.iter().find(|door| !door.role.killed).expect("a front door lives");
            match self.look_around(door.http).await {
                Ok(audit) if audit.agree_but(reserved) => Look::Ready(audit),
                other => Look::NotYet(format!("{other:#?}")),
            }
        })
        .await
    }

    /// Waits until nothing is left: no process, no slot, no GPU slot, no port, no record of something that runs.
    pub async fn assert_empty(&self) {
        self.assert_empty_but(0, TIMEOUT).await;
    }

    /// The same with another limit, and with so many slots that may be reserved for nothing.
    pub async fn assert_empty_but(&self, reserved: u64, limit: Duration) {
        until("nothing is left", limit, async || {
            for door in self.doors.iter().filter(|door| !door.role.killed) {
                let audit = match self.look_around(door.http).await {
                    Ok(audit) => audit,
                    Err(answer) => return Look::NotYet(answer),
                };
                if !audit.is_empty_but(reserved) {
                    return Look::NotYet(format!("through {}: {audit:#?}", door.role.name));
                }
            }
            for agent in self.agents.iter().filter(|agent| !agent.role.killed) {
                let metrics = agent.metrics().await;
                for gauge in ["hatchery_agent_slots_used", "hatchery_agent_ports_used"] {
                    match metrics.get(gauge) {
                        Some(0.0) => {}
                        other => return Look::NotYet(format!("{}: {gauge} is {other:?}", agent.node)),
                    }
                }
            }
            Look::Ready(())
        })
        .await;
    }

    async fn look_around(&self, door: Client) -> Result<Audit, String> {
        let mut audit = Audit::default();
        let spawns = try_all_spawns(door, "").await?;
        for spawn in spawns.iter().filter(|spawn| LIVE.iter().any(|state| spawn["state"] == *state)) {
            let text = |member: &str| spawn[member].as_str().expect("a word").to_owned();
            audit.spawns.entry(text("node")).or_default().insert(text("id"));
        }
        let nodes = try_json(door, "/v1/nodes").await?;
        for node in nodes["nodes"].as_array().into_iter().flatten() {
            let name = node["id"].as_str().expect("a name").to_owned();
            let gpus = node["gpus"].as_array().cloned().unwrap_or_default();
            if !gpus.is_empty() {
                let used = gpus.iter().map(|gpu| gpu["used"].as_u64().expect("a number")).sum();
                audit.gpus.insert(name.clone(), used);
            }
            audit.used.insert(name, node["slots"]["used"].as_u64().expect("a number"));
        }
        let processes = self.processes();
        for process in &processes {
            let agent = self.agents.iter().find(|agent| {
                let endpoint = process.option("--liveliness-endpoint");
                endpoint.is_some_and(|url| url.contains(&format!("{}/", agent.liveliness.addr)))
            });
            match (agent, process.option("--id")) {
                (Some(agent), Some(id)) => {
                    audit.processes.entry(agent.node.clone()).or_default().insert(id.to_owned());
                    if process.option("--ssr-gpu-index").is_some() {
                        *audit.gpu_processes.entry(agent.node.clone()).or_default() += 1;
                    }
                }
                _ if processes.iter().any(|leader| leader.pid == process.group) => {}
                _ => audit.orphans.push(format!("{} {:?}", process.pid, process.args)),
            }
        }
        for agent in self.agents.iter().filter(|agent| !agent.role.killed) {
            let unreaped = processes::zombies_of(agent.role.pid());
            audit.orphans.extend(unreaped.iter().map(|pid| format!("{pid}, a zombie of {}", agent.node)));
        }
        Ok(audit)
    }
}
