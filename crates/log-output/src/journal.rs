//! Log lines as entries of systemd's journal, with their fields.
//!
//! [`JsonLines`](crate::JsonLines) makes the lines, [`LogOutput`](crate::LogOutput) keeps them in its bounded buffer, and this sink, on the
//! thread that writes, makes an entry of each. So what is logged is the same as in JSON, and a journal that is slow blocks nothing but that thread.
//!
//! ```text
//! MESSAGE=start failed node.id=node-a …   PRIORITY=4   SYSLOG_IDENTIFIER=hatchery
//! HATCHERY_TARGET=frontdoor::spawning     HATCHERY_NODE_ID=node-a      HATCHERY_REQUEST_ID=…
//! ```
//!
//! The crate `tracing-journald` sends from the thread that logs, on a blocking socket, and its `MESSAGE` has no fields, so that
//! `journalctl` without options would not show them.
//!
//! An entry that the journal does not take (it is gone, or the entry is larger than a datagram may be) is written to the fallback as the line
//! that it was.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::object::Object;

/// Where the journal takes entries.
pub const JOURNAL: &str = "/run/systemd/journal/socket";

/// What a name of a field begins with, so that it is none of the journal's own.
const PREFIX: &str = "HATCHERY_";
/// The journal takes no longer names.
const MAX_NAME: usize = 64;

/// What stands in the entry's `MESSAGE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message {
    /// Words, and the fields as `name=value`.
    Text,
    /// The line of JSON.
    Json,
}

/// Whether this is the stream that systemd connected to the journal. `named` is the value of the variable `JOURNAL_STREAM`.
#[must_use]
pub fn is_journal_stream(named: Option<&str>, stream: impl AsFd) -> bool {
    let Some((device, inode)) = named.and_then(|named| named.split_once(':')) else { return false };
    let file = stream.as_fd().try_clone_to_owned().map(File::from);
    let Ok(found) = file.and_then(|file| file.metadata()) else { return false };
    device.parse() == Ok(found.dev()) && inode.parse() == Ok(found.ino())
}

/// A sink that sends JSON lines to the journal. It takes whole lines.
#[derive(Debug)]
pub struct JournalEntries<W> {
    socket: UnixDatagram,
    journal: PathBuf,
    identifier: &'static str,
    message: Message,
    fallback: W,
}

impl<W: Write> JournalEntries<W> {
    /// Sends to the journal that listens at this path, [`JOURNAL`] but in tests.
    ///
    /// # Errors
    /// There is no journal, or no socket to be had.
    pub fn new(journal: &Path, identifier: &'static str, message: Message, fallback: W) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        // Only to see that it is there: without a connection, a journal that was started again gets what comes next.
        UnixDatagram::unbound()?.connect(journal)?;
        Ok(Self { socket, journal: journal.to_owned(), identifier, message, fallback })
    }

    fn entry(&self, line: &str) -> Vec<u8> {
        let mut entry = Vec::with_capacity(line.len() * 2);
        put(&mut entry, "SYSLOG_IDENTIFIER", self.identifier);
        let Some(Object(fields)) = serde_json::from_str(line).ok() else {
            // A message for people.
            put(&mut entry, "PRIORITY", "6");
            put(&mut entry, "MESSAGE", line);
            return entry;
        };
        let mut message = String::new();
        let mut rest = String::new();
        for (name, value) in &fields {
            let text = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            match name.as_str() {
                // The journal notes when it gets an entry.
                "timestamp" => continue,
                "level" => {
                    put(&mut entry, "PRIORITY", priority(&text));
                    continue;
                }
                "message" => {
                    message = text;
                    continue;
                }
                "target" => {}
                _ => {
                    let plain = !text.is_empty() && !text.contains([' ', '"', '=', '\n', '\t']);
                    let shown = if plain { text.clone() } else { Value::from(text.as_str()).to_string() };
                    let written = write!(rest, " {name}={shown}");
                    debug_assert!(written.is_ok(), "a text takes what is written");
                }
            }
            put(&mut entry, &journal_name(name), &text);
        }
        match self.message {
            Message::Text => put(&mut entry, "MESSAGE", &(message + &rest)),
            Message::Json => put(&mut entry, "MESSAGE", line),
        }
        entry
    }
}

impl<W: Write> Write for JournalEntries<W> {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        for line in lines.split_inclusive(|byte| *byte == b'\n') {
            let text = String::from_utf8_lossy(line);
            let entry = self.entry(text.trim_end_matches('\n'));
            if self.socket.send_to(&entry, &self.journal).is_err() {
                self.fallback.write_all(line)?;
            }
        }
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.fallback.flush()
    }
}

/// Adds a field in the journal's own form. A value of several lines goes with its length before it.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    entry.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        entry.push(b'\n');
        entry.extend_from_slice(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
    } else {
        entry.push(b'=');
    }
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// `spawn.id` is `HATCHERY_SPAWN_ID`, and `requestId` `HATCHERY_REQUEST_ID`.
fn journal_name(name: &str) -> String {
    let mut made = PREFIX.to_owned();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !made.ends_with('_') {
            made.push('_');
        }
        made.push(if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
    }
    made.truncate(MAX_NAME);
    made
}

/// As syslog counts them.
fn priority(level: &str) -> &'static str {
    match level {
        "ERROR" => "3",
        "WARN" => "4",
        "INFO" => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::time::Duration;

    use super::*;

    /// The fields of an entry, as the journal reads them.
    fn fields(mut entry: &[u8]) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        while !entry.is_empty() {
            let end = entry.iter().position(|byte| *byte == b'\n').unwrap();
            let line = String::from_utf8(entry[..end].to_vec()).unwrap();
            entry = &entry[end + 1..];
            let (name, value) = if let Some((name, value)) = line.split_once('=') {
                (name.to_owned(), value.to_owned())
            } else {
                let length = usize::try_from(u64::from_le_bytes(entry[..8].try_into().unwrap())).unwrap();
                let value = String::from_utf8(entry[8..8 + length].to_vec()).unwrap();
                assert_eq!(entry[8 + length], b'\n');
                entry = &entry[9 + length..];
                (line, value)
            };
            assert!(name.len() <= MAX_NAME && !name.starts_with('_'), "{name}");
            assert_eq!(found.insert(name, value), None);
        }
        found
    }

    #[test]
    fn a_line_becomes_an_entry_with_its_fields_and_a_message_that_shows_them() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut taken = vec![0; 1 << 16];
        let mut entry = |sink: &mut JournalEntries<Vec<u8>>, lines: &str| {
            sink.write_all(lines.as_bytes()).unwrap();
            let length = journal.recv(&mut taken).unwrap();
            fields(&taken[..length])
        };
        let line = r#"{"timestamp":"2026-11-27T10:00:00Z","level":"WARN","target":"a::b","message":"start failed","spawn.id":"s1","requestId":"r1","took_us":7,"why":"a b\nc","level2":true}"#;
        let mut sink = JournalEntries::new(&path, "hatchery", Message::Text, Vec::new()).unwrap();
        let found = entry(&mut sink, &format!("{line}\n"));
        for (name, value) in [
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "hatchery"),
            ("MESSAGE", r#"start failed spawn.id=s1 requestId=r1 took_us=7 why="a b\nc" level2=true"#),
            ("HATCHERY_TARGET", "a::b"),
            ("HATCHERY_SPAWN_ID", "s1"),
            ("HATCHERY_REQUEST_ID", "r1"),
            ("HATCHERY_TOOK_US", "7"),
            ("HATCHERY_WHY", "a b\nc"),
            ("HATCHERY_LEVEL2", "true"),
        ] {
            assert_eq!(found.get(name).map(String::as_str), Some(value), "{name}: {found:?}");
        }
        assert_eq!(found.len(), 9, "{found:?}");
        assert_eq!(entry(&mut sink, "cannot do it\n")["MESSAGE"], "cannot do it");

        let mut sink = JournalEntries::new(&path, "hatchery", Message::Json, Vec::new()).unwrap();
        let found = entry(&mut sink, &format!("{line}\n"));
        assert_eq!((&*found["MESSAGE"], &*found["HATCHERY_SPAWN_ID"]), (line, "s1"));
    }

    #[test]
    fn what_the_journal_does_not_take_is_written_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        assert!(JournalEntries::new(&path, "hatchery", Message::Text, Vec::new()).is_err(), "there is none");
        let journal = UnixDatagram::bind(&path).unwrap();
        let mut sink = JournalEntries::new(&path, "hatchery", Message::Text, Vec::new()).unwrap();
        let huge = format!("{{\"message\":\"{}\"}}\n", "x".repeat(8 << 20));
        sink.write_all(huge.as_bytes()).unwrap();
        assert!(sink.fallback == huge.as_bytes(), "a huge line is lost");
        drop(journal);
        fs::remove_file(&path).unwrap();
        sink.fallback.clear();
        sink.write_all(b"{\"message\":\"one\"}\n{\"message\":\"two\"}\n").unwrap();
        assert_eq!(sink.fallback, b"{\"message\":\"one\"}\n{\"message\":\"two\"}\n");
        // Started again.
        let journal = UnixDatagram::bind(&path).unwrap();
        journal.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        sink.write_all(b"{\"message\":\"three\"}\n").unwrap();
        let mut taken = [0; 1024];
        let length = journal.recv(&mut taken).unwrap();
        assert_eq!(fields(&taken[..length])["MESSAGE"], "three");
    }

    #[test]
    fn only_the_stream_that_systemd_named_is_the_journals() {
        let (_reader, writer) = io::pipe().unwrap();
        let found = File::from(writer.as_fd().try_clone_to_owned().unwrap()).metadata().unwrap();
        let named = |device: u64, inode: u64| format!("{device}:{inode}");
        assert!(is_journal_stream(Some(&named(found.dev(), found.ino())), &writer));
        assert!(!is_journal_stream(Some(&named(found.dev(), found.ino() + 1)), &writer));
        for other in [None, Some(""), Some("8"), Some("8:x")] {
            assert!(!is_journal_stream(other, &writer), "{other:?}");
        }
    }
}
