//! One process of the program under test: what it says, what it logs, how it ends.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, PipeReader, Write};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::Signal;
use tokio::time::timeout;

use crate::http::Client;
use crate::processes;
use crate::program::Program;
use crate::wait::{Look, TIMEOUT, until};

/// A running `hatchery frontdoor`, `hatchery agent` or `hatchery dev`.
#[derive(Debug)]
pub struct Role {
    /// `frontdoor-0`, `node-a`, …
    pub name: String,
    /// Whether the test ended it.
    pub killed: bool,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Where its log can be read, if it goes to a pipe.
    unread: Option<PipeReader>,
}

/// The program under test, in an environment that holds no setting of the caller of the tests.
pub fn hatchery(mark: &Path) -> Command {
    Program::default().command(mark)
}

impl Role {
    /// Starts it; whether it comes up is seen by [`Role::announcement`].
    pub fn start(name: &str, mark: &Path, args: &[String]) -> Self {
        Self::start_in(name, mark, args, mark, &[])
    }

    /// The same with a pipe for its log that is full, and that nobody reads before [`Role::read_on`].
    pub fn start_unread(name: &str, mark: &Path, args: &[String]) -> Self {
        const FULL: usize = 4096;
        let (reader, mut writer) = io::pipe().expect("a pipe can be made");
        rustix::pipe::fcntl_setpipe_size(&writer, FULL).expect("it can be as small as that");
        writer.write_all(&[b'\n'; FULL]).expect("it takes that much");
        let mut role = Self::start_with(&Program::default(), name, mark, args, mark, &[], writer.into());
        role.unread = Some(reader);
        role
    }

    /// Reads its log from now on, until a line has these words.
    pub async fn read_on(&mut self, words: &str) -> String {
        let reader = self.unread.take().expect("its log goes to a pipe");
        let (words, name) = (words.to_owned(), self.name.clone());
        let read = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
            let found = lines.find(|line| line.contains(&words));
            // Whoever has begun to read goes on.
            std::thread::spawn(move || lines.count());
            found
        });
        let line = timeout(TIMEOUT, read).await;
        let line = line.unwrap_or_else(|_| panic!("{name} does not log it")).expect("nothing panics there");
        line.expect("its log has not ended")
    }

    /// The same as this program.
    pub fn start_as(program: &Program, name: &str, mark: &Path, args: &[String]) -> Self {
        let env = clock_of(program);
        let log = open(&mark.join(format!("{name}.log")));
        Self::start_with(program, name, mark, args, mark, &env, log.into())
    }

    /// The same in this directory, with these variables.
    pub fn start_in(
        name: &str,
        mark: &Path,
        args: &[String],
        directory: &Path,
        env: &[(&str, PathBuf)],
    ) -> Self {
        let log = open(&mark.join(format!("{name}.log")));
        Self::start_with(&Program::default(), name, mark, args, directory, env, log.into())
    }

    fn start_with(
        program: &Program,
        name: &str,
        mark: &Path,
        args: &[String],
        directory: &Path,
        env: &[(&str, PathBuf)],
        log: Stdio,
    ) -> Self {
        let [stdout, stderr] = ["stdout", "log"].map(|kind| mark.join(format!("{name}.{kind}")));
        // A second life says its line in a file that holds nothing else.
        fs::remove_file(&stdout).ok();
        let child = program
            .command(mark)
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .current_dir(directory)
            .stdout(open(&stdout))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("the program can be started");
        Self { name: name.to_owned(), killed: false, child, stdout, stderr, unread: None }
    }

    /// The line it says when it listens.
    pub async fn announcement(&mut self) -> String {
        let name = self.name.clone();
        until(&format!("{name} says that it listens"), TIMEOUT, async || {
            if let Some(status) = self.exited() {
                panic!("{name} ended with {status}:\n{}", self.log());
            }
            let said = self.said();
            match said.split_once('\n') {
                Some((line, _)) => Look::Ready(line.to_owned()),
                None => Look::NotYet(format!("it said {said:?}")),
            }
        })
        .await
    }

    /// The process's number: of the program itself, also when another one waits for it.
    pub fn pid(&self) -> u32 {
        let id = self.child.id();
        let file = fs::read_link(format!("/proc/{id}/exe")).unwrap_or_default();
        if file.file_name().is_none_or(|name| name != "unshare") {
            return id;
        }
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(id)
    }

    /// All it wrote to standard output.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// All it logged, in all its lives. A thread of its own writes it, a moment after what it tells of: that a line is there
    /// is for [`Role::logs`] to wait for.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Waits until its log has these words, and returns all of it.
    pub async fn logs(&self, words: &str) -> String {
        self.logs_so(words, |log| log.contains(words)).await
    }

    /// Waits until its log is so, and returns all of it.
    pub async fn logs_so(&self, what: &str, mut so: impl FnMut(&str) -> bool) -> String {
        until(&format!("{} logs {what}", self.name), TIMEOUT, async || {
            let log = self.log();
            if so(&log) { Look::Ready(log) } else { Look::NotYet(log) }
        })
        .await
    }

    /// Whether, and how, it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Ends it without a chance to do anything about it.
    pub fn kill(&mut self) {
        self.killed = true;
        self.child.kill().ok();
        self.child.wait().ok();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        processes::signal(self.pid(), signal);
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("{name} ends"), TIMEOUT, async || match self.exited() {
            Some(status) => Look::Ready(status),
            None => Look::NotYet("it runs".to_owned()),
        })
        .await
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

fn open(path: &Path) -> File {
    File::options().create(true).append(true).open(path).expect("a file can be made")
}

/// What makes a program see its own time of day.
pub(crate) fn clock_of(program: &Program) -> Vec<(&'static str, PathBuf)> {
    if program.clock == 0 { Vec::new() } else { wrong_clock(program.clock) }
}

/// Makes a program see another time of day; how much time passes stays as it is.
fn wrong_clock(seconds: i64) -> Vec<(&'static str, PathBuf)> {
    clock(faketime(), ("FAKETIME", format!("{seconds:+}s").into()))
}

/// Makes redis-server see a time of day that is off by what this file says, whenever that changes. Its own allocator asks for
/// the time before the library is ready to tell it; the C library's does not.
pub(crate) fn own_clock(file: &Path) -> Vec<(&'static str, PathBuf)> {
    let preload = format!("{} libc.so.6", faketime().display()).into();
    let mut clock = clock(preload, ("FAKETIME_TIMESTAMP_FILE", file.to_owned()));
    clock.push(("FAKETIME_NO_CACHE", "1".into()));
    clock
}

fn faketime() -> PathBuf {
    let libraries = fs::read_dir("/usr/lib").expect("there is /usr/lib").flatten();
    libraries
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists())
        .expect("libfaketime is installed")
}

fn clock(preload: PathBuf, off: (&'static str, PathBuf)) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("LD_PRELOAD", preload),
        off,
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ]
}

/// The addresses in an announcement, in their order.
pub fn addresses(announcement: &str) -> Vec<SocketAddr> {
    let words = announcement.split([' ', ',']);
    let address =
        |word: &str| word.strip_prefix("http://").or_else(|| word.strip_prefix("https://"))?.parse().ok();
    words.filter_map(address).collect()
}

/// The same as clients.
pub fn clients(announcement: &str) -> Vec<Client> {
    addresses(announcement).into_iter().map(Client::new).collect()
}
