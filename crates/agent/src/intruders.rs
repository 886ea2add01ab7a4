//! Who listens on the ports that spawns should get. A server that was taken over may take the ports of others: admission passes over
//! a taken port, and this names the process, for whoever runs the node.
//!
//! It looks only when a bind test has failed, on the disk's threads. Each spawn, or other process, is named once.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use model::SpawnId;

use crate::node::Node;
use crate::procfs;
use crate::spawn::{Refusal, leftovers};

/// How long a refusal waits for the culprits' names.
const TIMEOUT: Duration = Duration::from_millis(500);
/// When more were named, all are forgotten.
const MAX_NAMED: usize = 4096;
/// Most culprits that a refusal names.
const MAX_EXPLAINED: usize = 3;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Who was named already.
#[derive(Debug, Default)]
pub(crate) struct Intruders(Mutex<HashSet<Culprit>>);

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

/// Looks for who has the ports that admission has just found taken; nothing waits for it.
pub(crate) fn look(node: &Arc<Node>) {
    let ports = node.table().ports_found_taken();
    if ports.is_empty() {
        return;
    }
    let shared = Arc::clone(node);
    node.disk.logs.post(move || drop(name(&shared, &ports))).ok();
}

/// The same for a refusal because there is no port, which then says who has them.
pub(crate) async fn explain(node: &Arc<Node>, refusal: Refusal) -> Refusal {
    let ports = node.table().ports_found_taken();
    let shared = Arc::clone(node);
    let found = node.disk.logs.call(TIMEOUT, move || name(&shared, &ports)).await.unwrap_or_default();
    if found.is_empty() {
        return refusal;
    }
    let mut by_number: Vec<(Culprit, (u32, usize))> = found.into_iter().collect();
    by_number.sort_by_key(|(_, (_, ports))| std::cmp::Reverse(*ports));
    let named: Vec<String> = by_number
        .iter()
        .take(MAX_EXPLAINED)
        .map(|(culprit, (pid, ports))| match culprit {
            Culprit::Spawn(id) => {
                format!("process {pid} of spawn {id} listens on {ports} that are not its own")
            }
            Culprit::Process(pid) => format!("process {pid} listens on {ports}"),
        })
        .collect();
    Refusal { detail: format!("{}: {}", refusal.detail, named.join(", ")), ..refusal }
}

/// Finds and logs those that listen on these ports; with a process and the number of ports of each. Blocks.
fn name(node: &Node, ports: &[u16]) -> BTreeMap<Culprit, (u32, usize)> {
    let mut culprits: BTreeMap<Culprit, (u32, usize)> = BTreeMap::new();
    for Listener { port, pid } in listeners(ports) {
        let group = procfs::stat(pid).map_or(0, |stat| stat.group);
        let own = node.table().spawn_of_group(group);
        let spawn = own.map(|(id, _)| id).or_else(|| procfs::variable(pid, leftovers::MARK)?.parse().ok());
        if own.is_some_and(|(_, own)| own == port) {
            continue;
        }
        let culprit = spawn.map_or(Culprit::Process(pid), Culprit::Spawn);
        culprits.entry(culprit).or_insert((pid, 0)).1 += 1;
        let mut named = node.intruders.0.lock().unwrap_or_else(PoisonError::into_inner);
        if named.len() >= MAX_NAMED {
            named.clear();
        }
        if !named.insert(culprit) {
            continue;
        }
        drop(named);
        match culprit {
            Culprit::Spawn(id) => {
                node.metrics.ports_of_others.inc();
                tracing::warn!(spawn.id = %id, pid, port, "a spawn listens on a port that is not its own");
            }
            Culprit::Process(pid) => {
                tracing::warn!(pid, port, "a process that is no spawn's listens on a port of --ports");
            }
        }
    }
    culprits
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
