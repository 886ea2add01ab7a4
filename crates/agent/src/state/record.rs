//! What there is to know of one spawn, in a file of its own: one line of JSON, written once its process was started, and
//! a line more for each thing that must not be forgotten.
//!
//! Each line is one write, so an agent that is killed leaves whole lines, or a last one without its end that counts for
//! nothing. Without a first line the process itself is still found, see `adoption`.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use model::{Exit, RendererType, SpawnId, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Moment, StateDir};
use crate::spawn::exit::Cause;

/// Most files that are looked at.
const MOST: usize = 200_000;

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Record {
    pub(crate) id: SpawnId,
    pub(crate) pid: u32,
    /// When that process was started, as the kernel counts; tells it from a later one with the same number.
    pub(crate) start: u64,
    /// The run of the machine.
    pub(crate) boot: String,
    pub(crate) port: u16,
    pub(crate) renderer: RendererType,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) gpu: Option<u32>,
    pub(crate) endpoint: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// Where it reports to.
    pub(crate) liveliness: String,
    /// And how often.
    pub(crate) ping_ms: u64,
    pub(crate) request_id: String,
    pub(crate) log: PathBuf,
    pub(crate) started: Moment,
    /// The same for people.
    pub(crate) started_at: Timestamp,
    /// When it must have said `ready`.
    pub(crate) ready_by: Moment,
}

/// A further line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Mark {
    /// It said `ready`.
    Ready(Moment),
    /// It said `disconnect`.
    Disconnected(Moment),
    /// It is being ended.
    Ending(Cause),
    /// It has ended, and the registry may not know yet.
    Ended(Moment, Exit),
}

/// All that a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Story {
    pub(crate) record: Record,
    pub(crate) ready: Option<Moment>,
    pub(crate) disconnected: Option<Moment>,
    pub(crate) ending: Option<Cause>,
    pub(crate) ended: Option<(Moment, Exit)>,
}

impl Story {
    /// Of a spawn that was only just started.
    pub(crate) fn new(record: Record) -> Self {
        Self { record, ready: None, disconnected: None, ending: None, ended: None }
    }

    fn read(text: &str) -> Option<Self> {
        // What comes after the last end of a line was not written whole.
        let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
        let mut story = Self::new(serde_json::from_str(lines.next()?).ok()?);
        for mark in lines.filter_map(|line| serde_json::from_str(line).ok()) {
            match mark {
                Mark::Ready(at) => story.ready = Some(at),
                Mark::Disconnected(at) => story.disconnected = Some(at),
                Mark::Ending(cause) => story.ending = Some(cause),
                Mark::Ended(at, exit) => story.ended = Some((at, exit)),
            }
        }
        Some(story)
    }
}

fn line<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

impl StateDir {
    fn record_path(&self, id: SpawnId) -> PathBuf {
        self.spawns.join(id.to_string())
    }

    fn append(&self, id: SpawnId, new: bool, line: &[u8]) -> io::Result<()> {
        let path = self.record_path(id);
        let mut file: File = OpenOptions::new().append(true).create(new).mode(0o600).open(path)?;
        file.write_all(line)
    }

    /// Writes the first line. A spawn goes on without it; the next agent will know less of it.
    pub(crate) fn write(&self, record: &Record) {
        if let Err(error) = line(record).and_then(|line| self.append(record.id, true, &line)) {
            tracing::warn!(%error, spawn.id = %record.id, "failed to write the record of a spawn");
        }
    }

    /// Adds a line.
    pub(crate) fn mark(&self, id: SpawnId, mark: &Mark) {
        match line(mark).and_then(|line| self.append(id, false, &line)) {
            Ok(()) => {}
            // Its record could not be written, which was told then.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, spawn.id = %id, ?mark, "failed to add to the record of a spawn")
            }
        }
    }

    /// Nobody needs it any more.
    pub(crate) fn remove(&self, id: SpawnId) {
        match std::fs::remove_file(self.record_path(id)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, spawn.id = %id, "failed to remove the record of a spawn"),
        }
    }

    /// What earlier agents left. Files that say nothing are removed.
    pub(crate) fn stories(&self) -> io::Result<Vec<Story>> {
        let mut stories = Vec::new();
        for entry in std::fs::read_dir(&self.spawns)?.take(MOST) {
            let path = entry?.path();
            let story = std::fs::read_to_string(&path).ok().and_then(|text| Story::read(&text));
            match story {
                Some(story) => stories.push(story),
                None => {
                    tracing::debug!(path = %path.display(), "a record of a spawn says nothing");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        stories.sort_by_key(|story| story.record.started);
        Ok(stories)
    }
}

#[cfg(test)]
mod tests {
    use model::ExitReason;
    use proptest::prelude::*;

    use super::*;

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
            liveliness: "http://127.0.0.1:7071/liveliness".to_owned(),
            ping_ms: 5000,
            request_id: "r".to_owned(),
            log: "/s/logs/x.log".into(),
            started: Moment(5),
            started_at: Timestamp::from_millis(1_700_000_000_000),
            ready_by: Moment(30_005),
        }
    }

    fn exit() -> Exit {
        Exit { reason: ExitReason::Failed, code: Some(6), signal: None, text: Some("a\nb".to_owned()) }
    }

    #[test]
    fn what_was_written_is_read_again_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        let record = record();
        let mut want = Story::new(record.clone());
        state.write(&record);
        assert_eq!(state.stories().unwrap(), [want.clone()]);
        state.mark(record.id, &Mark::Ready(Moment(6)));
        state.mark(record.id, &Mark::Disconnected(Moment(7)));
        state.mark(record.id, &Mark::Ending(Cause::Lingered));
        state.mark(record.id, &Mark::Ended(Moment(8), exit()));
        want.ready = Some(Moment(6));
        want.disconnected = Some(Moment(7));
        want.ending = Some(Cause::Lingered);
        want.ended = Some((Moment(8), exit()));
        assert_eq!(state.stories().unwrap(), [want]);
        state.remove(record.id);
        state.remove(record.id);
        state.mark(record.id, &Mark::Ready(Moment(9)));
        assert!(state.stories().unwrap().is_empty(), "a mark makes no record");
    }

    #[test]
    fn files_that_say_nothing_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::open(dir.path()).unwrap();
        for text in ["", "{", "{}\n", "\n\n"] {
            std::fs::write(dir.path().join("spawns/x"), text).unwrap();
            assert!(state.stories().unwrap().is_empty());
            assert!(!dir.path().join("spawns/x").exists(), "{text:?}");
        }
    }

    proptest! {
        /// However much of it was written: what is read was said, and nothing else.
        #[test]
        fn a_file_that_ends_anywhere_says_what_its_whole_lines_say(cut in 0usize..2000) {
            let record = record();
            let lines = [
                line(&record).unwrap(),
                line(&Mark::Ready(Moment(61_000))).unwrap(),
                line(&Mark::Ending(Cause::Stopped)).unwrap(),
                line(&Mark::Ended(Moment(8), exit())).unwrap(),
            ];
            let whole = lines.concat();
            let cut = cut.min(whole.len());
            let story = Story::read(std::str::from_utf8(&whole[..cut]).unwrap());
            let mut ends = lines.iter().scan(0, |sum, line| { *sum += line.len(); Some(*sum) });
            let has = [(); 4].map(|()| ends.next().unwrap() <= cut);
            prop_assert_eq!(story.is_some(), has[0]);
            if let Some(story) = story {
                prop_assert_eq!(story.record, record);
                prop_assert_eq!(story.ready.is_some(), has[1]);
                prop_assert_eq!(story.ending.is_some(), has[2]);
                prop_assert_eq!(story.ended.is_some(), has[3]);
            }
        }
    }
}
