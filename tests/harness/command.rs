//! The operator's commands, run to their end.

use std::path::Path;

use serde_json::Value;

use crate::http::Client;
use crate::program::Program;
use crate::role::{clock_of, hatchery};

/// What a command left behind.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// What it wrote for programs.
    pub stdout: String,
    /// What it wrote for people.
    pub stderr: String,
}

impl Ran {
    /// Standard output as one JSON value.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command against the front door at `server`, in the directory `mark`.
pub async fn run(mark: &Path, server: Client, args: &[&str]) -> Ran {
    run_as(&Program::default(), mark, &[("HATCHERY_SERVER", &format!("http://{}", server.addr))], args).await
}

/// Runs a command as this program, with these variables, in the directory `mark`.
pub async fn run_as(program: &Program, mark: &Path, env: &[(&str, &str)], args: &[&str]) -> Ran {
    let mut command = program.command(mark);
    command.args(args).envs(clock_of(program)).envs(env.iter().copied()).current_dir(mark);
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.expect("nothing panics there").expect("the program can be started");
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Makes an API key with these flags in this file; its credential.
pub fn new_key(mark: &Path, file: &Path, flags: &[&str]) -> String {
    let output = hatchery(mark).args(["key", "new", "--file"]).arg(file).args(flags).output();
    let output = output.expect("the program can be started");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("a credential is text").trim_end().to_owned()
}
