//! The network between the processes of a farm: connections that delay, stall and break as those of TCP do.
//!
//! A connection is two in-memory pipes and a task that carries bytes between them. What is sent arrives in order, after a delay. While the way
//! is cut (also one way only) bytes wait, as TCP sends them again; a lost packet is a longer delay. When a process ends, its connections end
//! after a delay; when its machine goes, nothing more is heard of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frontdoor::Dial;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::steps::Steps;

/// Bytes under way on a connection, each way.
const WINDOW: usize = 64 << 10;
/// A packet that is lost is sent again after this time (RFC 6298: at least 200 ms in Linux).
const RETRANSMISSION: Duration = Duration::from_millis(200);

/// The name of a machine.
pub(crate) type Host = &'static str;

/// One life of a process on a host.
#[derive(Debug, Clone)]
pub(crate) struct Process {
    pub(crate) host: Host,
    /// Cancelled when it has ended.
    pub(crate) over: CancellationToken,
}

impl Process {
    pub(crate) fn on(host: Host) -> Self {
        Self { host, over: CancellationToken::new() }
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Network {
    steps: Arc<Steps>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    /// Ways on which nothing arrives.
    cut: BTreeSet<(Host, Host)>,
    /// Ways that take this much longer.
    slow: BTreeMap<(Host, Host), Duration>,
    /// Of a thousand packets so many are lost.
    loss: u32,
    /// Hosts without power.
    dark: BTreeSet<Host>,
    listeners: BTreeMap<String, (Process, mpsc::Sender<DuplexStream>)>,
}

impl Network {
    pub(crate) fn new(seed: u64, steps: Arc<Steps>) -> Arc<Self> {
        let state = State {
            random: fastrand::Rng::with_seed(seed),
            cut: BTreeSet::new(),
            slow: BTreeMap::new(),
            loss: 0,
            dark: BTreeSet::new(),
            listeners: BTreeMap::new(),
        };
        Arc::new(Self { steps, state: Mutex::new(state), changed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Cuts the way from one host to another, or opens it.
    pub(crate) fn cut(&self, from: Host, to: Host, is_cut: bool) {
        let mut state = self.state();
        if is_cut {
            state.cut.insert((from, to))
        } else {
            state.cut.remove(&(from, to))
        };
        drop(state);
        self.changed.notify_waiters();
    }

    /// Makes a way longer.
    pub(crate) fn slow(&self, from: Host, to: Host, by: Duration) {
        self.state().slow.insert((from, to), by);
    }

    /// Loses so many of a thousand packets.
    pub(crate) fn lose(&self, per_mille: u32) {
        self.state().loss = per_mille;
    }

    /// Takes the power from a host, or gives it back.
    pub(crate) fn darken(&self, host: Host, is_dark: bool) {
        let mut state = self.state();
        if is_dark {
            state.dark.insert(host)
        } else {
            state.dark.remove(host)
        };
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ends all trouble but dark hosts.
    pub(crate) fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        state.slow.clear();
        state.loss = 0;
        drop(state);
        self.changed.notify_waiters();
    }

    /// Whether bytes arrive on this way.
    pub(crate) fn is_open(&self, from: Host, to: Host) -> bool {
        let state = self.state();
        !state.cut.contains(&(from, to)) && !state.dark.contains(from) && !state.dark.contains(to)
    }

    /// How long a packet takes on this way.
    pub(crate) fn delay(&self, from: Host, to: Host) -> Duration {
        let mut state = self.state();
        let mut delay = Duration::from_micros(state.random.u64(200..3000));
        delay += state.slow.get(&(from, to)).copied().unwrap_or_default();
        let loss = state.loss;
        while loss > 0 && state.random.u32(..1000) < loss {
            delay += RETRANSMISSION;
        }
        delay
    }

    /// Carries a packet: waits for its delay, and until the way is open.
    pub(crate) async fn carry(&self, from: Host, to: Host) {
        sleep(self.delay(from, to)).await;
        loop {
            let changed = self.changed.notified();
            if self.is_open(from, to) {
                return self.steps.tick();
            }
            changed.await;
        }
    }

    /// The same within this time; `false` when it did not arrive.
    pub(crate) async fn carry_within(&self, from: Host, to: Host, within: Duration) -> bool {
        timeout(within, self.carry(from, to)).await.is_ok()
    }

    /// A process listens at an address.
    pub(crate) fn listen(&self, process: &Process, address: &str) -> mpsc::Receiver<DuplexStream> {
        let (sender, receiver) = mpsc::channel(16);
        self.state().listeners.insert(address.to_owned(), (process.clone(), sender));
        receiver
    }

    fn listener(&self, address: &str) -> Option<(Process, mpsc::Sender<DuplexStream>)> {
        let listener = self.state().listeners.get(address).cloned();
        listener.filter(|(process, _)| !process.over.is_cancelled())
    }

    /// Connects a process with the one that listens at an address on `to`.
    pub(crate) async fn connect(
        self: &Arc<Self>,
        from: &Process,
        to: Host,
        address: &str,
    ) -> io::Result<DuplexStream> {
        self.connect_with(from, to, address, WINDOW).await
    }

    /// The same; at most `window` bytes are under way each way before the reader has taken them.
    pub(crate) async fn connect_with(
        self: &Arc<Self>,
        from: &Process,
        to: Host,
        address: &str,
        window: usize,
    ) -> io::Result<DuplexStream> {
        self.carry(from.host, to).await;
        let listener = self.listener(address);
        self.carry(to, from.host).await;
        let Some((there, sender)) = listener else { return Err(io::ErrorKind::ConnectionRefused.into()) };
        let ((near, near_wire), (far, far_wire)) = (duplex(window), duplex(window));
        if sender.send(far).await.is_err() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let (network, from) = (Arc::clone(self), from.clone());
        tokio::spawn(async move { network.connection((from, near_wire), (there, far_wire)).await });
        Ok(near)
    }

    async fn connection(&self, (here, near): (Process, DuplexStream), (there, far): (Process, DuplexStream)) {
        let ((near_read, near_write), (far_read, far_write)) = (split(near), split(far));
        let (near, far) = (here.host, there.host);
        let both = async {
            tokio::join!(
                self.pump((near, far), near_read, far_write),
                self.pump((far, near), far_read, near_write)
            )
        };
        tokio::select! {
            biased;
            () = here.over.cancelled() => {}
            () = there.over.cancelled() => {}
            _ = both => return,
        }
        // The system that the process ran on closes its connections; without power nobody does. The ends are dropped with this task.
        let (ended, other) = if here.over.is_cancelled() { (here, there) } else { (there, here) };
        tokio::select! {
            () = self.carry(ended.host, other.host) => {}
            () = other.over.cancelled() => {}
        }
    }

    async fn pump(
        &self,
        (from, to): (Host, Host),
        mut read: ReadHalf<DuplexStream>,
        mut write: WriteHalf<DuplexStream>,
    ) {
        let mut buffer = vec![0; 16 << 10];
        loop {
            let got = read.read(&mut buffer).await.unwrap_or(0);
            self.carry(from, to).await;
            if got == 0 || write.write_all(&buffer[..got]).await.is_err() {
                write.shutdown().await.ok();
                return;
            }
        }
    }
}

/// The network as a front door sees it: `node-1:7070` is on the host `node-1`.
#[derive(Debug)]
pub(crate) struct DoorNetwork {
    pub(crate) network: Arc<Network>,
    pub(crate) process: Process,
    pub(crate) hosts: Vec<Host>,
}

impl Dial for DoorNetwork {
    fn dial(&self, address: String) -> BoxFuture<'static, io::Result<DuplexStream>> {
        let (network, process) = (Arc::clone(&self.network), self.process.clone());
        let host =
            address.split(':').next().and_then(|name| self.hosts.iter().copied().find(|host| *host == name));
        Box::pin(async move {
            match host {
                Some(host) => network.connect(&process, host, &address).await,
                None => Err(io::ErrorKind::NotFound.into()),
            }
        })
    }
}
