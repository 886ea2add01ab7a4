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
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::SpawnId;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::record::{Mark, Record, Story};
use crate::disk::Lane;

/// A file shorter than this is not written anew.
const SMALL: usize = 1 << 20;
/// When more than this waits for a disk that hangs, the whole file is written anew instead.
const MAX_PENDING: usize = 1 << 20;

/// One line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    Started(Box<Record>),
    Happened(SpawnId, Mark),
    /// Nobody needs to know of it any more.
    Gone(SpawnId),
}

impl Line {
    fn bytes(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// A place in the order of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LineNumber(u64);

/// See the module.
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
        self.add(&Line::Started(Box::new(record)), |book, line| {
            book.living.insert(id, line);
            true
        })
    }

    /// Something has happened to it.
    pub(crate) fn happened(&self, id: SpawnId, mark: Mark) {
        self.add(&Line::Happened(id, mark), |book, line| match book.living.get_mut(&id) {
            Some(lines) => {
                lines.extend(line);
                true
            }
            None => false,
        });
    }

    /// Nobody needs it any more.
    pub(crate) fn gone(&self, id: SpawnId) {
        self.add(&Line::Gone(id), |book, _| book.living.remove(&id).is_some());
    }

    /// What is known of all spawns, the oldest first.
    pub(crate) fn stories(&self) -> Vec<Story> {
        let mut stories: Vec<Story> = self.book().living.values().filter_map(|lines| story(lines)).collect();
        stories.sort_by_key(|story| story.record.started);
        stories
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

    fn add(&self, line: &Line, note: impl FnOnce(&mut Book, Vec<u8>) -> bool) -> LineNumber {
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

/// Makes a file, and its directory where that is missing.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600);
    match (options.open(path), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            options.open(path)
        }
        (opened, _) => opened,
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
    let broken = |line: &&[u8]| !line.ends_with(b"\n") || serde_json::from_slice::<Line>(line).is_err();
    lines.filter(broken).flatten().copied().collect()
}

/// What comes after the last end of a line was not written whole.
fn lines(text: &[u8]) -> impl Iterator<Item = (&[u8], Line)> {
    let whole = text.split_inclusive(|b| *b == b'\n').filter(|line| line.ends_with(b"\n"));
    whole.filter_map(|line| Some((line, serde_json::from_slice(line).ok()?)))
}

fn living(text: &[u8]) -> HashMap<SpawnId, Vec<u8>> {
    let mut living: HashMap<SpawnId, Vec<u8>> = HashMap::new();
    for (bytes, line) in lines(text) {
        match line {
            Line::Started(record) => {
                living.insert(record.id, bytes.to_owned());
            }
            Line::Happened(id, _) => {
                if let Some(lines) = living.get_mut(&id) {
                    lines.extend(bytes);
                }
            }
            Line::Gone(id) => {
                living.remove(&id);
            }
        }
    }
    living
}

fn story(text: &[u8]) -> Option<Story> {
    let mut story = None;
    for (_, line) in lines(text) {
        match (line, &mut story) {
            (Line::Started(record), _) => story = Some(Story::new(*record)),
            (Line::Happened(_, mark), Some(story)) => story.add(mark),
            (Line::Happened(..), None) | (Line::Gone(_), _) => {}
        }
    }
    story
}

#[cfg(test)]
mod tests {
    use model::{Exit, ExitReason, RendererType, Timestamp};
    use proptest::prelude::*;

    use super::super::Moment;
    use super::*;
    use crate::spawn::exit::Cause;

    fn record() -> Record {
        Record {
            id: SpawnId::mint(),
            pid: 7,
            start: 12,
            boot: "b".to_owned(),
            port: 55_000,
            renderer: RendererType::Ssr,
            gpu: Some(1),
            endpoint: "ws://h:55000".to_owned(),
            labels: [("sdk".to_owned(), "1".to_owned())].into(),
            owner: Some("key:a".parse().unwrap()),
            liveliness: "http://127.0.0.1:7071/liveliness".to_owned(),
            ping_ms: 5000,
            request_id: "r".to_owned(),
            log: "/s/logs/x.log".into(),
            cgroup: None,
            started: Moment(5),
            started_at: Timestamp::from_millis(1_700_000_000_000),
            ready_by: Moment(30_005),
        }
    }

    fn exit() -> Exit {
        Exit { reason: ExitReason::Failed, code: Some(6), signal: None, text: Some("a\nb".to_owned()) }
    }

    fn open(dir: &tempfile::TempDir) -> Journal {
        Journal::open(dir.path().join("spawns"), Lane::new("state", 1, 10).unwrap())
    }

    /// Waits until everything was written, or has failed.
    fn settle(journal: &Journal) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        assert!(runtime.block_on(journal.written(journal.last(), Duration::from_secs(20))));
    }

    /// Has what was done so far written.
    fn check(journal: &Journal) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        journal.check();
        runtime.block_on(journal.lane.call(Duration::from_secs(20), || ())).unwrap();
    }

    #[test]
    fn what_was_written_is_read_again_until_it_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        let (record, other) = (record(), record());
        let mut want = Story::new(record.clone());
        journal.started(record.clone());
        journal.started(other.clone());
        for mark in [
            Mark::Ready(Moment(6)),
            Mark::Disconnected(Moment(7)),
            Mark::Ending(Cause::Lingered),
            Mark::Ended(Moment(8), exit()),
        ] {
            journal.happened(record.id, mark.clone());
            want.add(mark);
        }
        journal.gone(other.id);
        journal.happened(other.id, Mark::Ready(Moment(9)));
        assert_eq!(journal.stories(), [want.clone()]);
        settle(&journal);
        let next = open(&dir);
        assert_eq!(next.stories(), [want]);
        next.gone(record.id);
        settle(&next);
        assert!(next.stories().is_empty() && open(&dir).stories().is_empty());
    }

    #[test]
    fn what_an_older_agent_wrote_says_nothing_of_owners() {
        let dir = tempfile::tempdir().unwrap();
        let older = r#"{"started":{"id":"01987a5e-2f30-7c41-9d5c-0123456789ab","pid":7,"start":12,"boot":"b","port":55000,"renderer":"ssr","gpu":1,"endpoint":"ws://h:55000","labels":{"sdk":"1"},"liveliness":"http://127.0.0.1:7071/liveliness","pingMs":5000,"requestId":"r","log":"/s/logs/x.log","started":5,"startedAt":"2023-11-14T22:13:20.000Z","readyBy":30005}}"#;
        std::fs::write(dir.path().join("spawns"), format!("{older}\n")).unwrap();
        let id = "01987a5e-2f30-7c41-9d5c-0123456789ab".parse().unwrap();
        let unowned = Record { id, owner: None, ..record() };
        assert_eq!(open(&dir).stories(), [Story::new(unowned.clone())]);
        // Nor does one where nobody has to say who they are, so that an older agent can follow, too.
        assert_eq!(Line::Started(Box::new(unowned)).bytes().unwrap(), format!("{older}\n").into_bytes());
    }

    #[test]
    fn a_file_of_spawns_that_are_gone_does_not_grow() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        let stays = record();
        journal.started(stays.clone());
        for _ in 0..5000 {
            let record = record();
            let id = record.id;
            journal.started(record);
            journal.happened(id, Mark::Ready(Moment(6)));
            journal.gone(id);
            settle(&journal);
        }
        let size = std::fs::metadata(dir.path().join("spawns")).unwrap().len();
        assert!(size <= SMALL as u64, "{size}");
        assert_eq!(open(&dir).stories(), [Story::new(stays)]);
    }

    /// A file that cannot be written to stands for a disk that is full.
    fn break_the_pen(journal: &Journal, dir: &tempfile::TempDir) {
        *journal.shared.pen.lock().unwrap() = Some(File::open(dir.path().join("spawns")).unwrap());
    }

    #[test]
    fn after_a_failed_write_nothing_is_lost_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        break_the_pen(&journal, &dir);
        assert_eq!(journal.trouble(), None);
        journal.started(record());
        settle(&journal);
        assert!(journal.trouble().is_some() && open(&dir).stories().is_empty());
        journal.started(record());
        settle(&journal);
        assert_eq!((journal.trouble(), open(&dir).stories().len()), (None, 2));
        break_the_pen(&journal, &dir);
        journal.started(record());
        settle(&journal);
        assert!(journal.trouble().is_some());
        check(&journal);
        assert_eq!((journal.trouble(), open(&dir).stories().len()), (None, 3), "no further line is needed");
    }

    #[test]
    fn a_file_that_was_removed_is_made_again_with_its_directory() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("state");
        std::fs::create_dir(&dir).unwrap();
        let open = || Journal::open(dir.join("spawns"), Lane::new("state", 1, 10).unwrap());
        let journal = open();
        journal.started(record());
        settle(&journal);
        std::fs::remove_dir_all(&dir).unwrap();
        check(&journal);
        assert_eq!((journal.trouble(), open().stories().len()), (None, 1));
    }

    #[test]
    fn a_disk_that_hangs_delays_only_those_who_wait_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        // A full pipe that nobody reads stands for a disk that hangs.
        let (reader, writer) = std::io::pipe().unwrap();
        let mut full = writer.try_clone().unwrap();
        rustix::io::ioctl_fionbio(&full, true).unwrap();
        while full.write(&[0; 4096]).is_ok() {}
        rustix::io::ioctl_fionbio(&full, false).unwrap();
        *journal.shared.pen.lock().unwrap() = Some(std::os::fd::OwnedFd::from(writer).into());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let line = journal.started(record());
        assert!(!runtime.block_on(journal.written(line, Duration::from_millis(100))));
        let others: Vec<Record> = (0..20).map(|_| record()).collect();
        for other in &others {
            journal.started(other.clone());
            journal.happened(other.id, Mark::Ready(Moment(6)));
        }
        assert_eq!(journal.stories().len(), 21, "known, though not written");
        // Nobody reads any more: the disk answers that it has failed, and then works again.
        drop((reader, full));
        settle(&journal);
        check(&journal);
        assert_eq!((journal.trouble(), open(&dir).stories().len()), (None, 21));
    }

    #[test]
    fn what_is_damaged_is_kept_aside_and_the_rest_counts() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (record(), record());
        let mut text = Line::Started(Box::new(whole.clone())).bytes().unwrap();
        text.extend(b"\0\0garbage\n");
        let line = Line::Started(Box::new(cut)).bytes().unwrap();
        text.extend(&line[..line.len() / 2]);
        std::fs::write(dir.path().join("spawns"), &text).unwrap();
        let journal = open(&dir);
        assert_eq!(journal.stories(), [Story::new(whole)]);
        let aside = std::fs::read(dir.path().join("spawns.damaged")).unwrap();
        assert_eq!(aside, [b"\0\0garbage\n", &line[..line.len() / 2]].concat());
        journal.started(record());
        settle(&journal);
        assert_eq!(open(&dir).stories().len(), 2, "the rest of a line does not spoil the next one");
        // A file that cannot be read at all.
        for name in ["spawns", "spawns.damaged"] {
            std::fs::remove_file(dir.path().join(name)).unwrap();
        }
        std::fs::create_dir(dir.path().join("spawns")).unwrap();
        let journal = open(&dir);
        assert_eq!((journal.trouble(), journal.stories().len()), (None, 0));
    }

    proptest! {
        /// However much of it was written: what is read was said, and nothing else.
        #[test]
        fn a_file_that_ends_anywhere_says_what_its_whole_lines_say(cut in 0usize..2000, junk in any::<bool>()) {
            let record = record();
            let id = record.id;
            let lines = [
                Line::Started(Box::new(record.clone())),
                Line::Happened(id, Mark::Ready(Moment(61_000))),
                Line::Happened(id, Mark::Ending(Cause::Stopped)),
                Line::Happened(id, Mark::Ended(Moment(8), exit())),
            ].map(|line| line.bytes().unwrap());
            let whole = lines.concat();
            let cut = cut.min(whole.len());
            let mut ends = lines.iter().scan(0, |sum, line| { *sum += line.len(); Some(*sum) });
            let has = [(); 4].map(|()| ends.next().unwrap() <= cut);
            let mut text = if junk { b"{\"x\":1}\n\n\xff\n".to_vec() } else { Vec::new() };
            text.extend(&whole[..cut]);
            let living = living(&text);
            prop_assert_eq!(living.len(), usize::from(has[0]));
            if let Some(lines) = living.get(&id) {
                let story = story(lines).unwrap();
                prop_assert_eq!(story.record, record);
                prop_assert_eq!(story.ready.is_some(), has[1]);
                prop_assert_eq!(story.ending.is_some(), has[2]);
                prop_assert_eq!(story.ended.is_some(), has[3]);
            }
        }
    }
}
