//! How the other threads reach the main thread, which waits in `poll`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What happened elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ring {
    /// `ready` was posted, or could not be.
    Ready,
    /// The viewer sent its first data; comes at most once, before the others.
    FirstData,
    /// The viewer is gone, or was sent away, for the given reason.
    Left(String),
    /// The viewer's model is loaded and loading is all this server was started for.
    Loaded,
}

/// More than can ever happen in one life of a server.
const CAPACITY: usize = 4;

/// The end that rings: a queue for what happened, a byte to end the `poll`.
#[derive(Debug)]
pub(crate) struct Doorbell {
    rings: SyncSender<Ring>,
    bell: UnixStream,
}

/// The end that listens.
#[derive(Debug)]
pub(crate) struct Door {
    rings: Receiver<Ring>,
    bell: UnixStream,
}

/// Both ends of a new bell.
pub(crate) fn hang() -> io::Result<(Doorbell, Door)> {
    let (rings, received) = sync_channel(CAPACITY);
    let (bell, heard) = UnixStream::pair()?;
    heard.set_nonblocking(true)?;
    Ok((Doorbell { rings, bell }, Door { rings: received, bell: heard }))
}

impl Doorbell {
    pub(crate) fn ring(&self, ring: Ring) {
        // Neither fails while the main thread listens, and once it does not, nobody is left to tell.
        self.rings.send(ring).ok();
        (&self.bell).write_all(&[1]).ok();
    }
}

impl Door {
    /// What `poll` waits on.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(crate) fn answer(&self) -> Option<Ring> {
        let mut heard = [0; CAPACITY];
        while matches!((&self.bell).read(&mut heard), Ok(CAPACITY)) {}
        self.rings.try_recv().ok()
    }
}
