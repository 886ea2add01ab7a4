//! Ports: those of spawns and the agent's own, who has them, and whether the kernel hands them out by itself.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::ops::RangeInclusive;

use model::{Finding, Level};
use rustix::io::Errno;

use crate::config::Config;
use crate::port_conflicts::listeners;
use crate::ports::{is_free, try_bind, usable};
use crate::procfs;
use crate::sockets::connections;
use crate::spawn::leftovers::MARK;

/// So many processes are named.
const MAX_NAMED: usize = 3;

/// Who has a port that is not a spawn's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Holder {
    Listener(u32),
    /// A connection from this machine to somewhere, for which the kernel has chosen the port.
    Outgoing,
    Unseen,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(pid) => f.write_str(&named(*pid)),
            Self::Outgoing => f.write_str("outgoing connections"),
            Self::Unseen => f.write_str("processes that this user cannot see"),
        }
    }
}

/// Whether there is a port for each slot.
pub(super) fn of_spawns(config: &Config) -> Vec<Finding> {
    let (first, last) = (config.ports.start(), config.ports.end());
    let all: Vec<u16> = usable(&config.ports).collect();
    let taken: Vec<u16> = all.iter().copied().filter(|port| !is_free(*port)).collect();
    let listening = listeners(&taken);
    let connected: HashSet<u16> =
        connections(config.ports.clone()).into_iter().map(|connection| connection.port).collect();
    let mut holders: BTreeMap<Holder, usize> = BTreeMap::new();
    let mut of_spawns = 0;
    for port in &taken {
        let mut pids = listening.iter().filter(|found| found.port == *port).map(|found| found.pid).peekable();
        let holder = match pids.peek() {
            Some(pid) => Holder::Listener(*pid),
            None if connected.contains(port) => Holder::Outgoing,
            None => Holder::Unseen,
        };
        if pids.any(|pid| is_spawn(config, pid)) {
            of_spawns += 1;
        } else {
            *holders.entry(holder).or_default() += 1;
        }
    }
    let usable = all.len() - holders.values().sum::<usize>();
    if holders.is_empty() {
        let with =
            if of_spawns > 0 { format!(", {of_spawns} of them used by spawns") } else { String::new() };
        return vec![Finding::ok("ports", format!("{usable} ports of {first}-{last} can be used{with}"))];
    }
    let who: Vec<String> =
        holders.iter().take(MAX_NAMED).map(|(holder, ports)| format!("{ports} by {holder}")).collect();
    let level = if usable < usize::try_from(config.slots).unwrap_or(usize::MAX) {
        Level::Problem
    } else {
        Level::Warning
    };
    let left = if usable == 1 { "1 port is".to_owned() } else { format!("{usable} ports are") };
    vec![Finding::bad(
        "ports",
        level,
        format!(
            "of {first}-{last} (--ports) are taken {}; {left} left for {} slots",
            who.join(", "),
            config.slots
        ),
        "a spawn gets a port that nothing else uses, over IPv4 and IPv6; without one it is refused",
        "end what has them, or choose other ports with --ports",
    )]
}

/// Whether a process belongs to a spawn of this machine.
fn is_spawn(config: &Config, pid: u32) -> bool {
    let of_user = || {
        let user = procfs::uids(pid).map(|[real, ..]| real);
        config.spawn_users.as_ref().zip(user).is_some_and(|(users, user)| users.holds(user))
    };
    procfs::variable(pid, MARK).is_some() || of_user()
}

/// A process by its number and name; 0 stands for one that this user cannot see.
fn named(pid: u32) -> String {
    if pid == 0 {
        return "a process that this user cannot see".to_owned();
    }
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    match name.trim() {
        "" => format!("process {pid}"),
        name => format!("process {pid} ({name})"),
    }
}

fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// The agent's own ports: free, or an agent's that runs already.
pub(super) fn of_agent(config: &Config) -> Vec<Finding> {
    let own = [
        ("--listen", config.listen),
        ("--admin-listen", config.admin_listen),
        ("--liveliness-listen", config.liveliness_listen),
    ];
    own.into_iter().map(|(flag, address)| own_port(flag, address)).collect()
}

fn own_port(flag: &str, address: SocketAddr) -> Finding {
    const WHY: &str = "the agent does not start without its ports";
    if address.port() == 0 {
        return Finding::ok("listen", format!("{flag} takes any port"));
    }
    match try_bind(address) {
        Ok(()) => Finding::ok("listen", format!("{address} ({flag}) is free")),
        Err(Errno::ADDRINUSE) => {
            let pid = listeners(&[address.port()]).first().map_or(0, |found| found.pid);
            if is_agent(pid) {
                return Finding::ok(
                    "listen",
                    format!("{address} ({flag}) is that of the agent that runs, process {pid}"),
                );
            }
            Finding::problem(
                "listen",
                format!("{address} ({flag}) is taken by {}", named(pid)),
                WHY,
                format!("end that process, or give {flag} another port"),
            )
        }
        Err(error) => Finding::problem(
            "listen",
            format!("{address} ({flag}) cannot be had: {}", std::io::Error::from(error)),
            WHY,
            format!("give {flag} an address of this machine and a port that its user may listen on"),
        ),
    }
}

/// Whether this is `hatchery agent`.
fn is_agent(pid: u32) -> bool {
    procfs::arguments(pid).first().is_some_and(|word| word == "agent")
}

/// Whether the kernel may give a port of the node to whatever connects somewhere.
pub(super) fn not_ephemeral(config: &Config) -> Vec<Finding> {
    let read = |name: &str| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")).unwrap_or_default();
    let Some(ephemeral) = range(&read("ip_local_port_range")) else { return Vec::new() };
    let kept = read("ip_local_reserved_ports");
    let reserved = ranges(&kept);
    let own = [config.listen, config.admin_listen, config.liveliness_listen].map(|address| address.port());
    let all = usable(&config.ports).chain(own);
    let open = all
        .filter(|port| ephemeral.contains(port) && !reserved.iter().any(|range| range.contains(port)))
        .count();
    let (first, last) = (ephemeral.start(), ephemeral.end());
    if open == 0 {
        return vec![Finding::ok(
            "ephemeral-ports",
            format!("no port of this node is one that the kernel hands out ({first}-{last})"),
        )];
    }
    vec![Finding::warning(
        "ephemeral-ports",
        format!(
            "the kernel may give {} of this node to outgoing connections ({first}-{last})",
            count(open, "port")
        ),
        "a spawn then finds its port taken and starts late on another, and an agent that is restarted may not get its own",
        format!(
            "sysctl -w net.ipv4.ip_local_reserved_ports={}, for good in /etc/sysctl.d (deploy/systemd/sysctl.conf), or choose ports outside",
            to_reserve(&kept, &config.ports, own)
        ),
    )]
}

/// The list for the kernel: the ports that it keeps already, since a new list takes the place of the old one, and those of the node. Port 0
/// stands for any.
fn to_reserve(kept: &str, ports: &RangeInclusive<u16>, own: [u16; 3]) -> String {
    let spawns = format!("{}-{}", ports.start(), ports.end());
    let own = own.into_iter().filter(|port| *port != 0).map(|port| port.to_string());
    let mut all: Vec<String> =
        kept.trim().split(',').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    for part in [spawns].into_iter().chain(own) {
        if !all.contains(&part) {
            all.push(part);
        }
    }
    all.join(",")
}

/// `FIRST LAST`, as the kernel writes it.
fn range(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_ascii_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

/// `1,5-9`, as the kernel writes it.
fn ranges(text: &str) -> Vec<RangeInclusive<u16>> {
    let one = |part: &str| {
        let (first, last) = part.trim().split_once('-').unwrap_or((part.trim(), part.trim()));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    text.split(',').filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_ranges_are_read_as_it_writes_them() {
        assert_eq!(range("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(range(""), None);
        assert_eq!(ranges("7070-7071,9070,55000-55999\n"), [7070..=7071, 9070..=9070, 55_000..=55_999]);
        assert_eq!(ranges("\n"), []);
    }
    #[test]
    fn the_ports_that_the_kernel_keeps_already_stay_so() {
        let own = [7070, 0, 7071];
        assert_eq!(to_reserve("\n", &(55_000..=55_999), own), "55000-55999,7070,7071");
        assert_eq!(
            to_reserve("7070,8125-8126\n", &(55_000..=55_999), own),
            "7070,8125-8126,55000-55999,7071"
        );
    }
}
