//! What a spawned server writes: one file per spawn, so that a restarting agent breaks no pipe, bounded without the
//! server noticing.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use model::{NodeId, RequestId, SpawnId};
use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate};

use crate::secret;

/// Beyond so many bytes on the disk a file is cut.
pub(crate) const MAX_ON_DISK: u64 = 8 << 20;
/// This much stays when a file is cut, and no more is read.
const KEEP: u64 = 1 << 20;
/// Begins the line that the agent writes before each start.
const OURS: &str = "# hatchery spawn.id=";
/// Ends the name of the file of a warm server.
const WARM: &str = ".warm";
/// Lines that go with the answer about a spawn that has ended.
const LAST_LINES: usize = 20;
/// Characters of such a line.
const LINE_CHARS: usize = 500;
/// Characters of any line.
const MAX_LINE_CHARS: usize = 64 << 10;
/// Bytes of all lines together: what must be made harmless grows, and a message has its limits.
const MAX_TEXT_BYTES: usize = 2 << 20;

/// The file of one spawn.
pub(crate) fn path(dir: &Path, id: SpawnId) -> PathBuf {
    dir.join(format!("{id}.log"))
}

/// The file of a warm server that is no spawn's.
pub(crate) fn warm_path(dir: &Path, server: SpawnId) -> PathBuf {
    dir.join(format!("{server}{WARM}"))
}

/// The server that a file is of, if it is a warm server's.
pub(crate) fn warm_server_of(path: &Path) -> Option<SpawnId> {
    path.file_name()?.to_str()?.strip_suffix(WARM)?.parse().ok()
}

/// The spawn that a file is of.
pub(crate) fn spawn_of(path: &Path) -> Option<SpawnId> {
    path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()
}

/// Makes the file of a warm server.
pub(crate) fn create_warm(dir: &Path, server: SpawnId, node: &NodeId) -> io::Result<File> {
    let mut file =
        open(&warm_path(dir, server), OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL)?;
    file.write_all(format!("# hatchery server.id={server} node.id={node}\n").as_bytes())?;
    Ok(file)
}

/// The file of a warm server becomes that of the spawn that has got the server, which goes on writing to it. A line says whose it is from
/// there on.
pub(crate) fn pass_on(
    dir: &Path,
    (server, id): (SpawnId, SpawnId),
    request: &RequestId,
    node: &NodeId,
) -> io::Result<()> {
    match std::fs::rename(warm_path(dir, server), path(dir, id)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        // It may have been removed: the spawn has a file all the same.
        Ok(()) | Err(_) => {}
    }
    create(dir, id, request, node).map(drop)
}

/// Makes the file of a spawn, with a first line that says whose it is; one that is there goes on.
pub(crate) fn create(dir: &Path, id: SpawnId, request: &RequestId, node: &NodeId) -> io::Result<File> {
    let path = path(dir, id);
    let mut file = match open(&path, OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::EXCL) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            open(&path, OFlags::WRONLY | OFlags::APPEND)?
        }
        opened => opened?,
    };
    file.write_all(format!("{OURS}{id} request.id={request} node.id={node}\n").as_bytes())?;
    Ok(file)
}

/// Opens a log, and makes sure that it is a file of the agent's: a server that runs as the agent may have put something else in its
/// place.
fn open(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let meta = file.metadata()?;
    let own = rustix::process::geteuid().as_raw();
    let why = match meta {
        _ if !meta.is_file() => "it is no regular file".to_owned(),
        _ if meta.nlink() > 1 => "it has another name as well".to_owned(),
        _ if meta.uid() != own => format!("it belongs to user {}, not to the agent's, {own}", meta.uid()),
        _ => return Ok(file),
    };
    Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{} is not used: {why}", path.display())))
}

/// Frees the front of a file that has become too long, and what is reserved beyond its end; says whether there was anything to free.
/// The server goes on appending at its end, undisturbed; where the file system knows no holes, everything up to now is lost instead.
/// A file that is half as long as the server may write (`most`) is made short as well, so that the server never meets that limit while it
/// is looked at.
pub(crate) fn bound(path: &Path, most: Option<u64>) -> io::Result<bool> {
    let on_disk = |meta: &std::fs::Metadata| meta.blocks() * 512;
    let meta = std::fs::symlink_metadata(path)?;
    let is_long = most.is_some_and(|most| meta.len() > most / 2);
    if on_disk(&meta) <= MAX_ON_DISK && !is_long {
        return Ok(false);
    }
    let mut file = open(path, OFlags::RDWR | OFlags::APPEND | OFlags::NONBLOCK)?;
    if is_long {
        shorten(&mut file)?;
    }
    let front = file.metadata()?.len().saturating_sub(KEEP) & !0xfff;
    if front > 0 {
        match fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, front) {
            Ok(()) => {}
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(0)?,
            Err(error) => return Err(error.into()),
        }
    }
    let meta = file.metadata()?;
    if on_disk(&meta) > MAX_ON_DISK {
        // Lines that are written at this moment may get lost.
        file.set_len(meta.len())?;
    }
    Ok(true)
}

/// Takes the front out of a file. Where the file system cannot, its end is written anew, and what is written meanwhile may get lost.
fn shorten(file: &mut File) -> io::Result<()> {
    let len = file.metadata()?.len();
    let front = len.saturating_sub(KEEP) & !0xfff;
    if front == 0 || fallocate(&*file, FallocateFlags::COLLAPSE_RANGE, 0, front).is_ok() {
        return Ok(());
    }
    let mut end = vec![0; usize::try_from(len - front).unwrap_or(0)];
    file.read_exact_at(&mut end, front)?;
    file.set_len(0)?;
    file.write_all(&end)
}

/// The last lines of a file, at most `lines` of them, harmless to print.
pub(crate) fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    read_tail(path, lines, KEEP, MAX_LINE_CHARS)
}

/// The last lines that the process itself wrote, short enough to go with an answer.
pub(crate) fn last_words(path: &Path) -> Vec<String> {
    let mut words = read_tail(path, LAST_LINES + 1, 64 << 10, LINE_CHARS).unwrap_or_default();
    // What was written before belongs to a process that did not get its port.
    if let Some(ours) = words.iter().rposition(|line| line.starts_with(OURS)) {
        words.drain(..=ours);
    }
    if words.len() > LAST_LINES {
        words.remove(0);
    }
    words
}

fn read_tail(path: &Path, lines: usize, most: u64, chars: usize) -> io::Result<Vec<String>> {
    // A pipe does not hang it.
    let file = open(path, OFlags::RDONLY | OFlags::NONBLOCK)?;
    let size = file.metadata()?.len();
    let from = size.saturating_sub(most);
    let mut bytes = vec![0; usize::try_from(size - from).unwrap_or(0)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], from + filled as u64) {
            // Truncated meanwhile.
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(filled);
    // A hole reads as NULs; what follows it, or a start in the middle of the file, is the rest of a line. It is left
    // out unless it is all there is.
    let hole = bytes.iter().take_while(|b| **b == 0).count();
    let mut text = &bytes[hole..];
    if hole > 0 || from > 0 {
        let whole = text.iter().position(|b| *b == b'\n').map_or(&[][..], |end| &text[end + 1..]);
        if !whole.is_empty() {
            text = whole;
        }
    }
    let mut last = VecDeque::new();
    let mut room = MAX_TEXT_BYTES;
    for line in text.strip_suffix(b"\n").unwrap_or(text).rsplit(|b| *b == b'\n').take(lines) {
        let line = harmless(line, chars);
        let Some(left) = room.checked_sub(line.len()) else { break };
        room = left;
        last.push_front(line);
    }
    if text.is_empty() {
        last.clear();
    }
    Ok(last.into())
}

/// A line that can be shown on any terminal.
fn harmless(line: &[u8], chars: usize) -> String {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    for c in secret::masked(&String::from_utf8_lossy(line)).chars().take(chars) {
        if c.is_control() && c != '\t' {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn the_last_lines_come_in_order() {
        for (text, lines, want) in [
            ("", 5, &[][..]),
            ("one", 5, &["one"]),
            ("one\ntwo\n", 5, &["one", "two"]),
            ("one\ntwo\nthree\n", 2, &["two", "three"]),
            ("one\n\nthree", 2, &["", "three"]),
            ("dos\r\nend\r\n", 5, &["dos", "end"]),
            ("a\tb \u{1b}[31mred\u{7}\n", 1, &["a\tb \\u{1b}[31mred\\u{7}"]),
            ("one\n", 0, &[]),
        ] {
            let file = written(text.as_bytes());
            assert_eq!(tail(file.path(), lines).unwrap(), want, "{text:?}");
        }
        let file = written(b"caf\xe9\n");
        assert_eq!(tail(file.path(), 1).unwrap(), ["caf\u{fffd}"]);
    }

    #[test]
    fn garbage_does_not_burst_a_message() {
        let file = written(&[1; 3 << 20]);
        let lines = tail(file.path(), 10).unwrap();
        assert!(
            lines.len() == 1 && lines[0].len() <= MAX_TEXT_BYTES,
            "part of a line that began too far back"
        );
        let line = [&[1; 99_999][..], b"\n"].concat();
        let lines = tail(written(&line.repeat(30)).path(), 10_000).unwrap();
        let bytes: usize = lines.iter().map(String::len).sum();
        assert!(!lines.is_empty() && bytes <= MAX_TEXT_BYTES, "{bytes} bytes in {} lines", lines.len());
    }

    #[test]
    fn last_words_leave_out_what_the_agent_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let id = SpawnId::mint();
        let mut file = create(dir.path(), id, &RequestId::mint(), &"n".parse().unwrap()).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert!(last_words(&path(dir.path(), id)).is_empty());
        for i in 0..30 {
            writeln!(file, "{i} {}", "x".repeat(600)).unwrap();
            let words = last_words(&path(dir.path(), id));
            assert_eq!(words.len(), (i + 1).min(20));
            assert!(words.last().unwrap().starts_with(&format!("{i} ")));
            assert!(words.iter().all(|w| w.chars().count() == 500));
        }
    }

    #[test]
    fn no_link_pipe_or_second_name_is_taken_for_a_log() {
        let dir = tempfile::tempdir().unwrap();
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "password\n").unwrap();
        let id = SpawnId::mint();
        let log = path(dir.path(), id);
        let created = || create(dir.path(), id, &RequestId::mint(), &"n".parse().unwrap());
        let put = |how: &dyn Fn()| {
            std::fs::remove_file(&log).ok();
            how();
            assert!(tail(&log, 10).is_err() && last_words(&log).is_empty());
        };
        put(&|| std::os::unix::fs::symlink(&secret, &log).unwrap());
        assert!(created().is_err());
        put(&|| std::fs::hard_link(&secret, &log).unwrap());
        assert!(created().is_err());
        put(&|| assert!(std::process::Command::new("mkfifo").arg(&log).status().unwrap().success()));
        assert_eq!(
            std::fs::read_to_string(&secret).unwrap(),
            "password\n",
            "nothing was written through a link"
        );
        std::fs::remove_file(&log).unwrap();
        created().unwrap();
        created().unwrap();
        assert_eq!(tail(&log, 10).unwrap().len(), 2, "one that is the agent's own goes on");
    }

    #[test]
    fn what_is_reserved_beyond_the_end_of_a_file_is_freed() {
        let dir = tempfile::tempdir().unwrap();
        let id = SpawnId::mint();
        let path = path(dir.path(), id);
        let mut file = create(dir.path(), id, &RequestId::mint(), &"n".parse().unwrap()).unwrap();
        writeln!(file, "the end").unwrap();
        let reserved = fallocate(&file, FallocateFlags::KEEP_SIZE, 1 << 20, 4 * MAX_ON_DISK);
        if reserved.is_err() || std::fs::metadata(&path).unwrap().blocks() * 512 <= MAX_ON_DISK {
            // This file system cannot.
            return;
        }
        assert!(bound(&path, None).unwrap());
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= MAX_ON_DISK);
        assert_eq!(tail(&path, 1).unwrap(), ["the end"]);
        assert!(!bound(&path, None).unwrap());
    }

    #[test]
    fn a_file_is_made_short_before_its_server_meets_its_limit_and_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let id = SpawnId::mint();
        let path = path(dir.path(), id);
        let mut file = create(dir.path(), id, &RequestId::mint(), &"n".parse().unwrap()).unwrap();
        let (line, most) = ("z".repeat(1023), 32 << 20);
        for i in 0..60_000 {
            writeln!(file, "{i} {line}").unwrap();
            if i % 1000 == 0 {
                bound(&path, Some(most)).unwrap();
                assert!(std::fs::metadata(&path).unwrap().len() <= most / 2, "after {i} lines");
            }
        }
        let lines = tail(&path, 100).unwrap();
        assert!(lines[99].starts_with("59999 ") && lines[0].starts_with("59900 "), "{}", lines.len());
    }

    #[test]
    fn a_long_file_loses_its_front_while_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let id = SpawnId::mint();
        let path = path(dir.path(), id);
        let mut file = create(dir.path(), id, &RequestId::mint(), &"n".parse().unwrap()).unwrap();
        let line = "y".repeat(1023);
        for i in 0..20_000 {
            writeln!(file, "{i} {line}").unwrap();
            if i % 1000 == 0 {
                bound(&path, None).unwrap();
            }
        }
        bound(&path, None).unwrap();
        writeln!(file, "the end").unwrap();
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 <= MAX_ON_DISK);
        let lines = tail(&path, 10_000).unwrap();
        assert_eq!(lines.last().unwrap(), "the end");
        let numbers: Vec<u32> = lines[..lines.len() - 1]
            .iter()
            .map(|line| line.split_once(' ').unwrap().0.parse().unwrap())
            .collect();
        assert!(numbers.len() > 900, "{} lines are left", numbers.len());
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]));
        assert_eq!(numbers.last(), Some(&19_999));
    }
}
