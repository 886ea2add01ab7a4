//! What spawned servers inherit from their agent about signals.
//!
//! A signal that a process ignores is ignored by the processes that it starts, across `exec` (POSIX). Nothing may run between the start of
//! a server and its `exec`, so this is the way to have a server ignore one.

use std::io;

/// Ignores `SIGXFSZ` in this process and in what it starts from now on: a write beyond the limit of a file's size (`RLIMIT_FSIZE`) then
/// fails with `EFBIG`, and does not end the process.
///
/// # Errors
/// The kernel's.
pub fn ignore_file_size_signal() -> io::Result<()> {
    // SAFETY: `SIG_IGN` is no handler, so no code runs in the context of a signal, and no other code of this program sets `SIGXFSZ`.
    let before = unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    if before == libc::SIG_ERR { Err(io::Error::last_os_error()) } else { Ok(()) }
}
