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
        tags: [("user".to_owned(), "a\"n\u{e9}".to_owned())].into(),
        owner: Some("key:a".parse().unwrap()),
        user: Some(crate::users::user::Ids { uid: 20_001, gid: 20_001 }),
        liveliness: "http://127.0.0.1:7071/liveliness".to_owned(),
        ping_ms: 5000,
        request_id: "r".to_owned(),
        trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".parse().unwrap()),
        phases: Some(model::Phases { waited_ms: Some(5), reserved_ms: 6, sent_ms: 7 }),
        log: "/s/logs/x.log".into(),
        cgroup: None,
        started: Moment(5),
        started_at: Timestamp::from_millis(1_700_000_000_000),
        ready_by: Moment(30_005),
        expires: None,
        server: None,
        settings: None,
        max_idle_ms: None,
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
    let mut want = History::new(record.clone());
    journal.started(record.clone());
    journal.started(other.clone());
    for mark in [
        JournalEvent::Ready(Moment(6)),
        JournalEvent::Disconnected(Moment(7)),
        JournalEvent::Ending(Cause::Lingered),
        JournalEvent::Ended(Moment(8), exit()),
    ] {
        journal.happened(record.id, mark.clone());
        want.add(mark);
    }
    journal.gone(other.id);
    journal.happened(other.id, JournalEvent::Ready(Moment(9)));
    assert_eq!(journal.histories(), [want.clone()]);
    settle(&journal);
    let next = open(&dir);
    assert_eq!(next.histories(), [want]);
    next.gone(record.id);
    settle(&next);
    assert!(next.histories().is_empty() && open(&dir).histories().is_empty());
}

#[test]
fn what_an_older_agent_wrote_says_nothing_of_owners_and_tags() {
    let dir = tempfile::tempdir().unwrap();
    let older = r#"{"started":{"id":"01987a5e-2f30-7c41-9d5c-0123456789ab","pid":7,"start":12,"boot":"b","port":55000,"renderer":"ssr","gpu":1,"endpoint":"ws://h:55000","labels":{"sdk":"1"},"liveliness":"http://127.0.0.1:7071/liveliness","pingMs":5000,"requestId":"r","log":"/s/logs/x.log","started":5,"startedAt":"2023-11-14T22:13:20.000Z","readyBy":30005}}"#;
    std::fs::write(dir.path().join("spawns"), format!("{older}\n")).unwrap();
    let id = "01987a5e-2f30-7c41-9d5c-0123456789ab".parse().unwrap();
    let unowned = Record {
        id,
        owner: None,
        tags: Default::default(),
        user: None,
        trace_id: None,
        phases: None,
        ..record()
    };
    assert_eq!(open(&dir).histories(), [History::new(unowned.clone())]);
    // Nor does one where nobody has to say who they are, so that an older agent can follow, too.
    assert_eq!(JournalLine::Started(Box::new(unowned)).bytes().unwrap(), format!("{older}\n").into_bytes());
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
        journal.happened(id, JournalEvent::Ready(Moment(6)));
        journal.gone(id);
        settle(&journal);
    }
    let size = std::fs::metadata(dir.path().join("spawns")).unwrap().len();
    assert!(size <= SMALL as u64, "{size}");
    assert_eq!(open(&dir).histories(), [History::new(stays)]);
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
    assert!(journal.trouble().is_some() && open(&dir).histories().is_empty());
    journal.started(record());
    settle(&journal);
    assert_eq!((journal.trouble(), open(&dir).histories().len()), (None, 2));
    break_the_pen(&journal, &dir);
    journal.started(record());
    settle(&journal);
    assert!(journal.trouble().is_some());
    check(&journal);
    assert_eq!((journal.trouble(), open(&dir).histories().len()), (None, 3), "no further line is needed");
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
    assert_eq!((journal.trouble(), open().histories().len()), (None, 1));
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
        journal.happened(other.id, JournalEvent::Ready(Moment(6)));
    }
    assert_eq!(journal.histories().len(), 21, "known, though not written");
    // Nobody reads any more: the disk answers that it has failed, and then works again.
    drop((reader, full));
    settle(&journal);
    check(&journal);
    assert_eq!((journal.trouble(), open(&dir).histories().len()), (None, 21));
}

#[test]
fn what_is_damaged_is_kept_aside_and_the_rest_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, cut) = (record(), record());
    let mut text = JournalLine::Started(Box::new(whole.clone())).bytes().unwrap();
    text.extend(b"\0\0garbage\n");
    let line = JournalLine::Started(Box::new(cut)).bytes().unwrap();
    text.extend(&line[..line.len() / 2]);
    std::fs::write(dir.path().join("spawns"), &text).unwrap();
    let journal = open(&dir);
    assert_eq!(journal.histories(), [History::new(whole)]);
    let aside = std::fs::read(dir.path().join("spawns.damaged")).unwrap();
    assert_eq!(aside, [b"\0\0garbage\n", &line[..line.len() / 2]].concat());
    journal.started(record());
    settle(&journal);
    assert_eq!(open(&dir).histories().len(), 2, "the rest of a line does not spoil the next one");
    // A file that cannot be read at all.
    for name in ["spawns", "spawns.damaged"] {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    std::fs::create_dir(dir.path().join("spawns")).unwrap();
    let journal = open(&dir);
    assert_eq!((journal.trouble(), journal.histories().len()), (None, 0));
}

proptest! {
    /// However much of it was written: what is read was said, and nothing else.
    #[test]
    fn a_file_that_ends_anywhere_says_what_its_whole_lines_say(cut in 0usize..2000, junk in any::<bool>()) {
        let record = record();
        let id = record.id;
        let lines = [
            JournalLine::Started(Box::new(record.clone())),
            JournalLine::Happened(id, JournalEvent::Ready(Moment(61_000))),
            JournalLine::Happened(id, JournalEvent::Ending(Cause::Stopped)),
            JournalLine::Happened(id, JournalEvent::Ended(Moment(8), exit())),
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
            let history = history(lines).unwrap();
            prop_assert_eq!(history.record, record);
            prop_assert_eq!(history.ready.is_some(), has[1]);
            prop_assert_eq!(history.ending.is_some(), has[2]);
            prop_assert_eq!(history.ended.is_some(), has[3]);
        }
    }
}

/// What a damaged disk or another release may have left.
#[test]
fn a_damaged_journal_is_read_as_far_as_it_can_be_and_what_is_kept_of_it_says_the_same() {
    let words = ["null", "\"started\"", "\"happened\"", "{}", "\n", "\\u0000", "1e999"];
    fuzzing::fuzz(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/journal"), &words, |bytes| {
        let kept = living(bytes);
        for (id, lines) in &kept {
            let again = living(lines);
            assert_eq!(again.get(id), Some(lines));
            assert_eq!(history(lines).map(|history| history.record.id), Some(*id));
        }
    });
}
