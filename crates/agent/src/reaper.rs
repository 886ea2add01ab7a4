//! Zombies of processes that this one has not started: as a child subreaper, or as process 1 of a container, an agent inherits what
//! its spawns leave behind, and no other process takes their statuses.
//!
//! The statuses of the agent's own processes are for their drivers. So every start is announced before its process exists
//! ([`Starting`]), and a zombie is reaped only when it is none of the agent's own and no start is under way.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, WaitId, WaitIdOptions, getpid, set_child_subreaper, waitid};

use crate::procfs;

/// Of the whole process, as children are.
static OWN: Mutex<Own> = Mutex::new(Own { starting: 0, pids: None });

#[derive(Debug)]
struct Own {
    /// Starts whose process may exist without being known.
    starting: usize,
    /// Processes that were started and whose drivers have not reaped them.
    pids: Option<HashSet<u32>>,
}

fn own() -> MutexGuard<'static, Own> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A start that is under way.
#[derive(Debug)]
pub(crate) struct Starting(());

impl Starting {
    pub(crate) fn announce() -> Self {
        own().starting += 1;
        Self(())
    }

    /// This is its process.
    pub(crate) fn started(self, pid: u32) {
        own().pids.get_or_insert_default().insert(pid);
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        own().starting -= 1;
    }
}

/// The driver of a process has taken its status.
pub(crate) fn reaped(pid: u32) {
    if let Some(pids) = &mut own().pids {
        pids.remove(&pid);
    }
}

/// Has orphans of this process's descendants become its children.
pub(crate) fn inherit_orphans() {
    // The argument only says yes.
    if let Err(error) = set_child_subreaper(Some(getpid())) {
        tracing::warn!(%error, "failed to become a child subreaper; processes that spawns leave behind go to another parent");
    }
}

/// Reaps zombies of strangers. Blocks, but not on a disk.
pub(crate) fn reap_strangers() {
    for pid in procfs::children() {
        if !procfs::stat(pid).is_some_and(|stat| stat.has_ended()) {
            continue;
        }
        // The look at the zombie was before this: a start that is not under way now has made its process known.
        let own = own();
        if own.starting > 0 || own.pids.as_ref().is_some_and(|pids| pids.contains(&pid)) {
            continue;
        }
        let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        if let Err(error) = waitid(WaitId::Pid(number), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            tracing::debug!(%error, pid, "failed to reap a process");
        }
    }
}
