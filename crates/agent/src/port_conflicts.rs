//! Processes that listen on ports of `--ports` that are not theirs: what is known of them, and how `/proc` shows it.
//!
//! A server that was taken over may take the ports of other spawns. Admission passes over a taken port; [`crate::port_search`] names the
//! process for the operator.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use tokio::time::Instant;

use crate::procfs;

/// How long a result counts. Until then no other search begins.
const FRESH_FOR: Duration = Duration::from_secs(5);
/// When more owners were named, all are forgotten.
const MAX_NAMED: usize = 4096;
/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// What is known of port conflicts.
#[derive(Debug, Default)]
pub(crate) struct PortConflicts(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    named: HashSet<Owner>,
    /// When the last search ended, and what it found.
    searched: Option<Instant>,
    found: Vec<Conflict>,
    /// A search is under way.
    searching: bool,
}

/// An owner, one of its processes, and how many of the ports in question it listens on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Conflict {
    pub(crate) owner: Owner,
    pub(crate) pid: u32,
    pub(crate) ports: usize,
}

/// What listens on a port that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Owner {
    Spawn(SpawnId),
    Process(u32),
}

/// A process that listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) pid: u32,
}

impl PortConflicts {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a search, unless one is under way or the last result still counts. Returns whether it began.
    pub(crate) fn begin(&self) -> bool {
        let mut known = self.lock();
        let begins = !known.searching && known.searched.is_none_or(|at| at.elapsed() >= FRESH_FOR);
        known.searching |= begins;
        begins
    }

    /// The search has ended, with a result or without one.
    pub(crate) fn end(&self) {
        let mut known = self.lock();
        known.searching = false;
        known.searched = Some(Instant::now());
    }

    /// The result of the last search that had one.
    pub(crate) fn found(&self) -> Vec<Conflict> {
        self.lock().found.clone()
    }

    pub(crate) fn set_found(&self, found: Vec<Conflict>) {
        self.lock().found = found;
    }

    /// Whether this owner is named for the first time.
    pub(crate) fn is_news(&self, owner: Owner) -> bool {
        let mut known = self.lock();
        if known.named.len() >= MAX_NAMED {
            known.named.clear();
        }
        known.named.insert(owner)
    }
}

/// The processes that listen on these ports, as far as the kernel shows this user.
pub(crate) fn listeners(ports: &[u16]) -> Vec<Listener> {
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
