//! What an agent keeps on disk so that the next one can go on where it stopped, in its state directory:
//!
//! ```text
//! lock          held by the agent that uses the directory, for as long as it lives; holds its process id
//! operator      what the operator wants of the node, see [`wish`]
//! spawns        what there is to know of all spawns, see [`journal`]
//! logs/ID.log   what it wrote
//! ```
//!
//! Nothing is synced to the disk: what was written survives the agent however it ends, and a machine that ends takes its
//! spawns with it.

pub(crate) mod journal;
mod moment;
pub(crate) mod record;
pub(crate) mod wish;

use std::fs::{DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use self::journal::Journal;
pub(crate) use self::moment::{Clock, Moment};

/// A state directory that is this agent's alone.
#[derive(Debug)]
pub(crate) struct StateDir {
    lock: File,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    logs: PathBuf,
    operator: PathBuf,
}

/// Why a state directory cannot be used.
#[derive(Debug)]
pub(crate) enum Unusable {
    /// Another agent uses it; its process id, if that could be read.
    Taken(Option<u32>),
    /// This path cannot be had.
    Broken(PathBuf, io::Error),
}

impl StateDir {
    /// Makes what is missing and takes the directory for this agent.
    pub(crate) fn open(dir: &Path) -> Result<Self, Unusable> {
        let (logs, spawns) = (dir.join("logs"), dir.join("spawns"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&logs)
            .map_err(|error| Unusable::Broken(logs.clone(), error))?;
        let lock = take(&dir.join("lock"))?;
        let clock = Clock::new().map_err(|error| Unusable::Broken(PathBuf::from("/proc"), error))?;
        let journal = Journal::open(spawns.clone()).map_err(|error| Unusable::Broken(spawns, error))?;
        Ok(Self { lock, clock, journal, logs, operator: dir.join("operator") })
    }

    /// Where the logs of spawns are.
    pub(crate) fn logs(&self) -> &Path {
        &self.logs
    }

    /// Lets the next agent have it, before the last task of this one is gone.
    pub(crate) fn release(&self) {
        if let Err(error) = flock(&self.lock, FlockOperation::Unlock) {
            tracing::warn!(%error, "failed to unlock the state directory");
        }
    }
}

fn take(path: &Path) -> Result<File, Unusable> {
    let broken = |error: io::Error| Unusable::Broken(path.to_owned(), error);
    let mut options = File::options();
    let mut lock =
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(broken)?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(broken)?;
            return Err(Unusable::Taken(holder.trim().parse().ok()));
        }
        Err(error) => return Err(broken(error.into())),
    }
    let holder = format!("{}\n", std::process::id());
    lock.set_len(0)
        .and_then(|()| lock.rewind())
        .and_then(|()| lock.write_all(holder.as_bytes()))
        .map_err(broken)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::open(dir.path()).unwrap();
        match StateDir::open(dir.path()) {
            Err(Unusable::Taken(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        first.release();
        let second = StateDir::open(dir.path()).unwrap();
        drop((first, second));
        StateDir::open(dir.path()).unwrap();
    }
}
