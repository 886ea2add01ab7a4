//! `hatchery dev`: a whole farm in one process, started as a person would: in some directory, with no preparation.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::command::{self, Ran};
use crate::guard::{Guard, MARK};
use crate::http::Client;
use crate::processes::{self, Process};
use crate::role::{self, Role};

/// A running `hatchery dev`.
#[derive(Debug)]
pub struct Dev {
    /// The process.
    pub role: Role,
    /// Its front door.
    pub http: Client,
    mark: PathBuf,
    _scratch: TempDir,
    _guard: Guard,
}

impl Dev {
    /// Starts one with these arguments more, and waits until it listens.
    pub async fn start(more: &[&str]) -> Self {
        let scratch =
            tempfile::Builder::new().prefix("hatchery-test-").tempdir().expect("a scratch directory");
        let mark = scratch.path().to_owned();
        for directory in ["empty", "tmp"] {
            fs::create_dir(mark.join(directory)).expect("a directory can be made");
        }
        let guard = Guard::over(&mark);
        let env = format!("{MARK}={}", mark.display());
        let args = [&["dev", "--listen", "127.0.0.1:0", "--env", &env], more].concat();
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let (empty, tmp) = (mark.join("empty"), mark.join("tmp"));
        let mut role = Role::start_in("dev", &mark, &args, &empty, &[("TMPDIR", tmp)]);
        let line = role.announcement().await;
        let [http, admin] = role::clients(&line)[..] else { panic!("two addresses were expected: {line}") };
        assert_eq!(line, format!("dev listening on http://{}, admin on http://{}", http.addr, admin.addr));
        Self { role, http, mark, _scratch: scratch, _guard: guard }
    }

    /// Runs an operator's command against it.
    pub async fn run(&self, args: &[&str]) -> Ran {
        command::run(&self.mark, self.http, args).await
    }

    /// All its processes but the farm itself.
    pub fn processes(&self) -> Vec<Process> {
        let mut all = processes::marked(&self.mark);
        all.retain(|process| process.pid != self.role.pid());
        all
    }

    /// Everything in the directory it was started in and in the one for temporary files.
    pub fn files(&self) -> Vec<PathBuf> {
        let read = |name: &str| fs::read_dir(self.mark.join(name)).expect("it is there");
        let entries = read("empty").chain(read("tmp"));
        entries.map(|entry| entry.expect("it can be read").path()).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        self.role.kill();
        processes::end_all(&self.mark);
    }
}
