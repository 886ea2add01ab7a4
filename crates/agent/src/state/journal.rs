//! The records of all spawns in one file: a line for each thing that happened, one write each.
//!
//! The journal owns the records in memory and the order of the lines. A job on the disk's state lane owns the file: it writes what
//! has gathered since its last write, so a disk that hangs delays only those who wait for a line ([`Journal::written`]).
//!
//! An agent that is killed leaves whole lines, or a last one without its end that counts for nothing. Of a spawn whose first
//! line is missing the process itself is still found, see `adoption`. When most of the file is about spawns that are gone
//! it is written anew: the new file takes the place of the old one in one step.
//!
//! When a write fails (the disk is full, read-only or gone), the journal is in trouble, see [`Journal::trouble`]: the whole file is
//! written anew with the next line, and on [`Journal::check`], until that works.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::file::create;
use super::record::{History, JournalEvent, Record};
use crate::disk::Lane;

/// A file shorter than this is not written anew.
const SMALL: usize = 1 << 20;
/// When more than this waits for a disk that hangs, the whole file is written anew instead.
const MAX_PENDING: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum JournalLine {
    Started(Box<Record>),
    Happened(SpawnId, JournalEvent),
    /// A warm server was started. The release before this one does not know this line, and adopts it as no spawn.
    Kept(Box<Record>),
    /// A spawn has got the warm server of this id: one line, so that it is never both or neither.
    Claimed(SpawnId, Box<Record>),
    /// The registry has accepted its end, or it never was published.
    Gone(SpawnId),
}

impl JournalLine {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// A place in the order of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineNumber(u64);

#[derive(Debug)]
pub(crate) struct Journal {
    shared: Arc<Shared>,
    lane: Lane,
}

#[derive(Debug)]
struct Shared {
    path: PathBuf,
    /// Held for a moment, never while the disk is touched.
    book: Mutex<Book>,
    /// Held while the disk is touched, by one job at a time.
    pen: Mutex<Option<File>>,
    /// The last line that was written, or whose write has failed.
    done: watch::Sender<LineNumber>,
}

#[derive(Debug)]
struct Book {
    /// The lines of each spawn that is not gone.
    living: HashMap<SpawnId, Vec<u8>>,
    /// Lines that are not written yet.
    pending: Vec<u8>,
    /// Whether the whole file is to be written: what it ends with is not known.
    anew: bool,
    /// Length of the file.
    size: usize,
    /// The number of the last line.
    last: LineNumber,
    /// A job that will write what is pending is under way.
    scheduled: bool,
    trouble: Option<String>,
}

impl Journal {
    /// Takes up what earlier agents wrote. A disk that cannot be written is trouble, but no reason not to start: what runs needs
    /// an agent.
    pub(super) fn open(path: PathBuf, lane: Lane) -> Self {
        let (living, size, mut anew) = match std::fs::read(&path) {
            Ok(text) => {
                let damaged = damaged(&text);
                if !damaged.is_empty() {
                    set_aside(&path, &damaged);
                }
                // A file without an end cannot be appended to.
                (living(&text), text.len(), !damaged.is_empty())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => (HashMap::new(), 0, true),
            Err(error) => {
                let aside = path.with_extension("damaged");
                let moved = std::fs::rename(&path, &aside);
                tracing::warn!(%error, path = %path.display(), aside = %aside.display(), set_aside = moved.is_ok(),
                    "failed to read the records of spawns; spawns are recognised by their processes");
                (HashMap::new(), 0, true)
            }
        };
        let mut file = None;
        if !anew {
            match File::options().append(true).open(&path) {
                Ok(opened) => file = Some(opened),
                Err(_) => anew = true,
            }
        }
        let book = Book {
            living,
            pending: Vec::new(),
            anew,
            size,
            last: LineNumber(0),
            scheduled: false,
            trouble: None,
        };
        let (done, _) = watch::channel(LineNumber(0));
        let shared = Shared { path, book: Mutex::new(book), pen: Mutex::new(file), done };
        // Here and not on the lane: the agent must know whether it may admit before it admits.
        shared.check_file();
        shared.flush();
        Self { shared: Arc::new(shared), lane }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.shared.book()
    }

    /// A spawn was started. It goes on if the write fails; the next agent will know less of it.
    pub(crate) fn started(&self, record: Record) -> LineNumber {
        let id = record.id;
        self.add(&JournalLine::Started(Box::new(record)), |book, line| {
            book.living.insert(id, line);
            true
        })
    }

    /// A warm server was started, which is no spawn's.
    pub(crate) fn kept(&self, record: Record) -> LineNumber {
        let id = record.id;
        self.add(&JournalLine::Kept(Box::new(record)), |book, line| {
            book.living.insert(id, line);
            true
        })
    }

    /// A spawn has got a warm server.
    pub(crate) fn claimed(&self, server: SpawnId, record: Record) -> LineNumber {
        let id = record.id;
        self.add(&JournalLine::Claimed(server, Box::new(record)), |book, line| {
            book.living.remove(&server);
            book.living.insert(id, line);
            true
        })
    }

    /// Something has happened to it.
    pub(crate) fn happened(&self, id: SpawnId, mark: JournalEvent) {
        self.add(&JournalLine::Happened(id, mark), |book, line| match book.living.get_mut(&id) {
            Some(lines) => {
                lines.extend(line);
                true
            }
            None => false,
        });
    }

    /// Forgets a spawn: the registry has accepted its end, or it never was published.
    pub(crate) fn gone(&self, id: SpawnId) {
        self.add(&JournalLine::Gone(id), |book, _| book.living.remove(&id).is_some());
    }

    /// What is known of all spawns, the oldest first.
    pub(crate) fn histories(&self) -> Vec<History> {
        let mut histories: Vec<History> =
            self.book().living.values().filter_map(|lines| history(lines)).collect();
        histories.sort_by_key(|history| history.record.started);
        histories
    }

    /// Why nothing can be written, while that is so.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.book().trouble.clone()
    }

    /// Another file of the directory could not be written: nothing is to be relied on until the whole journal was written.
    pub(super) fn distrust(&self, error: &io::Error) {
        let mut book = self.book();
        book.anew = true;
        book.trouble.get_or_insert_with(|| error.to_string());
    }

    /// The last line so far.
    pub(crate) fn last(&self) -> LineNumber {
        self.book().last
    }

    /// Waits until a line was written, or its write has failed; `false` when that takes longer than `within`. A disk that is known
    /// to hang is not waited for.
    pub(crate) async fn written(&self, line: LineNumber, within: Duration) -> bool {
        let mut done = self.shared.done.subscribe();
        if *done.borrow_and_update() >= line {
            return true;
        }
        if self.lane.is_stuck() {
            return false;
        }
        tokio::time::timeout(within, done.wait_for(|done| *done >= line)).await.is_ok_and(|done| done.is_ok())
    }

    /// Looks whether the file is still there, and tries again what has failed. To be called now and then.
    pub(crate) fn check(&self) {
        let shared = Arc::clone(&self.shared);
        // A lane that is stuck is asked again the next time.
        self.lane
            .post(move || {
                shared.check_file();
                shared.flush();
            })
            .ok();
    }

    fn add(&self, line: &JournalLine, note: impl FnOnce(&mut Book, Vec<u8>) -> bool) -> LineNumber {
        let mut book = self.book();
        match line.bytes() {
            Ok(bytes) if note(&mut book, bytes.clone()) => {
                if !book.anew {
                    book.pending.extend(bytes);
                }
            }
            Ok(_) => return book.last,
            Err(error) => {
                tracing::error!(%error, "failed to put a record into words");
                return book.last;
            }
        }
        if book.pending.len() > MAX_PENDING {
            book.pending = Vec::new();
            book.anew = true;
        }
        book.last.0 += 1;
        let last = book.last;
        if !book.scheduled {
            let shared = Arc::clone(&self.shared);
            book.scheduled = self.lane.post(move || shared.flush()).is_ok();
        }
        last
    }
}

/// What one job writes.
enum Work {
    Append(Vec<u8>),
    Anew(Vec<u8>),
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes until nothing is pending.
    fn flush(&self) {
        let mut pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (work, last) = {
                let mut book = self.book();
                let size = book.size + book.pending.len();
                let mostly_gone = || size > 4 * book.living.values().map(Vec::len).sum::<usize>();
                let anew = book.anew || pen.is_none() || (size > SMALL && mostly_gone());
                if !anew && book.pending.is_empty() {
                    book.scheduled = false;
                    return;
                }
                let pending = std::mem::take(&mut book.pending);
                book.anew = false;
                let work = match anew {
                    true => Work::Anew(book.living.values().flatten().copied().collect()),
                    false => Work::Append(pending),
                };
                (work, book.last)
            };
            let written = self.write(&work, &mut pen);
            let mut book = self.book();
            match written {
                Ok(()) => {
                    book.size = match &work {
                        Work::Append(bytes) => book.size + bytes.len(),
                        Work::Anew(text) => text.len(),
                    };
                    if book.trouble.take().is_some() {
                        tracing::info!(path = %self.path.display(), "records of spawns can be written again");
                    }
                }
                Err(error) => {
                    *pen = None;
                    (book.anew, book.scheduled) = (true, false);
                    book.pending = Vec::new();
                    let trouble = error.to_string();
                    if book.trouble.as_ref() != Some(&trouble) {
                        tracing::warn!(%error, path = %self.path.display(),
                            "failed to write the records of spawns; no spawn is admitted until that works again");
                    }
                    book.trouble = Some(trouble);
                }
            }
            let failed = book.trouble.is_some();
            // After a failure nothing is written until the next attempt, whatever has been added meanwhile.
            let done = if failed { book.last } else { last };
            drop(book);
            self.done.send_replace(done);
            if failed {
                return;
            }
        }
    }

    fn write(&self, work: &Work, pen: &mut Option<File>) -> io::Result<()> {
        match (work, pen) {
            (Work::Append(bytes), Some(file)) => file.write_all(bytes),
            (Work::Append(_), None) => Err(io::Error::other("the file is not open")),
            (Work::Anew(text), pen) => {
                let fresh = self.path.with_extension("new");
                let mut file = create(&fresh)?;
                file.write_all(text)?;
                std::fs::rename(&fresh, &self.path)?;
                *pen = Some(file);
                Ok(())
            }
        }
    }

    /// Has the file written anew if it is not at its path any more.
    fn check_file(&self) {
        let pen = self.pen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(file) = pen.as_ref() else { return };
        let is_there = match (file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
            _ => false,
        };
        if !is_there {
            self.book().anew = true;
        }
    }
}

/// Keeps what could not be understood, for people.
fn set_aside(path: &Path, damaged: &[u8]) {
    let aside = path.with_extension("damaged");
    let kept = File::options().create(true).append(true).mode(0o600).open(&aside);
    let kept = kept.and_then(|mut file| file.write_all(damaged));
    tracing::warn!(
        bytes = damaged.len(),
        path = %path.display(),
        aside = %aside.display(),
        error = kept.err().map(|error| error.to_string()),
        "part of the records of spawns is damaged and was set aside; spawns are recognised by their processes"
    );
}

/// What is not a whole line.
fn damaged(text: &[u8]) -> Vec<u8> {
    let lines = text.split_inclusive(|b| *b == b'\n');
    let broken =
        |line: &&[u8]| !line.ends_with(b"\n") || serde_json::from_slice::<JournalLine>(line).is_err();
    lines.filter(broken).flatten().copied().collect()
}

/// What comes after the last end of a line was not written whole.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], JournalLine)> {
    let whole = text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.filter_map(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

fn living(text: &[u8]) -> HashMap<SpawnId, Vec<u8>> {
    let mut living: HashMap<SpawnId, Vec<u8>> = HashMap::new();
    for (bytes, line) in lines(text) {
        match line {
            JournalLine::Started(record) | JournalLine::Kept(record) => {
                living.insert(record.id, bytes.to_owned());
            }
            JournalLine::Claimed(server, record) => {
                living.remove(&server);
                living.insert(record.id, bytes.to_owned());
            }
            JournalLine::Happened(id, _) => {
                if let Some(lines) = living.get_mut(&id) {
                    lines.extend(bytes);
                }
            }
            JournalLine::Gone(id) => {
                living.remove(&id);
            }
        }
    }
    living
}

fn history(text: &[u8]) -> Option<History> {
    let mut history = None;
    for (_, line) in lines(text) {
        match (line, &mut history) {
            (
                JournalLine::Started(record) | JournalLine::Kept(record) | JournalLine::Claimed(_, record),
                _,
            ) => history = Some(History::new(*record)),
            (JournalLine::Happened(_, mark), Some(history)) => history.add(mark),
            (JournalLine::Happened(..), None) | (JournalLine::Gone(_), _) => {}
        }
    }
    history
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
