//! The limits that a server is given right after its start.
//!
//! **The size of its files** (`--spawn-file-size`): no write gets beyond it, whatever the agent is doing at that moment, so a server that
//! floods its output takes no more of the disk than that. Servers inherit from the agent that they ignore `SIGXFSZ`: the write fails, and
//! the server lives. One that gets a control group is limited before it is the server (`super::launch`); the others take the same permission as
//! the other limit, or an agent that has the limit itself (`LimitFSIZE=`).
//!
//! **The number of processes**, where each spawn has a user of its own, so that none takes those of the others.
//!
//! **The number of open files**: the agent's own limit is raised, and servers get the one that the agent was started with.
//!
//! A server that closes every descriptor there may be, or keeps them in sets of 1024, must not meet the agent's limit. A limit is inherited,
//! and nothing may run between fork and exec (`super::process`), so a server's is set right after its start, before it has done much.
//!
//! The kernel lets an agent do that to servers of its own user. Those of other users (`--spawn-user`) take the capability `CAP_SYS_RESOURCE`;
//! without it they keep the agent's limit, which is warned of once.

use std::io;
use std::sync::{Once, OnceLock};

use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// Processes and threads of one spawn: far more than a server has.
pub(super) const MAX_PROCESSES: u32 = 4096;

/// Bounds the processes and threads of each spawn from now on, where each has a user of its own: the kernel counts them by user. Servers
/// inherit the limit; it does not count for root, as whom an agent that changes users runs.
pub(crate) fn bound_processes() {
    let most = |limit: Option<u64>| {
        Some(limit.map_or(MAX_PROCESSES.into(), |limit| limit.min(MAX_PROCESSES.into())))
    };
    let before = getrlimit(Resource::Nproc);
    let bound = Rlimit { current: most(before.current), maximum: most(before.maximum) };
    if let Err(error) = setrlimit(Resource::Nproc, bound) {
        tracing::warn!(%error, "a server may use up all processes of its machine");
    }
}

/// Has servers that are started from now on survive a write beyond the limit of their files' size.
pub(crate) fn survive_large_writes() {
    if let Err(error) = inherited_signals::ignore_file_size_signal() {
        tracing::warn!(%error, flag = "--spawn-file-size", "a server that writes too large a file will be ended by SIGXFSZ");
    }
}

/// The limits of a size of files; a limit that is lower already stays.
fn of_files(bytes: u64) -> Rlimit {
    let most = getrlimit(Resource::Fsize).maximum.map_or(bytes, |most| most.min(bytes));
    Rlimit { current: Some(most), maximum: Some(most) }
}

/// Bounds the size of each file that this process and what it becomes write to.
pub(crate) fn bound_own_files(bytes: u64) -> io::Result<()> {
    Ok(setrlimit(Resource::Fsize, of_files(bytes))?)
}

/// Bounds the size of each file that a process which was just started writes to.
pub(crate) fn bound_files(pid: u32, bytes: u64) {
    static SAID: Once = Once::new();
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if getrlimit(Resource::Fsize).maximum.is_some_and(|most| most <= bytes) {
        // Inherited.
        return;
    }
    match prlimit(Some(pid), Resource::Fsize, of_files(bytes)) {
        // It may have ended meanwhile.
        Ok(_) | Err(Errno::SRCH) => {}
        Err(error) => SAID.call_once(|| {
            tracing::warn!(
                %error,
                flag = "--spawn-file-size",
                "the size of servers' files is not limited: start the agent with CAP_SYS_RESOURCE, or with LimitFSIZE="
            );
        }),
    }
}

/// The limit of open files before it was raised.
static BEFORE: OnceLock<Rlimit> = OnceLock::new();

/// Raises the limit of this process to so many files, as far as it may. Returns the limit now where it is lower than that.
pub(crate) fn raise(wanted: u64) -> Option<u64> {
    let before = getrlimit(Resource::Nofile);
    if before.current.is_none_or(|current| current >= wanted) {
        return None;
    }
    let current = before.maximum.map_or(wanted, |most| most.min(wanted));
    match setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..before }) {
        Ok(()) => {
            BEFORE.set(before).ok();
            (current < wanted).then_some(current)
        }
        Err(_) => before.current,
    }
}

/// Gives a process that was just started the limit from before. One that this user may not touch keeps what it has.
pub(crate) fn give_back(pid: Pid) {
    static SAID: Once = Once::new();
    let Some(before) = BEFORE.get() else { return };
    match prlimit(Some(pid), Resource::Nofile, *before) {
        // It may have ended meanwhile.
        Ok(_) | Err(Errno::SRCH) => {}
        Err(error) => SAID.call_once(|| {
            tracing::warn!(
                %error,
                limit = before.current,
                "servers keep the agent's raised limit of open files: start the agent with a limit that is high enough for its slots \
                 (LimitNOFILE=), or with CAP_SYS_RESOURCE"
            );
        }),
    }
}
