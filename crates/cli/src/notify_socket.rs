//! What a role reports to the service manager that started it, by the protocol of `sd_notify(3)`.
//!
//! ```text
//! listens ──▶ READY=1 with the first readiness, or READY_WAIT after it listens ──▶ STATUS= when it changes ──▶ STOPPING=1
//!    └──▶ WATCHDOG=1 at half of WATCHDOG_USEC, from a task of the runtime that serves, until the process ends
//! ```
//!
//! A role whose registry is away is not ready, and a restart would not bring the registry back. So `READY=1` does not wait for it longer than
//! [`READY_WAIT`]: the status says what is missing.
//!
//! The watchdog's task runs on the runtime that does the role's work. When no thread of that runtime runs tasks any more, reports stop, and the
//! service manager restarts the role.
//!
//! The crate `sd-notify` sends on a blocking socket, which would stop a thread of the runtime while the service manager is busy. Here a report that
//! finds no room waits as a task. Where `NOTIFY_SOCKET` is not set, nothing happens. A report that fails is logged, and the role goes on.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram as Socket};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

/// How long `READY=1` waits for readiness once the role listens.
const READY_WAIT: Duration = Duration::from_secs(10);
/// Between two looks at the readiness of a role that was never ready, and of one that was.
const FIRST_LOOKS: Duration = Duration::from_millis(250);
const LOOKS: Duration = Duration::from_secs(5);
/// The longest status: it is one line of `systemctl status`.
const MAX_STATUS: usize = 200;

/// The way to the service manager. Cloning is cheap.
#[derive(Debug, Clone, Default)]
pub(crate) struct NotifySocket {
    /// `None`: no service manager wants reports.
    socket: Option<Arc<UnixDatagram>>,
}

impl NotifySocket {
    /// The one that the environment names. Starts to report that the runtime runs, if that is wanted. Call it on the runtime that is to
    /// serve the role.
    pub(crate) fn from_environment() -> Self {
        let Some(name) = env::var_os("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let socket = match Self::connected(&name) {
            Ok(socket) => socket,
            Err(error) => {
                warn!(%error, socket = %name.display(), "NOTIFY_SOCKET cannot be used: nothing is reported to the service manager");
                return Self::default();
            }
        };
        let variable = |name| env::var(name).ok();
        if let Some(timeout) = watchdog(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), process::id()) {
            info!(
                timeout_seconds = timeout.as_secs_f64(),
                "reporting to the watchdog of the service manager"
            );
            socket.keep_watchdog(timeout);
        }
        socket
    }

    fn connected(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "expected a path, or @ and a name")),
        };
        let socket = Socket::unbound()?;
        socket.connect_addr(&address)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Some(Arc::new(UnixDatagram::from_std(socket)?)) })
    }

    /// Reports at half of the timeout that the runtime runs, for as long as it does.
    fn keep_watchdog(&self, timeout: Duration) {
        let socket = self.clone();
        tokio::spawn(async move {
            let mut ticks = interval(timeout / 2);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                socket.send("WATCHDOG=1").await;
            }
        });
    }

    /// Reports the readiness of a role that listens, and every change of it. `Ok` is a status with which it serves.
    pub(crate) async fn follow(&self, look: impl AsyncFn() -> Result<String, String>) -> Infallible {
        let (since, mut reported, mut last) = (Instant::now(), false, String::new());
        loop {
            if self.socket.is_none() {
                return std::future::pending().await;
            }
            let looked = look().await;
            let ready = looked.is_ok() || since.elapsed() >= READY_WAIT;
            let status = looked.unwrap_or_else(|why| format!("not ready: {why}"));
            if status != last || (ready && !reported) {
                let ready = if ready && !reported { "READY=1\n" } else { "" };
                self.send(&format!("{ready}STATUS={}", one_line(&status))).await;
                last = status;
            }
            reported |= ready;
            sleep(if reported { LOOKS } else { FIRST_LOOKS }).await;
        }
    }

    /// Reports that the role is ending.
    pub(crate) async fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\nSTATUS={}", one_line(status))).await;
    }

    async fn send(&self, report: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.send(report.as_bytes()).await {
            warn!(%error, report, "the service manager did not take a report");
        }
    }
}

/// A status is one line: what comes after would be further variables.
fn one_line(status: &str) -> String {
    status.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_STATUS).collect()
}

/// The timeout of the service manager's watchdog, if it is meant for this process.
fn watchdog(microseconds: Option<String>, process: Option<String>, own: u32) -> Option<Duration> {
    let timeout = microseconds?.parse().ok().filter(|microseconds| *microseconds > 1)?;
    let meant = process.is_none_or(|process| process.parse() == Ok(own));
    meant.then(|| Duration::from_micros(timeout))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_watchdog_for_another_process_or_without_a_timeout_is_none() {
        let some = |text: &str| Some(text.to_owned());
        let second = Some(Duration::from_secs(1));
        for (microseconds, process, expected) in [
            (some("1000000"), None, second),
            (some("1000000"), some("7"), second),
            (some("1000000"), some("8"), None),
            (some("1000000"), some("x"), None),
            (some("0"), None, None),
            (some("-1"), None, None),
            (None, some("7"), None),
        ] {
            assert_eq!(
                watchdog(microseconds.clone(), process.clone(), 7),
                expected,
                "{microseconds:?} {process:?}"
            );
        }
    }

    #[test]
    fn a_status_is_one_line() {
        assert_eq!(one_line("not ready: a\nREADY=1"), "not ready: a READY=1");
        assert_eq!(one_line(&"é".repeat(1000)).chars().count(), MAX_STATUS);
    }

    #[test]
    fn a_runtime_that_runs_no_tasks_reports_nothing_to_the_watchdog() {
        const TIMEOUT: Duration = Duration::from_millis(20);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let receiver = Socket::bind(&path).unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let mut report = [0; 64];
        runtime.block_on(async { NotifySocket::connected(path.as_os_str()).unwrap().keep_watchdog(TIMEOUT) });
        for _ in 0..3 {
            let length = receiver.recv(&mut report).unwrap();
            assert_eq!(&report[..length], b"WATCHDOG=1");
        }
        let (stuck, is_stuck) = mpsc::channel();
        let (free, is_free) = mpsc::channel::<()>();
        runtime.spawn(async move {
            stuck.send(()).unwrap();
            is_free.recv().ok();
        });
        is_stuck.recv().unwrap();
        // What was sent before.
        receiver.set_nonblocking(true).unwrap();
        while receiver.recv(&mut report).is_ok() {}
        receiver.set_nonblocking(false).unwrap();
        receiver.set_read_timeout(Some(TIMEOUT * 10)).unwrap();
        assert!(receiver.recv(&mut report).is_err(), "a stuck runtime reports");
        drop(free);
        receiver.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(receiver.recv(&mut report).unwrap(), b"WATCHDOG=1".len());
    }
}
