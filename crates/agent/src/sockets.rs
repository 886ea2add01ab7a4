//! What the kernel says of TCP connections: `/proc/net/tcp` and `/proc/net/tcp6`.

use std::fs;

/// A connection of which neither side has closed.
const ESTABLISHED: &str = "01";

/// Whether somebody is connected to this port of this machine. Blocks.
pub(crate) fn has_connection(port: u16) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .any(|path| is_in(&fs::read_to_string(path).unwrap_or_default(), port))
}

fn is_in(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        // number: LOCAL:PORT REMOTE:PORT STATE …
        let mut fields = line.split_ascii_whitespace().skip(1);
        let local = fields.next().and_then(|local| u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok());
        local == Some(port) && fields.nth(1) == Some(ESTABLISHED)
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_connection_is_known_until_one_side_closes_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert!(!has_connection(port), "one that listens has none");
            let viewer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            assert!(has_connection(port));
            drop(viewer);
            assert!(!has_connection(port));
            drop(server);
        }
    }

    #[test]
    fn lines_that_are_none_are_passed_over() {
        assert!(!is_in("header\ngarbage\n 0: x\n 1: 0100007F:1F90\n", 0x1f90));
        let line = "header\n 1: 0100007F:1F90 0100007F:0016 01 0:0 0:0 0 0 0 124 1 0\n";
        assert!(is_in(line, 0x1f90) && !is_in(line, 0x16));
    }
}
