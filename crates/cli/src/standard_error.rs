//! Standard error: messages for people and log lines, in one order.
//!
//! Before [`share`] a message is written at once. After it, messages and log lines go through one bounded buffer and a thread of its own,
//! so that a reader that stops reading blocks no task. What finds no room is dropped and counted.

use std::env;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use log_output::{JOURNAL, JournalEntries, LogOutput, Message, is_journal_stream};

use crate::output::printable;

/// What was logged last is written within this time when the process ends, or not at all.
const FLUSH: Duration = Duration::from_secs(1);

static OUTPUT: OnceLock<LogOutput> = OnceLock::new();

/// Writes what was logged. To be called when the process is about to end.
pub(crate) fn flush() {
    if let Some(output) = OUTPUT.get() {
        // Lines that are not read are not waited for.
        let _written = output.flush_within(FLUSH);
    }
}

/// Has messages and log lines share one buffer and the thread that writes it to `sink`, for the life of the process. `dropped` gets the number
/// of log lines that found no room.
///
/// # Errors
/// There is no thread to be had.
pub(crate) fn share(
    sink: impl Write + Send + 'static,
    dropped: impl Fn(u64) + Send + 'static,
) -> io::Result<LogOutput> {
    let output = LogOutput::start(sink, dropped)?;
    Ok(OUTPUT.get_or_init(|| output).clone())
}

/// The journal with JSON lines as its entries, where systemd has connected standard error to it.
pub(crate) fn journal(message: Message) -> Option<impl Write + Send + 'static> {
    let named = env::var("JOURNAL_STREAM").ok();
    if !is_journal_stream(named.as_deref(), io::stderr()) {
        return None;
    }
    JournalEntries::new(Path::new(JOURNAL), "hatchery", message, stream()).ok()
}

/// Standard error, without the lock that every other writer would wait for while it is not read.
pub(crate) fn stream() -> Box<dyn Write + Send> {
    match io::stderr().as_fd().try_clone_to_owned() {
        Ok(fd) => Box::new(File::from(fd)),
        Err(_) => Box::new(io::stderr()),
    }
}

/// Writes one line for people. Once log lines are written, it keeps its place among them and does not block either.
pub(crate) fn say(line: &str) {
    let line = printable(line);
    match OUTPUT.get().cloned() {
        Some(mut output) => output.write_all(format!("{line}\n").as_bytes()).ok(),
        None => writeln!(io::stderr().lock(), "{line}").ok(),
    };
}
