//! A stream cache server as a script: when it is ready, what it does when it is asked to end, and how it fails.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use agent::simulated::{Ended, Server};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

/// What a server does by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Script {
    /// It is ready after this time, and serves one viewer.
    Good { ready: Duration },
    /// It exits with this code before it is ready.
    Fails { after: Duration, code: i32 },
    /// It is never ready.
    NeverReady,
    /// It is ready, and dies of a signal later.
    Dies { ready: Duration, after: Duration },
    /// It is ready, then hangs: it reports nothing and does not end when it is asked to.
    Hangs { ready: Duration, after: Duration },
    /// It is good but for not ending when it is asked to.
    Stubborn { ready: Duration },
}

impl Script {
    /// A server of a machine on which this many of a hundred fail.
    pub(crate) fn random(random: &mut fastrand::Rng, failing: u32) -> Self {
        let ms = |random: &mut fastrand::Rng, range| Duration::from_millis(random.u64(range));
        let ready = if random.u32(..10) == 0 { ms(random, 1000..9000) } else { ms(random, 5..400) };
        if random.u32(..100) < failing {
            return Self::Fails { after: ms(random, 1..200), code: 6 };
        }
        match random.u32(..100) {
            0..82 => Self::Good { ready },
            82..86 => Self::Fails { after: ms(random, 1..300), code: random.i32(1..9) },
            86..88 => Self::NeverReady,
            88..91 => Self::Dies { ready, after: ms(random, 1..20_000) },
            91..94 => Self::Hangs { ready, after: ms(random, 1..20_000) },
            _ => Self::Stubborn { ready },
        }
    }

    /// Whether it would go on until its viewer leaves.
    pub(crate) fn is_well(self) -> bool {
        matches!(self, Self::Good { .. } | Self::Stubborn { .. })
    }
}

/// How a server reaches its agent's receiver: `false` when nothing listens there, or the report was not taken in.
pub(crate) type Receiver = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What an observer of a server hears of, just before it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// TERM is sent.
    Term,
    /// KILL is sent.
    Kill,
    /// It ends by itself, or because it was asked to.
    Exit(Ended),
}

/// Hears of what becomes of a server.
pub(crate) type Observer = Box<dyn Fn(&SimulatedServer, Moment) + Send + Sync>;

/// A process.
pub(crate) struct SimulatedServer {
    pid: u32,
    started: u64,
    arguments: Vec<String>,
    log: PathBuf,
    pub(crate) script: Script,
    ended: watch::Sender<Option<Ended>>,
    termed: Notify,
    was_signalled: AtomicBool,
    viewer: watch::Sender<Viewer>,
    observer: Observer,
    reported: Mutex<Reported>,
}

/// What the machine knows of reports of a server.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Reported {
    /// When its last report was taken in.
    pub(crate) last: Option<Instant>,
    pub(crate) ready: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Viewer {
    Never,
    There,
    Gone,
}

impl std::fmt::Debug for SimulatedServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SimulatedServer")
            .field("pid", &self.pid)
            .field("script", &self.script)
            .finish_non_exhaustive()
    }
}

impl SimulatedServer {
    pub(crate) fn start(
        (pid, started): (u32, u64),
        (arguments, log): (Vec<String>, PathBuf),
        script: Script,
        receiver: Receiver,
        observer: Observer,
    ) -> Arc<Self> {
        let server = Arc::new(Self {
            pid,
            started,
            arguments,
            log,
            script,
            ended: watch::Sender::new(None),
            termed: Notify::new(),
            was_signalled: AtomicBool::new(false),
            viewer: watch::Sender::new(Viewer::Never),
            observer,
            reported: Mutex::default(),
        });
        let running = Arc::clone(&server);
        tokio::spawn(async move {
            let mut over = running.ended.subscribe();
            tokio::select! {
                biased;
                _ = over.wait_for(Option::is_some) => {}
                ended = running.run(&receiver) => {
                    (running.observer)(&running, Moment::Exit(ended));
                    running.end(ended);
                }
            }
        });
        server
    }

    /// The value of an option of its command line.
    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == name)?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    /// The id that it was started with.
    pub(crate) fn id(&self) -> &str {
        self.option("--id").unwrap_or_default()
    }

    /// Whether it was asked to end, or was killed.
    pub(crate) fn was_signalled(&self) -> bool {
        self.was_signalled.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.ended.borrow().is_some()
    }

    /// What is known of its reports.
    pub(crate) fn reported(&self) -> Reported {
        *self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A viewer connects, or leaves.
    pub(crate) fn view(&self, is_there: bool) {
        self.viewer.send_replace(if is_there { Viewer::There } else { Viewer::Gone });
    }

    /// It is gone, with its machine or by itself.
    pub(crate) fn end(&self, ended: Ended) {
        self.ended.send_if_modified(|state| {
            let is_new = state.is_none();
            if is_new {
                *state = Some(ended);
            }
            is_new
        });
    }

    fn report(&self, receiver: &Receiver, what: &str) -> bool {
        let endpoint = self.option("--liveliness-endpoint").unwrap_or_default();
        // http://127.0.0.1:7071/SECRET/liveliness
        let path = endpoint.splitn(4, '/').nth(3).unwrap_or_default();
        let taken = receiver(&format!("/{path}/{}?liveliness={what}", self.id()));
        if taken {
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            reported.last = Some(Instant::now());
            reported.ready |= what == "ready";
        }
        taken
    }

    async fn run(&self, receiver: &Receiver) -> Ended {
        match self.script {
            Script::Fails { after, code } => {
                sleep(after).await;
                Ended::Code(code)
            }
            Script::NeverReady => {
                self.termed.notified().await;
                Ended::Signal(15)
            }
            Script::Good { ready } => self.serve(receiver, ready, false).await,
            Script::Stubborn { ready } => self.serve(receiver, ready, true).await,
            Script::Dies { ready, after } => {
                let dies = async {
                    sleep(ready + after).await;
                    Ended::Signal(11)
                };
                tokio::select! {
                    ended = self.serve(receiver, ready, false) => ended,
                    ended = dies => ended,
                }
            }
            Script::Hangs { ready, after } => {
                tokio::select! {
                    ended = self.serve(receiver, ready, true) => return ended,
                    () = sleep(ready + after) => {}
                }
                std::future::pending().await
            }
        }
    }

    async fn serve(&self, receiver: &Receiver, ready: Duration, is_stubborn: bool) -> Ended {
        let term = async {
            self.termed.notified().await;
            if is_stubborn {
                std::future::pending().await
            }
        };
        let life = async {
            sleep(ready).await;
            self.report(receiver, "ready");
            let seconds = |name| self.option(name).and_then(|text| text.parse::<f64>().ok()).unwrap_or(5.0);
            let period = Duration::from_secs_f64(seconds("--liveliness-update-frequency"));
            let first_use = Instant::now() + Duration::from_secs_f64(seconds("--initial-use-duration"));
            let mut viewer = self.viewer.subscribe();
            loop {
                let state = *viewer.borrow_and_update();
                let bored = async {
                    match state {
                        Viewer::Never => sleep_until(first_use).await,
                        Viewer::There => std::future::pending().await,
                        Viewer::Gone => {}
                    }
                };
                tokio::select! {
                    biased;
                    () = bored => break,
                    _ = viewer.changed() => {}
                    () = sleep(period) => {
                        self.report(receiver, "ping");
                    }
                }
            }
            if *self.viewer.borrow() == Viewer::Gone {
                self.report(receiver, "disconnect");
            }
            sleep(Duration::from_millis(20)).await;
            Ended::Code(0)
        };
        tokio::select! {
            biased;
            () = term => Ended::Signal(15),
            ended = life => ended,
        }
    }
}

impl Server for SimulatedServer {
    fn pid(&self) -> u32 {
        self.pid
    }

    fn started(&self) -> u64 {
        self.started
    }

    fn arguments(&self) -> Vec<String> {
        self.arguments.clone()
    }

    fn log(&self) -> PathBuf {
        self.log.clone()
    }

    fn signal(&self, kill: bool) {
        if self.is_over() {
            return;
        }
        self.was_signalled.store(true, Ordering::SeqCst);
        (self.observer)(self, if kill { Moment::Kill } else { Moment::Term });
        if kill {
            self.end(Ended::Signal(9));
        } else {
            self.termed.notify_one();
        }
    }

    fn ended(&self) -> Pin<Box<dyn Future<Output = Ended> + Send + '_>> {
        let mut over = self.ended.subscribe();
        Box::pin(async move {
            let ended = over.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
            ended.unwrap_or(Ended::Signal(9))
        })
    }
}
