//! One process group: starting it without a fork, seeing its end without polling, ending all of it.

use std::fs::File;
use std::future;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{
    Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, kill_process_group, pidfd_open, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::exit::Status;
use super::lifecycle::Signal;

/// A process that leads its own group. Dropping it leaves the process alone.
#[derive(Debug)]
pub(crate) struct Process {
    leader: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl Process {
    /// Starts `command` in a process group of its own, with its output appended to `output`.
    ///
    /// Nothing here may make the standard library fork instead of using `posix_spawn`: no `pre_exec`, no `uid`, no `gid`.
    pub(crate) fn start(mut command: Command, output: File) -> io::Result<Self> {
        let errors = output.try_clone()?;
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        // Not reaped before this process says so, hence the number is still its own.
        let watched = pidfd_open(leader, PidfdFlags::empty()).map_err(io::Error::from).and_then(watch);
        match watched {
            Ok(pidfd) => Ok(Self { leader, pidfd }),
            Err(error) => {
                end_unwatched(leader);
                Err(error)
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.leader.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// Waits until the leader has ended, ends what is left of its group, and says how it ended.
    ///
    /// May be dropped and called again. Once it has returned, the number may belong to somebody else.
    pub(crate) async fn ended(&self) -> Status {
        loop {
            let mut readable = match self.pidfd.readable().await {
                Ok(readable) => readable,
                Err(error) => {
                    tracing::error!(%error, pid = self.pid(), "failed to watch a process");
                    return future::pending().await;
                }
            };
            let fd = self.pidfd.get_ref().as_fd();
            let peek = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
            let status = match waitid(WaitId::PidFd(fd), peek) {
                Ok(Some(status)) => decode(&status),
                Ok(None) => {
                    readable.clear_ready();
                    continue;
                }
                // Not our child: it was adopted, and whoever is its parent has the status.
                Err(_) => Status::Unknown,
            };
            // As long as the leader is not reaped, its group's number cannot be anybody else's.
            self.signal(Signal::Kill);
            if status != Status::Unknown
                && let Err(error) = waitid(WaitId::PidFd(fd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)
            {
                tracing::error!(%error, pid = self.pid(), "failed to reap a process");
            }
            return status;
        }
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        match kill_process_group(self.leader, number) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                tracing::error!(%error, pid = self.pid(), ?signal, "failed to signal a process group")
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe, for descriptors that may be closed elsewhere; this one owns its own"
)]
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(pidfd, Interest::READABLE)
}

fn decode(status: &WaitIdStatus) -> Status {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Status::Code(code),
        (None, Some(signal)) => Status::Signal(signal),
        (None, None) => Status::Unknown,
    }
}

/// Ends a process that was started but cannot be watched: this machine is out of something.
fn end_unwatched(leader: Pid) {
    let killed = kill_process_group(leader, rustix::process::Signal::KILL);
    let reaped = waitid(WaitId::Pid(leader), WaitIdOptions::EXITED);
    if let Err(error) = killed.and(reaped) {
        tracing::error!(%error, pid = leader.as_raw_nonzero(), "failed to end a process that cannot be watched");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::test_kill_process;

    use super::*;

    fn start(script: &str, output: &File) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        Process::start(command, output.try_clone().unwrap()).unwrap()
    }

    async fn ended(process: &Process) -> Status {
        tokio::time::timeout(Duration::from_secs(10), process.ended()).await.unwrap()
    }

    #[tokio::test]
    async fn an_end_is_seen_and_says_how() {
        let output = tempfile::tempfile().unwrap();
        assert_eq!(ended(&start("exit 6", &output)).await, Status::Code(6));
        assert_eq!(ended(&start("kill -SEGV $$", &output)).await, Status::Signal(11));
        let process = start("sleep 600", &output);
        process.signal(Signal::Term);
        assert_eq!(ended(&process).await, Status::Signal(15));
    }

    #[tokio::test]
    async fn grandchildren_do_not_survive_their_leader() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let process = start("trap '' TERM; sleep 600 & echo $!; exit 0", &file.reopen().unwrap());
        assert_eq!(ended(&process).await, Status::Code(0));
        let pid: i32 = std::fs::read_to_string(file.path()).unwrap().trim().parse().unwrap();
        let gone = async {
            loop {
                let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
                // Whoever inherits it may take a while to reap it.
                if stat.is_empty() || stat.contains(") Z ") {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), gone).await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_left_to_reap() {
        let output = tempfile::tempfile().unwrap();
        let process = start("exit 0", &output);
        ended(&process).await;
        assert!(test_kill_process(process.leader).is_err());
    }

    #[tokio::test]
    async fn an_executable_that_is_not_there_is_an_error() {
        let output = tempfile::tempfile().unwrap();
        let error = Process::start(Command::new("/nonexistent/server"), output).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
