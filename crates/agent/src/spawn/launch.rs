//! From the start of a process to its server, where it gets a control group: this very program is started under another name,
//! goes into the group, limits the size of its files, becomes who it is to be, and then the server. So nothing of the server ever runs outside, and the
//! agent never forks.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use super::cgroup::Group;
use super::limits;
use crate::users::user::Ids;

/// The name that this program is started by when it is to become a server.
pub const LAUNCHER: &str = "hatchery-launch";
/// Stands for a limit, user or group that stays.
const SAME: &str = "-";
/// Stands before the names of the server's variables: before that, this is another program, which they must not lead to other
/// libraries.
const PACKED: &str = "HATCHERY_LAUNCH_";
/// What a shell says when something cannot be started.
const CANNOT_START: u8 = 127;

/// A command that becomes `executable` with the arguments that are added. No file that it writes gets longer than `file_size` bytes.
pub(crate) fn command(
    group: &Group,
    file_size: Option<u64>,
    user: Option<Ids>,
    executable: &Path,
) -> Command {
    let number = |number: Option<u64>| number.map_or(SAME.to_owned(), |number| number.to_string());
    // Whatever was put in this program's place meanwhile.
    let mut command = Command::new("/proc/self/exe");
    command.arg0(LAUNCHER).arg(group.dir()).arg(number(file_size));
    let id = |of: fn(Ids) -> u32| number(user.map(|user| of(user).into()));
    command.arg(id(|user| user.uid)).arg(id(|user| user.gid)).arg(executable);
    command
}

/// The name under which this program is given a variable of the server's.
pub(crate) fn packed(name: &OsStr) -> OsString {
    let mut packed = OsString::from(PACKED);
    packed.push(name);
    packed
}

/// The variables that were given under such names.
fn unpacked() -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.as_bytes().strip_prefix(PACKED.as_bytes())?;
        Some((OsStr::from_bytes(name).to_owned(), value))
    })
}

/// What this program does under the name [`LAUNCHER`]. It returns only when there is no server to become; why is written to
/// where the server would write to.
pub fn launch(words: impl Iterator<Item = OsString>) -> ExitCode {
    let error = become_server(words);
    writeln!(io::stderr(), "# hatchery {error}").ok();
    ExitCode::from(CANNOT_START)
}

fn become_server(mut words: impl Iterator<Item = OsString>) -> io::Error {
    let (Some(group), Some(file_size), Some(user), Some(own_group), Some(executable)) =
        (words.next(), words.next(), words.next(), words.next(), words.next())
    else {
        return io::Error::other("was started by a name that only its agent uses");
    };
    // 0 is the process that writes it.
    let procs = Path::new(&group).join("cgroup.procs");
    if let Err(error) = std::fs::write(&procs, "0") {
        return io::Error::other(format!("cannot enter the control group {}: {error}", procs.display()));
    }
    if let Some(bytes) = file_size.to_str().and_then(|word| word.parse().ok())
        && let Err(error) = limits::bound_own_files(bytes)
    {
        return io::Error::other(format!("cannot limit the size of files to {bytes} bytes: {error}"));
    }
    let mut command = Command::new(&executable);
    command.args(words).env_clear().envs(unpacked());
    let number = |word: &OsStr| word.to_str().and_then(|word| word.parse::<u32>().ok());
    if let (Some(uid), Some(gid)) = (number(&user), number(&own_group)) {
        command.uid(uid).gid(gid);
    }
    let error = command.exec();
    io::Error::other(format!("cannot start {}: {error}", Path::new(&executable).display()))
}
