//! The floor: the stand-in started directly by a small loop that waits for its `ready`, no control plane at all. It gets
//! the arguments and the environment that it needs and that an agent gives it, and its output goes nowhere.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use uuid::Uuid;

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Instant>>>>;

/// Starts stand-ins and waits for them, nothing else.
pub(crate) struct Floor {
    executable: PathBuf,
    /// Where the vendor's server has its libraries.
    libraries: PathBuf,
    license: PathBuf,
    liveliness: String,
    waiting: Waiting,
    ports: Mutex<Vec<u16>>,
    port_came_back: Notify,
    /// How long a stand-in takes to be ready, in milliseconds.
    delay: u64,
}

impl Floor {
    pub(crate) async fn start(executable: &Path, license: &Path, ports: Vec<u16>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let liveliness = format!("http://{}/liveliness", listener.local_addr()?);
        let waiting = Waiting::default();
        tokio::spawn(receive(listener, Arc::clone(&waiting)));
        Ok(Self {
            executable: executable.to_owned(),
            libraries: executable.parent().map(Path::to_owned).unwrap_or_default(),
            license: license.to_owned(),
            liveliness,
            waiting,
            ports: Mutex::new(ports),
            port_came_back: Notify::new(),
            delay: 0,
        })
    }

    /// The same with stand-ins that take so many milliseconds more.
    pub(crate) fn with_delay(self, delay: u64) -> Self {
        Self { delay, ..self }
    }

    /// Starts one; how long after `began` it was ready.
    pub(crate) async fn spawn(&self, began: Instant) -> anyhow::Result<(Running<'_>, Duration)> {
        let port = loop {
            let came_back = self.port_came_back.notified();
            let port = self.ports.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match port {
                Some(port) => break port,
                None => came_back.await,
            }
        };
        let id = Uuid::now_v7().to_string();
        let (ready, is_ready) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), ready);
        let mut child = Command::new(&self.executable)
            .args(["--id", &id, "--sc-port", &port.to_string(), "--liveliness-endpoint", &self.liveliness])
            .args(["--liveliness-update-frequency", "5", "--initial-use-duration", "60"])
            .args(["--log-stdout-category-mask", "7", "--csr", "true", "--license-file"])
            .arg(&self.license)
            .env_clear()
            .env("LD_LIBRARY_PATH", &self.libraries)
            .env("DYLD_LIBRARY_PATH", &self.libraries)
            .env("DISPLAY", ":0")
            .envs((self.delay > 0).then(|| ("SC_SIM_READY_DELAY_MS", self.delay.to_string())))
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let ready = tokio::select! {
            ready = is_ready => ready?,
            status = child.wait() => anyhow::bail!("the stand-in on port {port} ended before it was ready: {}", status?),
        };
        Ok((Running { floor: self, child, port }, ready - began))
    }
}

/// A stand-in that runs.
pub(crate) struct Running<'a> {
    floor: &'a Floor,
    child: Child,
    port: u16,
}

impl Running<'_> {
    /// Ends it as an agent would and waits until it is gone.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        kill_process(pid.ok_or_else(|| anyhow::anyhow!("it has ended by itself"))?, Signal::TERM)?;
        self.child.wait().await?;
        self.floor.ports.lock().unwrap_or_else(PoisonError::into_inner).insert(0, self.port);
        self.floor.port_came_back.notify_one();
        Ok(())
    }
}

async fn receive(listener: TcpListener, waiting: Waiting) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(answer(stream, Arc::clone(&waiting)));
    }
}

/// Reads `POST /liveliness/{id}?liveliness=…` requests, which have no body, and answers each.
async fn answer(mut stream: TcpStream, waiting: Waiting) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut request = Vec::with_capacity(512);
    loop {
        request.clear();
        while !request.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut request).await? == 0 {
                return Ok(());
            }
        }
        let now = Instant::now();
        let line = String::from_utf8_lossy(&request);
        if let Some((id, "ready")) = line
            .strip_prefix("POST /liveliness/")
            .and_then(|rest| rest.split_once(' '))
            .and_then(|(path, _)| path.split_once("?liveliness="))
            && let Some(ready) = waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
        {
            // Whoever asked may have given up.
            ready.send(now).ok();
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}
