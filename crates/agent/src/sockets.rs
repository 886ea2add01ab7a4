//! What the kernel says of TCP connections to the ports of spawns: that there is one, and how long ago data last came; and whose a
//! connection to a port of the agent is.
//!
//! It is asked by `sock_diag(7)`, which looks for the ports itself: a machine may have very many other connections. Where that is
//! forbidden (some sandboxes), `/proc/net/tcp` is read, which does not have when data came.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// A connection of which neither side has closed, by the port on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KernelConnection {
    pub(crate) port: u16,
    /// How long nothing has come from the other side; absent where the kernel does not say.
    pub(crate) silent: Option<Duration>,
}

/// The connections to these ports. Blocks while the kernel walks through all connections of the machine: some milliseconds.
pub(crate) fn connections(ports: RangeInclusive<u16>) -> Vec<KernelConnection> {
    ask_kernel(&ports).unwrap_or_else(|_| {
        let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
        tables
            .iter()
            .flat_map(|path| in_table(&fs::read_to_string(path).unwrap_or_default(), &ports))
            .collect()
    })
}

/// Whose the other end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A process of this user.
    User(u32),
    /// Nobody's any more, or one of another machine.
    Gone,
    /// The kernel does not say (some sandboxes).
    Unsaid,
}

/// Whose socket of this machine is connected from `from` to `to`. Takes the kernel a look into a table.
pub(crate) fn sender(from: SocketAddr, to: SocketAddr) -> Sender {
    let (Ok(socket), Some(request)) = (diagnosis(), exact_request(from, to)) else { return Sender::Unsaid };
    let mut buffer = vec![0; 4 << 10];
    let answered = send(&socket, &request, SendFlags::empty())
        .and_then(|_| recv(&socket, &mut buffer[..], RecvFlags::empty()));
    let Ok((read, _)) = answered else { return Sender::Unsaid };
    match message(&buffer[..read]) {
        Some((NLMSG_ERROR, error, _)) => {
            let errno = error.get(..4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
            if errno == Some(-Errno::NOENT.raw_os_error()) { Sender::Gone } else { Sender::Unsaid }
        }
        Some((_, message, _)) => user(message).map_or(Sender::Gone, Sender::User),
        None => Sender::Unsaid,
    }
}

/// The user in a message about a connection. One that its process has closed is nobody's: the kernel would say it is root's.
fn user(message: &[u8]) -> Option<u32> {
    let is_open = matches!(message.get(1), Some(&TCP_ESTABLISHED | &TCP_CLOSE_WAIT));
    let user = message.get(USER..USER + 4)?.try_into().ok().map(u32::from_ne_bytes)?;
    is_open.then_some(user)
}

/// A request for the one connection between two addresses: `struct inet_diag_req_v2`.
fn exact_request(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let (family, from_ip, to_ip) = match (from.ip().to_canonical(), to.ip().to_canonical()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let padded = |ip: Ipv4Addr| [&ip.octets()[..], &[0; 12]].concat();
            (AddressFamily::INET, padded(from), padded(to))
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            (AddressFamily::INET6, from.octets().to_vec(), to.octets().to_vec())
        }
        _ => return None,
    };
    let mut body = vec![u8::try_from(family.as_raw()).ok()?, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(from.port().to_be_bytes());
    body.extend(to.port().to_be_bytes());
    body.extend(from_ip);
    body.extend(to_ip);
    // Any interface, no cookie.
    body.extend([0; 4]);
    body.extend([0xff; 8]);
    let mut request = u32::try_from(HEADER + body.len()).ok()?.to_ne_bytes().to_vec();
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    Some(request)
}

/// `struct nlmsghdr` of netlink(7).
const HEADER: usize = 16;
/// `struct inet_diag_msg` of `linux/inet_diag.h`.
const MESSAGE: usize = 72;
/// The older request, which takes no family: the kernel walks through its connections once instead of once for each.
const TCPDIAG_GETSOCK: u16 = 18;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_REQUEST_DUMP: u16 = NLM_F_REQUEST | 0x300;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
const TCP_ESTABLISHED: u8 = 1;
const TCP_CLOSE_WAIT: u8 = 8;
/// Where `idiag_uid` stands in `struct inet_diag_msg`.
const USER: usize = 64;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bit of `TCP_ESTABLISHED`.
const ESTABLISHED: u32 = 1 << 1;
/// Attribute and bit of `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
/// Instructions of the kernel's filter: the own port is at least, at most.
const S_GE: u8 = 2;
const S_LE: u8 = 3;
/// Where `tcpi_last_data_recv` stands in `struct tcp_info`, in milliseconds.
const LAST_DATA_RECV: usize = 52;

fn diagnosis() -> io::Result<OwnedFd> {
    let protocol = Some(netlink::SOCK_DIAG);
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

fn ask_kernel(ports: &RangeInclusive<u16>) -> io::Result<Vec<KernelConnection>> {
    let socket = diagnosis()?;
    let mut found = Vec::new();
    send(&socket, &request(ports), SendFlags::empty())?;
    read_dump(&socket, &mut found)?;
    Ok(found)
}

/// A dump of the TCP connections, by IPv4 and IPv6, whose own port is in the range: `struct inet_diag_req` and a filter.
fn request(ports: &RangeInclusive<u16>) -> Vec<u8> {
    let mut body = vec![0, 0, 0, 1 << (INET_DIAG_INFO - 1)];
    // Any address.
    body.extend([0; 48]);
    body.extend(ESTABLISHED.to_ne_bytes());
    // No more than one page of the dump is asked for: all of them are.
    body.extend(0_u32.to_ne_bytes());
    // Each instruction: code, how far to go on when it is so, and when not: beyond the end, which refuses. The port follows.
    let instruction = |code: u8, otherwise: u16, port: u16| {
        let mut bytes = vec![code, 8];
        bytes.extend(otherwise.to_ne_bytes());
        bytes.extend([0, 0]);
        bytes.extend(port.to_ne_bytes());
        bytes
    };
    let filter =
        [instruction(S_GE, 8 + 8 + 4, *ports.start()), instruction(S_LE, 8 + 4, *ports.end())].concat();
    body.extend(u16::try_from(4 + filter.len()).unwrap_or_default().to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend(filter);
    let mut message = u32::try_from(HEADER + body.len()).unwrap_or_default().to_ne_bytes().to_vec();
    message.extend(TCPDIAG_GETSOCK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn read_dump(socket: &OwnedFd, found: &mut Vec<KernelConnection>) -> io::Result<()> {
    // The kernel's own size of such a message is half of it.
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (read, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..read];
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while let Some((kind, message, next)) = message(rest) {
            match kind {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => return Err(io::Error::other("the kernel does not list connections")),
                _ => found.extend(connection(message)),
            }
            rest = next;
        }
    }
}

/// The first message: its kind, what is in it, and what comes after it.
fn message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = usize::try_from(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, bytes.get(HEADER..length)?, next))
}

/// What a message says of a connection.
fn connection(message: &[u8]) -> Option<KernelConnection> {
    let port = u16::from_be_bytes(message.get(4..6)?.try_into().ok()?);
    let mut attributes = message.get(MESSAGE..)?;
    let mut silent = None;
    while let Some(length) =
        attributes.get(..2).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes)
    {
        let length = usize::from(length);
        let kind = u16::from_ne_bytes(attributes.get(2..4)?.try_into().ok()?);
        if kind == INET_DIAG_INFO
            && let Some(info) = attributes.get(4..length)
            && let Some(ago) = info.get(LAST_DATA_RECV..LAST_DATA_RECV + 4)
        {
            silent = ago.try_into().ok().map(u32::from_ne_bytes).map(|ms| Duration::from_millis(ms.into()));
        }
        attributes = attributes.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    Some(KernelConnection { port, silent })
}

/// The connections in a file like `/proc/net/tcp`.
fn in_table(table: &str, ports: &RangeInclusive<u16>) -> Vec<KernelConnection> {
    const ESTABLISHED: &str = "01";
    let line = |line: &str| {
        // number: LOCAL:PORT REMOTE:PORT STATE …
        let mut fields = line.split_ascii_whitespace().skip(1);
        let port = u16::from_str_radix(fields.next()?.rsplit_once(':')?.1, 16).ok()?;
        (ports.contains(&port) && fields.nth(1) == Some(ESTABLISHED))
            .then_some(KernelConnection { port, silent: None })
    };
    table.lines().skip(1).filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use tokio::time::Instant;

    use super::*;

    fn has_connection(port: u16) -> bool {
        !ask_kernel(&(port..=port)).unwrap().is_empty()
    }

    #[test]
    fn a_connection_is_known_until_one_side_closes_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(!has_connection(port), "one that listens has none");
            let viewer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert!(has_connection(port));
            let own = viewer.local_addr().unwrap().port();
            let all = connections(0..=u16::MAX);
            assert!(all.iter().any(|c| c.port == port) && all.iter().any(|c| c.port == own), "{all:?}");
            drop(viewer);
            assert!(!has_connection(port));
            drop(server);
        }
    }

    #[test]
    fn a_connection_is_its_users_until_the_process_closes_it() {
        let own = rustix::process::getuid().as_raw();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            let to = if address.starts_with("[::1]") { "::1" } else { "127.0.0.1" };
            let client = TcpStream::connect((to, port)).unwrap();
            let (server, peer) = listener.accept().unwrap();
            let of = || sender(peer, server.local_addr().unwrap());
            assert_eq!(of(), Sender::User(own), "{address}");
            drop(client);
            assert_eq!(of(), Sender::Gone, "{address}");
        }
        let nowhere = "127.0.0.1:1".parse().unwrap();
        assert_eq!(sender(nowhere, nowhere), Sender::Gone);
    }

    #[test]
    fn only_ports_in_the_range_are_listed_with_how_long_nothing_has_come() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let began = Instant::now();
        let mut viewer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let _server = listener.accept().unwrap();
        for (range, wanted) in [(port..=port, 1), (port..=u16::MAX, 1), (0..=port, 1), (0..=port - 1, 0)] {
            let found = connections(range.clone());
            assert_eq!(found.iter().filter(|c| c.port == port).count(), wanted, "{range:?}");
            assert!(found.iter().all(|c| range.contains(&c.port)), "{range:?}: {found:?}");
        }
        let silent = || ask_kernel(&(port..=port)).unwrap()[0].silent.unwrap();
        // The kernel counts in ticks of ten milliseconds, or fewer.
        while silent() < Duration::from_millis(300) {
            assert!(began.elapsed() < Duration::from_secs(20));
            std::thread::yield_now();
        }
        assert!(silent() <= began.elapsed() + Duration::from_millis(20));
        viewer.write_all(b"x").unwrap();
        while silent() > Duration::from_millis(200) {
            assert!(began.elapsed() < Duration::from_secs(20), "what came is noticed");
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        let all = 0..=u16::MAX;
        assert_eq!(in_table("header\ngarbage\n 0: x\n 1: 0100007F:1F90\n", &all), []);
        let line = "header\n 1: 0100007F:1F90 0100007F:0016 01 0:0 0:0 0 0 0 124 1 0\n";
        assert_eq!(in_table(line, &(0x1f90..=0x1f90)), [KernelConnection { port: 0x1f90, silent: None }]);
        assert_eq!(in_table(line, &(0..=0x16)), []);
    }

    #[test]
    fn messages_that_are_cut_off_end_the_reading() {
        let whole = [&20_u32.to_ne_bytes()[..], &3_u16.to_ne_bytes(), &[0; 14]].concat();
        assert!(message(&whole).is_some());
        for cut in 0..whole.len() {
            assert_eq!(message(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(connection(&[0; 40]), None);
    }
}
