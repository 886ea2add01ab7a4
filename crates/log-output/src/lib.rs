//! Log output that never blocks the threads that log.
//!
//! Standard error may be a pipe whose reader has stopped. A thread that writes to it then blocks, and with it every task of
//! the runtime that wants to log. So lines go into a bounded buffer, and one thread writes them, many at a time.
//!
//! - While the buffer is full, whole lines are dropped and counted, and the process goes on. When the writer works again,
//!   it reports the number once.
//! - The buffer is bounded in bytes, because callers choose how long some lines are.
//! - Some lines hold text of callers, so characters that control a terminal are escaped on the way in, see `harmless.rs`.
//! - JSON lines have one schema, see [`JsonLines`]. Under systemd they become entries of its journal, see [`JournalEntries`].
//! - The count is one for the process, as standard error is. Every role shows it in its metrics.
//!
//! ```
//! use std::io::Write;
//! use std::time::Duration;
//!
//! let mut output = log_output::LogOutput::start(std::io::sink(), |lines| eprintln!("{lines} lines dropped"))?;
//! writeln!(output, "ready")?;
//! assert!(output.flush_within(Duration::from_secs(10)));
//! # Ok::<(), std::io::Error>(())
//! ```

mod buffer;
mod harmless;
mod journal;
mod json;
mod object;
mod sync;

use self::buffer::Buffer;
pub use self::journal::{JOURNAL, JournalEntries, Message, is_journal_stream};
pub use self::json::JsonLines;

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// The most bytes that wait to be written; as many again may be under way in the writer.
pub const MAX_BUFFERED: usize = 1 << 20;
/// The pause after a sink was not ready (`EAGAIN`): another process can make a shared terminal non-blocking.
const RETRY: Duration = Duration::from_millis(10);

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// The number of lines that this process lost: dropped because the buffer was full, or refused by the sink.
#[must_use]
pub fn dropped_lines() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// A log output. Cloning is cheap; all clones share the buffer.
#[derive(Debug, Clone)]
pub struct LogOutput(Arc<Buffer>);

impl LogOutput {
    /// Starts the thread that writes to `sink`. Once it can write again after lines were dropped, it calls `report` with
    /// their number; the buffer has room for what `report` logs.
    ///
    /// # Errors
    /// The system starts no further thread.
    pub fn start(
        sink: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let buffer = Arc::new(Buffer::new(MAX_BUFFERED));
        let theirs = Arc::clone(&buffer);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_lines(&theirs, sink, &report))?;
        Ok(Self(buffer))
    }

    /// Waits until every line is written, for up to `limit`. Returns whether they are. Call it before the process exits.
    #[must_use]
    pub fn flush_within(&self, limit: Duration) -> bool {
        self.0.flush_within(limit)
    }
}

impl Write for LogOutput {
    /// Takes whole lines: all of them, or none when there is no room. Never blocks and never fails.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        let given = lines.len();
        let lines = &*harmless::escaped(lines);
        let count = count(lines);
        if !self.0.push(lines, count) {
            DROPPED.fetch_add(count, Ordering::Relaxed);
        }
        Ok(given)
    }

    /// Does nothing, since it must not block: see [`Self::flush_within`].
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn count(lines: &[u8]) -> u64 {
    let ends = lines.iter().filter(|byte| **byte == b'\n').count();
    u64::try_from(ends).unwrap_or(u64::MAX)
}

fn write_lines(buffer: &Buffer, mut sink: impl Write, report: &impl Fn(u64)) {
    let mut batch = Vec::new();
    loop {
        let dropped = buffer.take(&mut batch);
        // The buffer is empty now, so the report finds room, right behind the lines that were kept.
        if dropped > 0 {
            report(dropped);
        }
        let left = write_all(&mut sink, &batch);
        if left > 0 {
            // A sink that takes no lines takes no report either. Only the count shows the loss.
            DROPPED.fetch_add(count(&batch[batch.len() - left..]), Ordering::Relaxed);
        }
        batch.clear();
        batch.shrink_to(MAX_BUFFERED / 16);
        buffer.wrote();
    }
}

/// Writes everything; how many bytes could not be written.
fn write_all(sink: &mut impl Write, mut bytes: &[u8]) -> usize {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => break,
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // A process that shares the terminal has made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::park_timeout(RETRY),
            Err(_) => break,
        }
    }
    sink.flush().ok();
    bytes.len()
}

#[cfg(test)]
mod tests {
    use std::io::{PipeReader, Read};
    use std::sync::{Mutex, mpsc};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    /// The count is one for the process, so tests that look at it take turns.
    static COUNT: Mutex<()> = Mutex::new(());

    /// An output that ends in a pipe, and what it reports.
    fn piped() -> (LogOutput, PipeReader, mpsc::Receiver<u64>) {
        let (reader, writer) = io::pipe().unwrap();
        let (reports, reported) = mpsc::channel();
        let output = LogOutput::start(writer, move |lines| reports.send(lines).unwrap()).unwrap();
        (output, reader, reported)
    }

    #[test]
    fn what_is_logged_is_written_in_order() {
        let (mut output, mut reader, _reported) = piped();
        for line in 0..100 {
            writeln!(output, "line {line}").unwrap();
        }
        assert!(output.flush_within(SOON));
        let expected: String = (0..100).map(|line| format!("line {line}\n")).collect();
        let mut read = vec![0; expected.len()];
        reader.read_exact(&mut read).unwrap();
        assert_eq!(String::from_utf8(read).unwrap(), expected);
    }

    #[test]
    fn a_full_pipe_that_is_not_read_costs_lines_and_no_time() {
        let _turn = COUNT.lock();
        let (output, mut reader, reported) = piped();
        let line = format!("{}\n", "x".repeat(1023));
        let before = dropped_lines();
        // The pipe takes 64 KiB; one buffer is with the thread, one is filled.
        let total = 4 * MAX_BUFFERED / line.len();
        let (logged, all_logged) = mpsc::channel();
        let (mut theirs, text) = (output.clone(), line.clone());
        thread::spawn(move || {
            for _ in 0..total {
                theirs.write_all(text.as_bytes()).unwrap();
            }
            logged.send(()).unwrap();
        });
        all_logged.recv_timeout(SOON).expect("nobody who logs waits");
        let dropped = dropped_lines() - before;
        assert!(dropped > 0, "nothing was dropped");
        assert!(!output.flush_within(Duration::from_millis(20)), "it cannot be written");

        let kept = total - usize::try_from(dropped).unwrap();
        let mut read = vec![0; kept * line.len()];
        reader.read_exact(&mut read).unwrap();
        assert!(read.chunks(line.len()).all(|chunk| chunk == line.as_bytes()), "whole lines only");
        // The thread may have begun late, and have reported what was dropped before that.
        let mut counted = 0;
        while counted < dropped {
            counted += reported.recv_timeout(SOON).unwrap();
        }
        assert_eq!(counted, dropped);
        assert!(output.flush_within(SOON));
    }

    #[test]
    fn lines_that_are_refused_are_counted() {
        let _turn = COUNT.lock();
        let (mut output, reader, reported) = piped();
        drop(reader);
        let before = dropped_lines();
        output.write_all(b"one\ntwo\n").unwrap();
        assert!(output.flush_within(SOON));
        assert!(dropped_lines() - before >= 2);
        assert!(reported.try_recv().is_err());
    }
}
