//! Many connections at once, from strangers.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{Mutex, MutexGuard};

/// Tests run in one process, whose open files are enough for one crowd.
static CROWDS: Mutex<()> = Mutex::const_new(());

/// As many open files as this process may have, for one test at a time.
///
/// # Panics
/// It may not have so many.
pub async fn allow_files(wanted: u64) -> MutexGuard<'static, ()> {
    let turn = CROWDS.lock().await;
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    assert!(most >= wanted, "the test needs {wanted} open files, and may have {most}");
    setrlimit(Resource::Nofile, Rlimit { current: Some(most), ..limit })
        .expect("up to the maximum it can be raised");
    turn
}

/// The head of a request for the live feed.
pub const UPGRADE: &str = "GET /v1/live HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A stranger from one of several addresses of this machine, who says this.
pub async fn stranger(door: SocketAddr, number: usize, words: String) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    let last = u8::try_from(2 + number % 8).ok()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0))).ok()?;
    let mut stream = socket.connect(door).await.ok()?;
    // One that was closed to make room may say so here.
    stream.write_all(words.as_bytes()).await.ok();
    Some(stream)
}
