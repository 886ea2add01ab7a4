//! The records of all spawns in one file: a line for each thing that happened, one write each, so that a start costs
//! microseconds.
//!
//! An agent that is killed leaves whole lines, or a last one without its end that counts for nothing. Of a spawn whose first
//! line is missing the process itself is still found, see `adoption`. When most of the file is about spawns that are gone
//! it is written anew: the new file takes the place of the old one in one step.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use model::SpawnId;
use serde::{Deserialize, Serialize};

use super::record::{Mark, Record, Story};

/// A file shorter than this is not written anew.
const SMALL: usize = 1 << 20;

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

/// See the module.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Held for one write, never across an await.
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// Absent after a failed write: what the file ends with is not known.
    file: Option<File>,
    size: usize,
    /// The lines of each spawn that is not gone.
    living: HashMap<SpawnId, Vec<u8>>,
}

impl Journal {
    /// Takes up what earlier agents wrote.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let journal = Self { path, book: Mutex::new(Book { file: None, size: 0, living: living(&text) }) };
        journal.write_anew(&mut journal.book())?;
        Ok(journal)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A spawn was started. It goes on if this fails; the next agent will know less of it.
    pub(crate) fn started(&self, record: Record) {
        let id = record.id;
        self.tell(&Line::Started(Box::new(record)), |book, line| {
            book.living.insert(id, line);
            true
        });
    }

    /// Something has happened to it.
    pub(crate) fn happened(&self, id: SpawnId, mark: Mark) {
        self.tell(&Line::Happened(id, mark), |book, line| match book.living.get_mut(&id) {
            Some(lines) => {
                lines.extend(line);
                true
            }
            None => false,
        });
    }

    /// Nobody needs it any more.
    pub(crate) fn gone(&self, id: SpawnId) {
        self.tell(&Line::Gone(id), |book, _| book.living.remove(&id).is_some());
    }

    /// What is known of all spawns, the oldest first.
    pub(crate) fn stories(&self) -> Vec<Story> {
        let mut stories: Vec<Story> = self.book().living.values().filter_map(|lines| story(lines)).collect();
        stories.sort_by_key(|story| story.record.started);
        stories
    }

    fn tell(&self, line: &Line, note: impl FnOnce(&mut Book, Vec<u8>) -> bool) {
        let mut book = self.book();
        let written = line.bytes().and_then(|bytes| {
            if !note(&mut book, bytes.clone()) {
                return Ok(());
            }
            let size = book.size + bytes.len();
            if size > SMALL && size > 4 * book.living.values().map(Vec::len).sum::<usize>() {
                return self.write_anew(&mut book);
            }
            match &mut book.file {
                Some(file) => file.write_all(&bytes)?,
                None => return self.write_anew(&mut book),
            }
            book.size = size;
            Ok(())
        });
        if let Err(error) = written {
            book.file = None;
            tracing::warn!(%error, path = %self.path.display(), "failed to write down what the next agent must know");
        }
    }

    fn write_anew(&self, book: &mut Book) -> io::Result<()> {
        let text: Vec<u8> = book.living.values().flatten().copied().collect();
        let fresh = self.path.with_extension("new");
        let mut options = File::options();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        std::fs::rename(&fresh, &self.path)?;
        (book.file, book.size) = (Some(file), text.len());
        Ok(())
    }
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
        Journal::open(dir.path().join("spawns")).unwrap()
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
        let next = open(&dir);
        assert_eq!(next.stories(), [want]);
        next.gone(record.id);
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
        }
        let size = std::fs::metadata(dir.path().join("spawns")).unwrap().len();
        assert!(size <= SMALL as u64, "{size}");
        assert_eq!(open(&dir).stories(), [Story::new(stays)]);
    }

    #[test]
    fn after_a_failed_write_nothing_is_lost_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let journal = open(&dir);
        let (first, second) = (record(), record());
        // A file that cannot be written to stands for a disk that is full.
        journal.book().file = Some(File::open(dir.path().join("spawns")).unwrap());
        journal.started(first);
        assert!(open(&dir).stories().is_empty());
        journal.started(second);
        assert_eq!(open(&dir).stories().len(), 2);
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
