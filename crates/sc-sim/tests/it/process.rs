//! A simulator process and what it writes; it is killed when its test is done with it.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

use crate::seen::{Seen, until};

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
        .port()
}

/// The program alone, in an environment that is not the test's.
pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ts3d-sc-sim"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// A command line that works, to be added to.
pub(crate) struct Start {
    command: Command,
    port: u16,
}

/// With an id, a licence and a port, and everything logged.
pub(crate) fn sim() -> Start {
    let port = free_port();
    let mut command = program();
    command
        .args(["--id", "spawn-1", "--license", "any"])
        .args(["--sc-port", &port.to_string()])
        .args(["--log-stdout-category-mask", "15"])
        .process_group(0);
    Start { command, port }
}

impl Start {
    pub(crate) fn option(mut self, name: &str, value: &str) -> Self {
        self.command.args([name, value]);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn run(self) -> Sim {
        let Self { mut command, port } = self;
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the simulator starts");
        let stdout = read_lines(child.stdout.take().expect("stdout is piped"));
        let stderr = read_lines(child.stderr.take().expect("stderr is piped"));
        Sim { child, port, stdout, stderr }
    }

    /// With the reading end of its stdout closed.
    pub(crate) fn run_unheard(self) -> Sim {
        let Self { mut command, port } = self;
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the simulator starts");
        drop(child.stdout.take());
        Sim { child, port, stdout: Seen::new(), stderr: Seen::new() }
    }
}

/// A running (or ended) simulator.
pub(crate) struct Sim {
    child: Child,
    pub(crate) port: u16,
    pub(crate) stdout: Seen<String>,
    pub(crate) stderr: Seen<String>,
}

impl Sim {
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn logs(&self, text: &str) -> String {
        self.stdout.wait_for(text, |line| line.contains(text))
    }

    pub(crate) fn listens(&self) {
        self.logs("listening on port");
    }

    pub(crate) fn connect(&self) -> TcpStream {
        TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).expect("the port is open")
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waiting works").is_none()
    }

    pub(crate) fn ends(&mut self) -> ExitStatus {
        until("the simulator to exit", || self.child.try_wait().expect("waiting works"))
    }

    pub(crate) fn ends_with(&mut self, code: i32) {
        let status = self.ends();
        assert_eq!(
            status.code(),
            Some(code),
            "{status}; stdout {:#?}; stderr {:#?}",
            self.stdout.all(),
            self.stderr.all()
        );
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // The group, for the sake of grandchildren; it may be gone already.
        kill_process_group(self.pid(), Signal::KILL).ok();
        self.child.wait().ok();
    }
}

fn read_lines(pipe: impl Read + Send + 'static) -> Seen<String> {
    let seen = Seen::new();
    let lines = seen.clone();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            lines.push(line);
        }
    });
    seen
}
