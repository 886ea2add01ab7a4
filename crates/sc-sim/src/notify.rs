//! Notifications from the other threads to the main thread, which waits in `poll`: a queue for what happened, and a byte on
//! a socket that ends the `poll`.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// What happened on another thread.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Notification {
    /// `ready` was posted, or could not be.
    Ready,
    /// The viewer sent its first data; comes at most once, before the others.
    FirstData,
    /// The viewer is gone, or was sent away, for the given reason.
    Left(String),
    /// The viewer's model is loaded and loading is all this server was started for.
    Loaded,
}

/// One place for each kind of notification: none comes twice in one life of a server.
const CAPACITY: usize = 4;

/// The sending end, shared by the threads.
#[derive(Debug)]
pub(crate) struct Notifier {
    queue: SyncSender<Notification>,
    wakeup: UnixStream,
}

/// The receiving end, of the main thread.
#[derive(Debug)]
pub(crate) struct Notifications {
    queue: Receiver<Notification>,
    wakeup: UnixStream,
}

/// Both ends.
pub(crate) fn channel() -> io::Result<(Notifier, Notifications)> {
    let (queue, received) = sync_channel(CAPACITY);
    let (wakeup, heard) = UnixStream::pair()?;
    heard.set_nonblocking(true)?;
    Ok((Notifier { queue, wakeup }, Notifications { queue: received, wakeup: heard }))
}

impl Notifier {
    pub(crate) fn notify(&self, notification: Notification) {
        // Neither fails while the main thread listens. When it does not, the process is about to exit.
        self.queue.send(notification).ok();
        (&self.wakeup).write_all(&[1]).ok();
    }
}

impl Notifications {
    /// The descriptor that `poll` waits on.
    pub(crate) fn wakeup(&self) -> BorrowedFd<'_> {
        self.wakeup.as_fd()
    }

    /// The next notification. Reads the wake-up bytes first, so that one that arrives meanwhile ends the next `poll`.
    pub(crate) fn next(&self) -> Option<Notification> {
        let mut heard = [0; CAPACITY];
        while matches!((&self.wakeup).read(&mut heard), Ok(CAPACITY)) {}
        self.queue.try_recv().ok()
    }
}
