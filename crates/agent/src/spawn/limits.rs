//! The limit of open files: the agent's own is raised, and servers get the one that the agent was started with.
//!
//! A server that closes every descriptor there may be, or keeps them in sets of 1024, must not meet the agent's limit. A limit is inherited,
//! and nothing may run between fork and exec (`super::process`), so a server's is set right after its start, before it has done much.

use std::sync::OnceLock;

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit, setrlimit};

/// The limit before it was raised.
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

/// Gives a process that was just started the limit from before. One that has ended meanwhile, or that this user may not touch, keeps what
/// it has.
pub(crate) fn give_back(pid: Pid) {
    let Some(before) = BEFORE.get() else { return };
    if let Err(error) = prlimit(Some(pid), Resource::Nofile, *before) {
        tracing::debug!(%error, "a server keeps the agent's limit of open files");
    }
}
