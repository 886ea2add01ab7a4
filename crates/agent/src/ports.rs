//! Which port a spawn gets: the one that has rested longest, so that a viewer that comes late does not land on another
//! user's server (row 12 of `docs/operator/hoops-server.md`).

use std::collections::VecDeque;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};

/// Ports of the usual ranges that browsers refuse to connect to.
fn is_unsafe(port: u16) -> bool {
    matches!(
        port,
        0..=1023
            | 1719
            | 1720
            | 1723
            | 2049
            | 3659
            | 4045
            | 4190
            | 5060
            | 5061
            | 6000
            | 6566
            | 6665..=6669
            | 6679
            | 6697
            | 10080
    )
}

/// The ports of a range that a viewer can connect to.
pub(crate) fn usable(range: &RangeInclusive<u16>) -> impl Iterator<Item = u16> + use<> {
    range.clone().filter(|port| !is_unsafe(*port))
}

/// The free ports, the longest rested in front.
#[derive(Debug)]
pub(crate) struct Ports {
    free: VecDeque<u16>,
    used: usize,
    /// Taken over from an earlier agent, and not of this one's range: when they come back they are not given out.
    foreign: Vec<u16>,
    /// Whether nothing else listens on a port.
    is_free: fn(u16) -> bool,
}

impl Ports {
    pub(crate) fn new(range: &RangeInclusive<u16>) -> Self {
        Self { free: usable(range).collect(), used: 0, foreign: Vec::new(), is_free }
    }

    /// The ports of a machine that is not this one: nothing else has them.
    pub(crate) fn untested(self) -> Self {
        Self { is_free: |_| true, ..self }
    }

    /// Whether nothing else listens on it.
    pub(crate) fn test(&self) -> fn(u16) -> bool {
        self.is_free
    }

    /// Takes the first free port that `is_free` agrees with; those it does not agree with go to the back.
    pub(crate) fn take(&mut self, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
        for _ in 0..self.free.len() {
            let port = self.free.pop_front()?;
            if is_free(port) {
                self.used += 1;
                return Some(port);
            }
            self.free.push_back(port);
        }
        None
    }

    /// Takes a free port at random, for a spawn that has lost one: the process that took it may try the ports in the same order.
    pub(crate) fn take_any(&mut self, mut is_free: impl FnMut(u16) -> bool) -> Option<u16> {
        let len = self.free.len();
        let first = fastrand::usize(..len.max(1));
        let at = (0..len).map(|i| (first + i) % len).find(|at| is_free(self.free[*at]))?;
        self.used += 1;
        self.free.remove(at)
    }

    /// Takes this very port: a spawn of an earlier agent has it.
    pub(crate) fn claim(&mut self, port: u16) {
        let before = self.free.len();
        self.free.retain(|free| *free != port);
        if self.free.len() == before {
            self.foreign.push(port);
        }
        self.used += 1;
    }

    /// Gives back a port that was taken.
    pub(crate) fn give_back(&mut self, port: u16) {
        debug_assert!(!self.free.contains(&port), "port {port} was not taken");
        self.used = self.used.saturating_sub(1);
        match self.foreign.iter().position(|foreign| *foreign == port) {
            Some(at) => {
                self.foreign.swap_remove(at);
            }
            None => self.free.push_back(port),
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

/// Whether no socket listens on this port on any address, of IPv4 or IPv6: viewers may come by either. Without a descriptor to find out,
/// it is taken to be free: the start that follows says what the machine is out of.
pub(crate) fn is_free(port: u16) -> bool {
    is_free_on(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        && is_free_on(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
}

fn is_free_on(address: SocketAddr) -> bool {
    // A machine may have no IPv6.
    let Ok(socket) = socket(address) else { return true };
    matches!(bind_to(&socket, address), Ok(()) | Err(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT))
}

/// Binds to an address without listening there, and lets go of it: the error that listening there would give.
pub(crate) fn try_bind(address: SocketAddr) -> Result<(), Errno> {
    bind_to(&socket(address)?, address)
}

fn socket(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

fn bind_to(socket: &OwnedFd, address: SocketAddr) -> Result<(), Errno> {
    sockopt::set_socket_reuseaddr(socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(socket, true)?;
    }
    bind(socket, &address)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_rested_port_comes_first() {
        let mut ports = Ports::new(&(55000..=55002));
        assert_eq!(ports.take(|_| true), Some(55000));
        ports.give_back(55000);
        assert_eq!(ports.take(|_| true), Some(55001));
        assert_eq!(ports.take(|_| true), Some(55002));
        assert_eq!(ports.take(|_| true), Some(55000));
        assert_eq!(ports.take(|_| true), None);
        assert_eq!(ports.used(), 3);
    }

    #[test]
    fn ports_of_an_earlier_agent_are_not_given_out_and_come_back_only_if_they_are_ours() {
        let mut ports = Ports::new(&(55000..=55002));
        for port in [55001, 61000, 55001] {
            ports.claim(port);
        }
        assert_eq!(ports.used(), 3);
        assert_eq!(
            [ports.take(|_| true), ports.take(|_| true), ports.take(|_| true)],
            [Some(55000), Some(55002), None]
        );
        ports.give_back(61000);
        ports.give_back(55001);
        assert_eq!(ports.take(|_| true), None, "another spawn has it still");
        ports.give_back(55001);
        assert_eq!(ports.take(|_| true), Some(55001));
        assert_eq!(ports.used(), 3);
    }

    #[test]
    fn a_port_another_process_listens_on_is_passed_over_and_kept() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        assert!(!is_free(port));
        let mut ports = Ports::new(&(port..=port));
        assert_eq!(ports.take(is_free), None);
        drop(taken);
        // A process that another test has just forked may have it for a moment longer.
        let end = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while !is_free(port) && tokio::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert_eq!(ports.take(is_free), Some(port));
    }

    #[test]
    fn a_port_that_a_process_listens_on_by_ipv6_alone_is_not_free() {
        let Ok(socket) = socket_with(AddressFamily::INET6, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        else {
            return;
        };
        sockopt::set_ipv6_v6only(&socket, true).unwrap();
        if bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))).is_err() {
            return;
        }
        rustix::net::listen(&socket, 1).unwrap();
        let every = TcpListener::from(socket);
        let one = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        for listener in [every, one] {
            assert!(!is_free(listener.local_addr().unwrap().port()));
        }
    }

    #[test]
    fn ports_that_browsers_refuse_are_never_used() {
        assert_eq!(usable(&(6660..=6700)).count(), 41 - 7);
        assert_eq!(usable(&(1000..=1030)).count(), 7);
        assert_eq!(usable(&(10080..=10080)).count(), 0);
        assert_eq!(usable(&(55000..=55999)).count(), 1000);
    }

    proptest! {
        #[test]
        fn no_port_is_given_out_twice_and_none_gets_lost(steps in prop::collection::vec((any::<bool>(), any::<u8>()), 1..200)) {
            let mut ports = Ports::new(&(50000..=50015));
            let mut out: Vec<u16> = Vec::new();
            for (take, pick) in steps {
                if take {
                    let refused = 50000 + u16::from(pick % 16);
                    let some_are_free = (50000..=50015).any(|p| p != refused && !out.contains(&p));
                    let taken = match pick >= 128 {
                        true => ports.take(|p| p != refused),
                        false => ports.take_any(|p| p != refused),
                    };
                    prop_assert_eq!(taken.is_some(), some_are_free);
                    if let Some(port) = taken {
                        prop_assert_ne!(port, refused);
                        prop_assert!(!out.contains(&port));
                        out.push(port);
                    }
                } else if !out.is_empty() {
                    let port = out.swap_remove(usize::from(pick) % out.len());
                    ports.give_back(port);
                }
                prop_assert_eq!(ports.used(), out.len());
                let free: HashSet<u16> = ports.free.iter().copied().collect();
                prop_assert_eq!(free.len() + out.len(), 16);
            }
        }
    }
}
