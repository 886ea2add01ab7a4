//! Binds the agent's own ports, also where a server has taken one while no agent ran.
//!
//! Servers outlive their agent, and a port that nobody listens on is anybody's. A process of a spawn's user that listens on a port of the
//! agent keeps the agent from starting, and on the liveliness port it hears what other servers report. It has no business there, so
//! it is ended, and with it whatever else its spawn's user runs, where that user has no other spawn. A process of any other user
//! is left alone and named in the error.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::disk::Disk;
use crate::port_conflicts::listeners;
use crate::procfs;
use crate::spawn::predecessor;
use crate::start_error::StartError;
use crate::users::SpawnUsers;

/// How long processes are looked for and ended until the port is free.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(20);

/// Listens on a port of the agent. `users`: all who spawns run as, where that is not who the agent runs as.
pub(crate) async fn bind(
    flag: &'static str,
    addr: SocketAddr,
    users: Option<&SpawnUsers>,
    disk: &Disk,
) -> Result<TcpListener, StartError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let source = match TcpListener::bind(addr).await {
            Ok(listener) => return Ok(listener),
            Err(error) => error,
        };
        let is_taken = source.kind() == io::ErrorKind::AddrInUse;
        let failed = |holder| StartError::Bind { flag, addr, holder, source };
        if !is_taken || Instant::now() >= deadline {
            return Err(failed(None));
        }
        let users = users.cloned();
        // Without an answer in time, as without /proc, nobody is known.
        let left = deadline.saturating_duration_since(Instant::now());
        let look = disk.starts.call(left, move || clear(flag, addr, users.as_ref())).await;
        match look.unwrap_or(Cleared::Nobody) {
            Cleared::Somewhat => sleep(PAUSE).await,
            Cleared::Nobody => return Err(failed(None)),
            Cleared::Other(holder) => return Err(failed(Some(holder))),
        }
    }
}

/// What became of those that listen on a port.
enum Cleared {
    /// Some were ended.
    Somewhat,
    /// None was found.
    Nobody,
    /// A process that is no server's, as an error names it.
    Other(String),
}

/// Ends processes of spawns that listen on the port. Blocks.
fn clear(flag: &'static str, addr: SocketAddr, users: Option<&SpawnUsers>) -> Cleared {
    let mut cleared = Cleared::Nobody;
    for holder in listeners(&[addr.port()]) {
        let Some([uid, ..]) = procfs::uids(holder.pid) else { continue };
        let of_spawns = users.filter(|users| uid != 0 && users.holds(uid));
        let Some(users) = of_spawns else {
            let program = procfs::arguments(holder.pid).into_iter().next().unwrap_or_default();
            return Cleared::Other(format!("process {} of user {uid} ({program})", holder.pid));
        };
        tracing::warn!(
            pid = holder.pid,
            uid,
            flag,
            %addr,
            "a spawn's process listens on a port of this agent, which it took while no agent ran; it is ended"
        );
        let ended = match users {
            SpawnUsers::Each(range) => predecessor::end_processes(range.ids(uid)).is_ok(),
            SpawnUsers::One(_) => predecessor::end_process(holder.pid, uid),
        };
        if ended {
            cleared = Cleared::Somewhat;
        }
    }
    cleared
}
