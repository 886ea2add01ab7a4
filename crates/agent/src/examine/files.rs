//! The files of a node: the server, its licence, its models, and the agent's own directory.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use model::{Finding, Level};
use rustix::fs::{Access, StatVfsMountFlags, access, statvfs};

use crate::config::{Config, Launcher};
use crate::spawn::output::MAX_ON_DISK;
use crate::state::ownership;

/// With less room than this an agent cannot keep its records.
const MIN_ROOM: u64 = 64 << 20;
/// Fewer files can be made than a node with a few spawns makes in a day.
const MIN_FILES: u64 = 1000;
/// No licence is longer.
const MAX_LICENSE: usize = 64 << 10;

const SPAWNS_FAIL: &str = "every spawn on this node fails";

/// Who runs the servers, in words.
fn runner(config: &Config) -> String {
    match &config.spawn_users {
        Some(users) => format!("{users} (--spawn-user)"),
        None => format!("user {} (who runs this)", rustix::process::geteuid().as_raw()),
    }
}

/// What keeps the servers from reading this.
fn unreadable(config: &Config, path: &Path) -> Option<String> {
    match &config.spawn_users {
        Some(users) => users.shut_out_of(path),
        None => {
            let wanted = if path.is_dir() { Access::READ_OK | Access::EXEC_OK } else { Access::READ_OK };
            access(path, wanted).err().map(|error| io::Error::from(error).to_string())
        }
    }
}

/// The stream cache server.
pub(super) fn executable(config: &Config) -> Vec<Finding> {
    const ADVICE: &str = "name the vendor's ts3d_sc_server (server/bin/linux64 of the package) with --executable, and chmod 0755 it";
    let Launcher::Executable(path) = &config.launcher else { return Vec::new() };
    let problem = |found: String| vec![Finding::problem("executable", found, SPAWNS_FAIL, ADVICE)];
    let shown = path.display();
    match fs::metadata(path) {
        Err(error) => return problem(format!("{shown} (--executable) cannot be used: {error}")),
        Ok(found) if !found.is_file() => return problem(format!("{shown} (--executable) is no file")),
        Ok(_) => {}
    }
    let refused = match &config.spawn_users {
        Some(users) => users.cannot_run(path),
        None => access(path, Access::EXEC_OK).err().map(|error| io::Error::from(error).to_string()),
    };
    match refused {
        Some(why) => problem(format!("{} cannot run {shown} (--executable): {why}", runner(config))),
        None => vec![Finding::ok("executable", format!("{} can run {shown}", runner(config)))],
    }
}

pub(super) fn license(config: &Config) -> Vec<Finding> {
    const ADVICE: &str = "name the file with the vendor's key with --license-file, readable by those who run the servers (chmod 0640 and \
                          their group)";
    if config.launcher == Launcher::Nothing {
        return Vec::new();
    }
    let Some(path) = &config.license_file else {
        return vec![Finding::warning(
            "license",
            "there is no --license-file",
            "a server without a licence ends at once, unless --arg or its own settings give it one",
            ADVICE,
        )];
    };
    let shown = path.display();
    let problem = |found: String, advice: &str| vec![Finding::problem("license", found, SPAWNS_FAIL, advice)];
    match fs::metadata(path) {
        Err(error) => return problem(format!("{shown} (--license-file) cannot be used: {error}"), ADVICE),
        Ok(found) if !found.is_file() => {
            return problem(format!("{shown} (--license-file) is no file"), ADVICE);
        }
        Ok(_) => {}
    }
    if let Some(why) = unreadable(config, path) {
        return problem(format!("{} cannot read {shown} (--license-file): {why}", runner(config)), ADVICE);
    }
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| {
        file.take(u64::try_from(MAX_LICENSE + 1).unwrap_or(u64::MAX)).read_to_end(&mut bytes)
    });
    if let Err(error) = read {
        return vec![Finding::warning(
            "license",
            format!("{} can read {shown}, and this user cannot look into it: {error}", runner(config)),
            "its form was not looked at",
            "run this as the agent's user",
        )];
    }
    match form(&bytes) {
        Some(why) => problem(
            format!("{shown} (--license-file) {why}"),
            "the file holds the vendor's key as one line of plain text and nothing else: write it again",
        ),
        None => vec![Finding::ok(
            "license",
            format!("{} can read {shown}, and it looks like a key", runner(config)),
        )],
    }
}

/// What shows that this is no licence. The text itself is never repeated.
fn form(bytes: &[u8]) -> Option<&'static str> {
    if bytes.len() > MAX_LICENSE {
        return Some("is longer than any key");
    }
    if bytes.starts_with("\u{feff}".as_bytes())
        || bytes.starts_with(&[0xff, 0xfe])
        || bytes.starts_with(&[0xfe, 0xff])
    {
        return Some("begins with a byte order mark, as an editor under Windows writes it");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return Some("is no text") };
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let (first, more) = (lines.next(), lines.next());
    match (first, more) {
        (None, _) => Some("is empty"),
        (Some(first), _) if first.contains(|c: char| !c.is_ascii() || c.is_ascii_control()) => {
            Some("has characters that no key has")
        }
        (Some(first), _) if first.starts_with(['<', '{', '"', '\'']) || first.starts_with("-----") => {
            Some("is another kind of file: a page, JSON, a quoted string or a PEM")
        }
        (Some(_), Some(_)) => Some("has several lines"),
        (Some(_), None) => None,
    }
}

/// One directory of models.
pub(super) fn model_dir(config: &Config, dir: &Path) -> Vec<Finding> {
    const WHY: &str = "viewers that ask for a model there get an empty view or an error";
    const ADVICE: &str = "mount it, name another with --model-dir, or chmod 0755 it and those above it";
    let shown = dir.display();
    let problem = |found: String| vec![Finding::problem("model-dir", found, WHY, ADVICE)];
    match fs::metadata(dir) {
        Err(error) => return problem(format!("{shown} (--model-dir) cannot be used: {error}")),
        Ok(found) if !found.is_dir() => return problem(format!("{shown} (--model-dir) is no directory")),
        Ok(_) => {}
    }
    if let Some(why) = unreadable(config, dir) {
        return problem(format!("{} cannot read {shown} (--model-dir): {why}", runner(config)));
    }
    vec![Finding::ok("model-dir", format!("{} can read {shown}", runner(config)))]
}

/// Where the agent keeps records and logs.
pub(super) fn state_dir(config: &Config) -> Vec<Finding> {
    let dir = &config.state_dir;
    let shown = dir.display();
    let problem = |found: String, advice: &str| {
        let why = "the agent does not start, or admits no spawn, and the next one cannot take over what runs";
        vec![Finding::problem("state-dir", found, why, advice)]
    };
    if let Err(why) = ownership::check(dir, config.spawn_users.as_ref()) {
        return problem(format!("--state-dir {why}"), "give the agent a directory of its own with mode 0700");
    }
    let there = nearest(dir);
    if !there.is_dir() {
        let found = format!("{shown} (--state-dir) cannot be made: {} is no directory", there.display());
        return problem(found, "name another with --state-dir");
    }
    if let Err(error) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let found = format!(
            "user {} cannot write to {} (--state-dir {shown}): {}",
            rustix::process::geteuid().as_raw(),
            there.display(),
            io::Error::from(error)
        );
        return problem(found, "chown it to the agent's user, or run this as that user");
    }
    let Ok(disk) = statvfs(&there) else {
        return vec![Finding::ok("state-dir", format!("the agent can use {shown}"))];
    };
    if disk.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return problem(
            format!("{shown} (--state-dir) is on a disk that is mounted read-only"),
            "mount it rw",
        );
    }
    let room = disk.f_bavail.saturating_mul(disk.f_frsize);
    let logs = MAX_ON_DISK.saturating_mul(config.slots.into());
    let few_files = disk.f_files > 0 && disk.f_favail < MIN_FILES;
    let level = match room {
        _ if few_files => Level::Warning,
        0..MIN_ROOM => Level::Problem,
        room if room < logs.saturating_add(MIN_ROOM) => Level::Warning,
        _ => {
            let found = format!("the agent can use {shown}; {} MiB are free there", room >> 20);
            return vec![Finding::ok("state-dir", found)];
        }
    };
    let found = if few_files {
        format!("{} more files can be made where {shown} (--state-dir) is", disk.f_favail)
    } else {
        format!("{} MiB are free where {shown} (--state-dir) is", room >> 20)
    };
    vec![Finding::bad(
        "state-dir",
        level,
        found,
        format!(
            "an agent whose disk is full admits no spawn; the logs of {} spawns take {} MiB at the most",
            config.slots,
            logs >> 20
        ),
        "make room, or name a directory on another disk with --state-dir",
    )]
}

/// The directory itself, or the nearest one above it that is there.
fn nearest(dir: &Path) -> PathBuf {
    dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_licence_is_one_line_of_plain_text() {
        for (bytes, bad) in [
            (&b"4KHtBPuz5NbMBDT5Bwf82CF6\n"[..], None),
            (b"a key with spaces\r\n\n", None),
            (b"", Some("empty")),
            (b" \n\n", Some("empty")),
            (b"\xef\xbb\xbfabc\n", Some("byte order mark")),
            (b"\xff\xfea\0b\0", Some("byte order mark")),
            (b"\x80\x81", Some("no text")),
            (b"a\x01b\n", Some("characters")),
            ("schl\u{fc}ssel\n".as_bytes(), Some("characters")),
            (b"<html></html>\n", Some("another kind")),
            (b"-----BEGIN CERTIFICATE-----\n", Some("another kind")),
            (b"\"abc\"\n", Some("another kind")),
            (b"one\ntwo\n", Some("several lines")),
        ] {
            match (form(bytes), bad) {
                (None, None) => {}
                (Some(why), Some(word)) => assert!(why.contains(word), "{bytes:?}: {why}"),
                other => panic!("{bytes:?}: {other:?}"),
            }
        }
        assert_eq!(form(&vec![b'a'; 70_000]), Some("is longer than any key"));
    }
}
