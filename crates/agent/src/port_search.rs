//! Names the processes that listen on ports that admission found taken, for the operator.
//!
//! A search reads every process of the machine. So it runs on the disk's threads, only after a bind test has failed, and at most once in
//! a while ([`PortConflicts::begin`](crate::port_conflicts::PortConflicts::begin)): a process that takes all ports must not make every
//! request cost a search. Each owner is named in the log once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::SpawnId;

use crate::node::Node;
use crate::port_conflicts::{Conflict, Listener, Owner, listeners};
use crate::procfs;
use crate::spawn::leftovers;
use crate::users::SpawnUsers;

/// How long a refusal waits for the owners' names.
const TIMEOUT: Duration = Duration::from_millis(500);
/// The log of a refusal names no more owners.
const MAX_EXPLAINED: usize = 3;

/// A search that is under way. Dropping it ends it, so that one that panics or never runs does not keep out the next.
struct Search(Arc<Node>);

impl Drop for Search {
    fn drop(&mut self) {
        self.0.port_conflicts.end();
    }
}

/// Looks for who has the ports that admission has just found taken; nothing waits for it.
pub(crate) fn start(node: &Arc<Node>) {
    let ports = node.table().ports_found_taken();
    if !ports.is_empty() && node.port_conflicts.begin() {
        let search = Search(Arc::clone(node));
        node.disk.logs.post(move || search.run(&ports)).ok();
    }
}

/// The same for a refusal because there is no port: says who has them, for the log.
pub(crate) async fn explain(node: &Arc<Node>) -> Option<String> {
    let ports = node.table().ports_found_taken();
    if !ports.is_empty() && node.port_conflicts.begin() {
        let search = Search(Arc::clone(node));
        // What takes longer is known to the next refusal.
        node.disk.logs.call(TIMEOUT, move || search.run(&ports)).await.ok();
    }
    let mut found = node.port_conflicts.found();
    found.sort_by_key(|found| std::cmp::Reverse(found.ports));
    let named = found.iter().take(MAX_EXPLAINED).map(|Conflict { owner, pid, ports }| match owner {
        Owner::Spawn(id) => format!("process {pid} of spawn {id} listens on {ports} that are not its own"),
        Owner::Process(_) => format!("process {pid} listens on {ports}"),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    (!named.is_empty()).then_some(named)
}

/// The spawn that a process belongs to, and the spawn's port, if it runs.
///
/// Where each spawn has a user of its own, the user decides: a process chooses its environment, and may join another's group.
fn spawn_of(node: &Node, pid: u32) -> (Option<SpawnId>, Option<u16>) {
    if let Some(SpawnUsers::Each(range)) = &node.config.spawn_users {
        let uid = procfs::uids(pid).map(|[real, ..]| real).filter(|uid| range.holds(*uid));
        let spawn = uid.and_then(|uid| node.table().spawn_of_user(uid));
        return (spawn.map(|(id, _)| id), spawn.map(|(_, port)| port));
    }
    let group = procfs::stat(pid).map_or(0, |stat| stat.group);
    match node.table().spawn_of_group(group) {
        Some((id, port)) => (Some(id), Some(port)),
        None => (procfs::variable(pid, leftovers::MARK).and_then(|id| id.parse().ok()), None),
    }
}

impl Search {
    /// Finds those that listen on these ports, and names those that were not named before. Blocks.
    fn run(self, ports: &[u16]) {
        let node = &self.0;
        let mut all: BTreeMap<Owner, Conflict> = BTreeMap::new();
        for Listener { port, pid } in listeners(ports) {
            let (spawn, own_port) = spawn_of(node, pid);
            if own_port == Some(port) {
                continue;
            }
            let owner = spawn.map_or(Owner::Process(pid), Owner::Spawn);
            all.entry(owner).or_insert(Conflict { owner, pid, ports: 0 }).ports += 1;
            if node.port_conflicts.is_news(owner) {
                match owner {
                    Owner::Spawn(id) => {
                        node.metrics.ports_of_others.inc();
                        tracing::warn!(spawn.id = %id, requestId = node.request_of(id), pid, port, "a spawn listens on a port that is not its own");
                    }
                    Owner::Process(pid) => {
                        tracing::warn!(
                            pid,
                            port,
                            "a process that is no spawn's listens on a port of --ports"
                        );
                    }
                }
            }
        }
        node.port_conflicts.set_found(all.into_values().collect());
    }
}
