//! What an agent keeps on disk so that the next one can go on where it stopped, in its state directory:
//!
//! ```text
//! lock            held by the agent that uses the directory, for as long as it lives; holds its process id
//! instance, life  which directory this is, and how often an agent has started on it, see [`identity`]
//! operator        the desired state of the node, see [`desired`]
//! spawns          what there is to know of all spawns, see [`journal`]
//! spawns.damaged  what of it could not be understood
//! logs/ID.log     what it wrote
//! logs/ID.warm    what a warm server wrote that is no spawn's
//! ```
//!
//! The journal is not synced to the disk: what was written survives the agent however it ends, and a machine that ends takes its
//! spawns with it. What must outlive the machine (identity, desired state) is synced.
//!
//! A directory that cannot be written (full, read-only, gone) does not keep an agent from starting: it adopts what runs, and admits
//! nothing until writing works again, see [`journal`].

mod desired;
mod file;
mod identity;
pub(crate) mod journal;
pub(crate) mod moment;
pub(crate) mod ownership;
pub(crate) mod record;

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use registry::AgentIdentity;
use rustix::fs::{FlockOperation, flock};

pub(crate) use self::file::make_dir;
use self::journal::Journal;
pub(crate) use self::moment::{Clock, Moment};
use crate::disk::Lane;

/// A state directory that is this agent's alone.
#[derive(Debug)]
pub(crate) struct StateDir {
    lock: File,
    pub(crate) clock: Clock,
    pub(crate) journal: Journal,
    pub(crate) identity: AgentIdentity,
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
    pub(crate) fn open(dir: &Path, lane: Lane) -> Result<Self, Unusable> {
        let clock = Clock::new().map_err(|error| Unusable::Broken(PathBuf::from("/proc"), error))?;
        Self::open_by(clock, dir, lane)
    }

    /// The same on a machine with this clock.
    pub(crate) fn open_by(clock: Clock, dir: &Path, lane: Lane) -> Result<Self, Unusable> {
        let logs = dir.join("logs");
        let made = make_dir(&logs);
        if let Err(error) = &made
            && !dir.is_dir()
        {
            return Err(Unusable::Broken(logs, io::Error::new(error.kind(), error.to_string())));
        }
        let (lock, locked) = take(dir)?;
        let journal = Journal::open(dir.join("spawns"), lane);
        let (identity, kept) = identity::next(dir);
        for (what, done) in
            [("make logs/", made), ("write its process id", locked), ("keep its identity", kept)]
        {
            if let Err(error) = done {
                tracing::warn!(%error, path = %dir.display(), what, "the state directory cannot be written");
                journal.distrust(&error);
            }
        }
        Ok(Self { lock, clock, journal, identity, logs, operator: dir.join("operator") })
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

/// Takes the directory, and says whether the lock could be written to. Where there can be no lock file, on a disk that is full
/// or read-only, the directory itself is locked.
fn take(dir: &Path) -> Result<(File, io::Result<()>), Unusable> {
    let path = dir.join("lock");
    let broken = |error: io::Error| Unusable::Broken(path.clone(), error);
    let mut options = File::options();
    let opened = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let (mut lock, opened) = match opened {
        Ok(lock) => (lock, Ok(())),
        Err(error) => match File::open(&path).or_else(|_| File::open(dir)) {
            Ok(lock) => (lock, Err(error)),
            Err(_) => return Err(broken(error)),
        },
    };
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // A directory cannot be read; the process id only helps people.
            lock.read_to_string(&mut holder).ok();
            return Err(Unusable::Taken(holder.trim().parse().ok()));
        }
        Err(error) => return Err(broken(error.into())),
    }
    let holder = format!("{}\n", std::process::id());
    let written = opened.and_then(|()| {
        lock.set_len(0)?;
        lock.rewind()?;
        lock.write_all(holder.as_bytes())
    });
    Ok((lock, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_agent_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let open = || StateDir::open(dir.path(), Lane::new("state", 1, 10).unwrap());
        let first = open().unwrap();
        match open() {
            Err(Unusable::Taken(pid)) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        first.release();
        let second = open().unwrap();
        drop((first, second));
        open().unwrap();
    }
}
