//! Spawners to compare with, in front of the same stand-in: one as the vendor's tutorial builds it (`tutorial.mjs`, for Node.js and Express), and
//! the launcher of wslink (`pip install wslink`). Where one is not installed it is left out, which is said.
//!
//! `HATCHERY_EXPRESS` names the directory in which `npm install express` ran; else the working directory is taken. `HATCHERY_WSLINK_PYTHON`
//! names a Python that has wslink; else `python3` is asked.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hatchery_tests::binaries::binaries;
use hatchery_tests::guard::MARK;
use hatchery_tests::processes::{self, Process};
use hatchery_tests::{Farm, Look, skipped, until};
use serde_json::json;
use tokio::net::TcpStream;

use crate::keep_alive::KeepAlive;

/// Where each listens, and the first of its servers' ports.
const TUTORIAL: (u16, u16) = (11_000, 11_100);
const WSLINK: (u16, u16) = (11_001, 11_400);
/// Ports of servers of one spawner.
const COUNT: u16 = 200;

/// A spawner that runs.
pub(crate) struct Spawner {
    name: &'static str,
    http: KeepAlive,
    path: &'static str,
    body: &'static str,
    /// Where the URL of the server is in an answer.
    endpoint: &'static str,
    /// The farm's: whatever is left ends with it.
    mark: PathBuf,
    ports: Range<u16>,
    child: Child,
}

impl Spawner {
    /// Those that are installed, for servers that take so many milliseconds to start. They end with the farm.
    pub(crate) async fn all(farm: &Farm, delay: u64) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        match tutorial(farm) {
            Some(command) => {
                let path = ("/spawn", r#"{"rendererType":"csr"}"#, "/endpoints/ws");
                all.push(Self::start("the tutorial's spawner", command, TUTORIAL, path, farm, delay).await?);
            }
            None => skipped("the tutorial's spawner", "no Node.js has Express (HATCHERY_EXPRESS)"),
        }
        match wslink(farm)? {
            Some(command) => {
                let path = ("/launch/", r#"{"application":"viewer"}"#, "/sessionURL");
                all.push(Self::start("wslink's launcher", command, WSLINK, path, farm, delay).await?);
            }
            None => skipped("wslink's launcher", "no Python has wslink (HATCHERY_WSLINK_PYTHON)"),
        }
        Ok(all)
    }

    async fn start(
        name: &'static str,
        mut command: Command,
        (port, first): (u16, u16),
        (path, body, endpoint): (&'static str, &'static str, &'static str),
        farm: &Farm,
        delay: u64,
    ) -> anyhow::Result<Self> {
        let mark = farm.mark().to_owned();
        let child = command
            .env(MARK, &mark)
            .env("SC_SIM_READY_DELAY_MS", delay.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| name.to_owned())?;
        until(&format!("{name} listens"), Duration::from_secs(20), async || {
            let connected = TcpStream::connect(("127.0.0.1", port)).await;
            Look::when(connected.is_ok(), || format!("{connected:?}"))
        })
        .await;
        let http = KeepAlive::new(([127, 0, 0, 1], port).into());
        Ok(Self { name, http, path, body, endpoint, mark, ports: first..first + COUNT, child })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Has one server started; its URL once it is ready.
    pub(crate) async fn spawn(&self) -> anyhow::Result<String> {
        let headers = [("content-type", "application/json")];
        let (status, answer) = self.http.send("POST", self.path, &headers, self.body).await?;
        ensure!(status == 200, "{} answered {status}: {answer}", self.name);
        let endpoint = answer.pointer(self.endpoint).and_then(|url| url.as_str());
        Ok(endpoint.with_context(|| answer.to_string())?.to_owned())
    }

    /// Waits until none of its servers is left.
    pub(crate) async fn is_idle(&self) {
        until(&format!("{} has no server", self.name), Duration::from_secs(60), async || {
            let is_ours = |one: &Process| {
                let port = one.option("--sc-port").and_then(|port| port.parse().ok());
                port.is_some_and(|port| self.ports.contains(&port))
            };
            let servers = processes::marked(&self.mark).iter().filter(|one| is_ours(one)).count();
            Look::when(servers == 0, || format!("{servers} run"))
        })
        .await;
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn tutorial(farm: &Farm) -> Option<Command> {
    let modules = std::env::var("HATCHERY_EXPRESS").unwrap_or_else(|_| ".".to_owned());
    let modules = Path::new(&modules).canonicalize().ok()?;
    let finds = "require('node:module').createRequire(process.argv[1] + '/').resolve('express')";
    has("node", &["-e", finds, modules.to_str()?]).then(|| {
        let mut command = Command::new("node");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench/tutorial.mjs"));
        command.args([TUTORIAL.0, TUTORIAL.1, COUNT].map(|port| port.to_string()));
        command.arg(&binaries().simulator).arg(farm.mark().join("license")).arg(modules);
        command
    })
}

fn wslink(farm: &Farm) -> anyhow::Result<Option<Command>> {
    let python = std::env::var("HATCHERY_WSLINK_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if !has(&python, &["-c", "import wslink.launcher"]) {
        return Ok(None);
    }
    let directory = farm.mark().join("wslink");
    std::fs::create_dir_all(&directory)?;
    let license = farm.mark().join("license");
    let server = binaries().simulator.display().to_string();
    let config = json!({
        "configuration": {
            "host": "127.0.0.1", "port": WSLINK.0, "endpoint": "launch", "content": "", "proxy_file": directory.join("proxy"),
            "sessionURL": "ws://${host}:${port}/", "timeout": 30, "log_dir": directory, "fields": ["sessionURL"],
        },
        "properties": {},
        "resources": [{"host": "127.0.0.1", "port_range": [WSLINK.1, WSLINK.1 + COUNT - 1]}],
        "apps": {"viewer": {
            "cmd": [server, "--id", "${id}", "--sc-port", "${port}", "--license-file", license, "--csr", "true",
                "--log-stdout-category-mask", "7"],
            "ready_line": "listening on port",
        }},
    });
    let file = directory.join("launcher.json");
    std::fs::write(&file, config.to_string())?;
    let mut command = Command::new(python);
    command.args(["-m", "wslink.launcher"]).arg(file);
    Ok(Some(command))
}

fn has(program: &str, args: &[&str]) -> bool {
    let ran = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    ran.is_ok_and(|status| status.success())
}
