//! One process group of this machine: starting it without a fork or taking it over, seeing its end without polling, ending all of it.

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

use crate::spawn::cgroup::Group;
use crate::spawn::exit::Status;
use crate::spawn::lifecycle::Signal;
use crate::spawn::limits;
use crate::{procfs, reaper};

/// A process that leads its own group. Dropping it leaves the process alone.
#[derive(Debug)]
pub(crate) struct KernelProcess {
    leader: Pid,
    pidfd: AsyncFd<OwnedFd>,
    /// Of a process that was taken over: when it was started. Others reap it, so its number may become another process's.
    adopted: Option<u64>,
    group: Option<Group>,
}

impl KernelProcess {
    /// Starts `command` in a process group of its own, with its output appended to `output`.
    ///
    /// Nothing here may make the standard library fork instead of using `posix_spawn`: no `pre_exec`, and no `uid` or `gid` but
    /// where another user was asked for.
    pub(crate) fn start(mut command: Command, output: File, group: Option<Group>) -> io::Result<Self> {
        let errors = output.try_clone()?;
        let starting = reaper::Starting::announce();
        let child = command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0).spawn()?;
        let leader = Pid::from_child(&child);
        starting.started(child.id());
        limits::give_back(leader);
        // Not reaped before this process says so, hence the number is still its own.
        let watched = pidfd_open(leader, PidfdFlags::empty()).map_err(io::Error::from).and_then(watch);
        match watched {
            Ok(pidfd) => Ok(Self { leader, pidfd, adopted: None, group }),
            Err(error) => {
                end_unwatched(leader);
                Err(error)
            }
        }
    }

    /// Takes over a process that an earlier agent started at `start`; `None` when it is gone.
    pub(crate) fn adopt(pid: u32, start: u64) -> io::Result<Option<Self>> {
        let Some(leader) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
        let pidfd = match pidfd_open(leader, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Only now that its number is held can it be seen whose it is.
        match procfs::stat(pid) {
            Some(stat) if stat.start == start && !stat.has_ended() => {
                Ok(Some(Self { leader, pidfd: watch(pidfd)?, adopted: Some(start), group: None }))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// The same in this control group.
    pub(crate) fn within(self, group: Option<Group>) -> Self {
        Self { group, ..self }
    }

    pub(crate) fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    pub(crate) fn pid(&self) -> u32 {
        u32::try_from(self.leader.as_raw_nonzero().get()).unwrap_or(0)
    }

    /// When it was started, as the kernel counts.
    pub(crate) fn start_time(&self) -> u64 {
        self.adopted.or_else(|| Some(procfs::stat(self.pid())?.start)).unwrap_or(0)
    }

    /// Waits until the leader has ended, ends what is left of its group, and says how it ended.
    ///
    /// May be dropped and called again. Once it has returned, the number may belong to another process.
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
                // Not our child: it was adopted, and its parent has the status.
                Err(_) => Status::Unknown,
            };
            // As long as the leader is not reaped, or others are in its group, its number cannot be anybody else's.
            self.signal(Signal::Kill);
            // Nor is anybody left who has made a process group of their own.
            if let Some(group) = &self.group {
                group.kill();
            }
            if status != Status::Unknown {
                if let Err(error) = waitid(WaitId::PidFd(fd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                    tracing::error!(%error, pid = self.pid(), "failed to reap a process");
                }
                reaper::reaped(self.pid());
            }
            return status;
        }
    }

    /// Whether the number belongs to another process by now, which it cannot as long as anybody is left of the group.
    fn is_strangers(&self) -> bool {
        let Some(start) = self.adopted else { return false };
        procfs::stat(self.pid()).is_some_and(|stat| stat.start != start)
    }

    /// Sends a signal to the whole group.
    pub(crate) fn signal(&self, signal: Signal) {
        let number = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        if self.is_strangers() {
            return;
        }
        match kill_process_group(self.leader, number) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => {}
            Err(error) => {
                tracing::error!(%error, pid = self.pid(), signal = signal.word(), "failed to signal a process group")
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
    reaper::reaped(u32::try_from(leader.as_raw_nonzero().get()).unwrap_or(0));
    if let Err(error) = killed.and(reaped) {
        tracing::error!(%error, pid = leader.as_raw_nonzero(), "failed to end a process that cannot be watched");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::test_kill_process;

    use super::*;

    fn start(script: &str, output: &File) -> KernelProcess {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        KernelProcess::start(command, output.try_clone().unwrap(), None).unwrap()
    }

    async fn ended(process: &KernelProcess) -> Status {
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
                // The process that inherits it may take a while to reap it.
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
    async fn a_process_is_taken_over_only_if_it_is_the_one() {
        let output = tempfile::tempfile().unwrap();
        let process = start("sleep 600", &output);
        let pid = process.pid();
        let since = procfs::stat(pid).unwrap().start;
        assert!(KernelProcess::adopt(pid, since + 1).unwrap().is_none());
        let adopted = KernelProcess::adopt(pid, since).unwrap().unwrap();
        drop(process);
        adopted.signal(Signal::Term);
        assert_eq!(ended(&adopted).await, Status::Signal(15), "it is a child of this very process");
        assert!(KernelProcess::adopt(pid, since).unwrap().is_none());
        assert!(KernelProcess::adopt(0, 0).unwrap().is_none());
    }

    #[tokio::test]
    async fn the_end_of_a_child_of_another_is_seen_without_its_status() {
        let file = tempfile::NamedTempFile::new().unwrap();
        // In a session of its own, and so in a group of its own.
        let parent = start("setsid sleep 600 & echo $!; wait; sleep 600", &file.reopen().unwrap());
        let pid = loop {
            let text = std::fs::read_to_string(file.path()).unwrap();
            let pid: Option<u32> = text.trim().parse().ok();
            if let Some(pid) = pid.filter(|pid| procfs::stat(*pid).is_some_and(|stat| stat.group == *pid)) {
                break pid;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let since = procfs::stat(pid).unwrap().start;
        let adopted = KernelProcess::adopt(pid, since).unwrap().unwrap();
        adopted.signal(Signal::Kill);
        assert_eq!(ended(&adopted).await, Status::Unknown);
        parent.signal(Signal::Kill);
        ended(&parent).await;
    }

    #[tokio::test]
    async fn an_executable_that_is_not_there_is_an_error() {
        let output = tempfile::tempfile().unwrap();
        let error = KernelProcess::start(Command::new("/nonexistent/server"), output, None).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
