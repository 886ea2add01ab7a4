//! Who listens on the ports that spawns should get. A server that was taken over may take the ports of others: admission passes over
//! a taken port, and this names the process, for whoever runs the node.
//!
//! It looks only when a bind test has failed, on the disk's threads, and not again for a while: a look takes all processes of the machine,
//! and whoever takes all ports must not make every request cost one. Each spawn, or other process, is named once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;

use crate::node::Node;
use crate::procfs;
use crate::spawn::leftovers;
use crate::spawn::users::SpawnUsers;

/// How long a refusal waits for the culprits' names.
const TIMEOUT: Duration = Duration::from_millis(500);
/// So long what was found counts, and nobody looks again.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// When more were named, all are forgotten.
const MAX_NAMED: usize = 4096;
/// Most culprits that the log of a refusal names.
const MAX_EXPLAINED: usize = 3;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What is known of them.
#[derive(Debug, Default)]
pub(crate) struct Intruders(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    named: HashSet<Culprit>,
    /// When the last look ended, and what it found.
    looked: Option<Instant>,
    found: Vec<Found>,
    /// A look is under way.
    looking: bool,
}

/// A culprit, one of its processes, and how many of the ports that were looked at it has.
#[derive(Debug, Clone, Copy)]
struct Found {
    culprit: Culprit,
    pid: u32,
    ports: usize,
}

/// Who has a port that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Culprit {
    Spawn(SpawnId),
    Process(u32),
}

/// One that listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    port: u16,
    pid: u32,
}

impl Intruders {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a look may begin, which it does then.
    fn begin(&self) -> bool {
        let mut known = self.lock();
        let begins = !known.looking && known.looked.is_none_or(|at| at.elapsed() >= FRESH_FOR);
        known.looking |= begins;
        begins
    }
}

/// A look that is under way, however it ends.
struct Look(Arc<Node>);

impl Drop for Look {
    fn drop(&mut self) {
        let mut known = self.0.intruders.lock();
        known.looking = false;
        known.looked = Some(Instant::now());
    }
}

/// Looks for who has the ports that admission has just found taken; nothing waits for it.
pub(crate) fn look(node: &Arc<Node>) {
    let ports = node.table().ports_found_taken();
    if !ports.is_empty() && node.intruders.begin() {
        let look = Look(Arc::clone(node));
        node.disk.logs.post(move || look.at(&ports)).ok();
    }
}

/// The same for a refusal because there is no port: says who has them, for the log.
pub(crate) async fn explain(node: &Arc<Node>) -> Option<String> {
    let ports = node.table().ports_found_taken();
    if !ports.is_empty() && node.intruders.begin() {
        let look = Look(Arc::clone(node));
        // What takes longer is known to the next refusal.
        node.disk.logs.call(TIMEOUT, move || look.at(&ports)).await.ok();
    }
    let mut found = node.intruders.lock().found.clone();
    found.sort_by_key(|found| std::cmp::Reverse(found.ports));
    let named = found.iter().take(MAX_EXPLAINED).map(|Found { culprit, pid, ports }| match culprit {
        Culprit::Spawn(id) => format!("process {pid} of spawn {id} listens on {ports} that are not its own"),
        Culprit::Process(_) => format!("process {pid} listens on {ports}"),
    });
    let named = named.collect::<Vec<_>>().join(", ");
    (!named.is_empty()).then_some(named)
}

/// The spawn that a process belongs to, and the spawn's port, if it runs.
///
/// Where each spawn has a user of its own, the user tells: a process chooses its environment, and may join another's group.
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

impl Look {
    /// Finds those that listen on these ports, and names those that were not named before. Blocks.
    fn at(self, ports: &[u16]) {
        let node = &self.0;
        let mut all: BTreeMap<Culprit, Found> = BTreeMap::new();
        for Listener { port, pid } in listeners(ports) {
            let (spawn, own_port) = spawn_of(node, pid);
            if own_port == Some(port) {
                continue;
            }
            let culprit = spawn.map_or(Culprit::Process(pid), Culprit::Spawn);
            all.entry(culprit).or_insert(Found { culprit, pid, ports: 0 }).ports += 1;
            if self.is_news(culprit) {
                match culprit {
                    Culprit::Spawn(id) => {
                        node.metrics.ports_of_others.inc();
                        tracing::warn!(spawn.id = %id, pid, port, "a spawn listens on a port that is not its own");
                    }
                    Culprit::Process(pid) => {
                        tracing::warn!(
                            pid,
                            port,
                            "a process that is no spawn's listens on a port of --ports"
                        );
                    }
                }
            }
        }
        node.intruders.lock().found = all.into_values().collect();
    }

    fn is_news(&self, culprit: Culprit) -> bool {
        let mut known = self.0.intruders.lock();
        if known.named.len() >= MAX_NAMED {
            known.named.clear();
        }
        known.named.insert(culprit)
    }
}

/// The processes that listen on these ports, as far as the kernel tells this user.
fn listeners(ports: &[u16]) -> Vec<Listener> {
    let wanted: HashSet<u16> = ports.iter().copied().collect();
    let sockets: HashMap<String, u16> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .flat_map(|path| listening(&fs::read_to_string(path).unwrap_or_default(), &wanted))
        .collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for pid in procfs::all() {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let port = fs::read_link(entry.path()).ok().and_then(|link| sockets.get(link.to_str()?).copied());
            if let Some(port) = port {
                found.push(Listener { port, pid });
            }
        }
    }
    found
}

/// The sockets of `/proc/net/tcp` that listen on these ports, as descriptors name them.
fn listening(table: &str, wanted: &HashSet<u16>) -> Vec<(String, u16)> {
    let socket = |line: &str| {
        // number: LOCAL:PORT REMOTE:PORT STATE queues timer retransmits uid timeout INODE …
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let port = u16::from_str_radix(fields.get(1)?.rsplit_once(':')?.1, 16).ok()?;
        let listens = *fields.get(3)? == LISTEN && wanted.contains(&port);
        listens.then(|| Some((format!("socket:[{}]", fields.get(9)?), port))).flatten()
    };
    table.lines().skip(1).filter_map(socket).collect()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener};

    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 123 1 0\n\
            1: 0100007F:1F90 0100007F:0016 01 00000000:00000000 00:00000000 00000000     0        0 124 1 0\n\
            2: 00000000:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 125 1 0\n\
            garbage\n";
        assert_eq!(listening(table, &HashSet::from([8080])), [("socket:[123]".to_owned(), 8080)]);
    }

    #[test]
    fn a_process_that_listens_is_found_on_both_families() {
        let four = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut sockets = vec![four];
        sockets.extend(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).ok());
        let ports: Vec<u16> = sockets.iter().map(|socket| socket.local_addr().unwrap().port()).collect();
        let mut found = listeners(&ports);
        found.retain(|listener| listener.pid == std::process::id());
        assert_eq!(found.len(), ports.len(), "{found:?}");
        drop(sockets);
        assert!(!listeners(&ports).iter().any(|listener| listener.pid == std::process::id()));
    }
}
