//! The queue of connections that the kernel has made and that are not accepted yet.
//!
//! When a front door ends, all its callers connect to the next one at the same moment: a thousand dashboards within some milliseconds. A
//! connection that finds the queue full is not refused but dropped, so its caller tries again after a second and more, and the kernel may
//! reset it after it has sent its request. The queue of 128 that listeners have by default is too short for that.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// Connections in the queue at the most; the kernel's own limit (`net.core.somaxconn`, 4096 by default) holds besides.
const BACKLOG: u32 = 4096;

/// Listens on this address.
///
/// # Errors
/// The address is taken, or is not one of this machine.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    // Connections of the process before this one may still be there.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpStream};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_crowd_that_connects_at_once_waits_to_be_accepted() {
        const CROWD: usize = 300;
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        // Nothing is accepted meanwhile.
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(3));
        let crowd: Vec<TcpStream> =
            (0..CROWD).map(|n| connect().unwrap_or_else(|e| panic!("connection {n}: {e}"))).collect();
        assert_eq!(crowd.len(), CROWD);
    }
}
