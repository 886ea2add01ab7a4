//! The life of the server once its settings are known: the port, the one viewer, and the end.
//!
//! The main thread owns the port and every deadline and waits for all of them in one `poll`. When something ends the
//! server, the order is always the same: close the port, post `disconnect`, exit.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exit_code::{Exit, Failure, last_words};
use crate::liveliness::Reporter;
use crate::log::{Level, Log};
use crate::misbehave::{Death, Misbehaviour};
use crate::notify::{self, Notification, Notifications};
use crate::settings::{self, Settings};
use crate::trouble;
use crate::viewer::Reception;

const INITIAL_USE_TIMEOUT: &str = "ScServer: exiting due to initial-use timeout";

/// Runs until the server is to exit, and says with which code.
pub(crate) fn serve(
    settings: &Settings,
    misbehaviour: &Misbehaviour,
    log: &Arc<Log>,
    started: Instant,
) -> Result<Exit, Failure> {
    log.lines(Level::Info, &settings.lines());
    if settings.service_respawn {
        log.warn("service-respawn is for Windows services and ignored");
    }
    settings::check_license(&settings.license)?;
    settings::check_tls(&settings.tls)?;
    let initial_use = settings.initial_use.map(|duration| started + duration);
    if let Some(exit) = misbehave_before_ready(misbehaviour, initial_use, log)? {
        return Ok(exit);
    }

    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, settings.port))
        .and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
        .map_err(|_| Failure::new(Exit::ScInitFailed, "Can't create lws context."))?;
    let (notifier, notifications) = notify::channel().map_err(internal("make a socket pair"))?;
    let notifier = Arc::new(notifier);
    let reporter = Reporter::start(settings, misbehaviour, &notifier, log)
        .map_err(internal("start the liveliness thread"))?;
    if reporter.is_none() {
        notifier.notify(Notification::Ready);
    }
    log.info(format_args!("listening on port {}", settings.port));

    let mut server = Server {
        reception: Arc::new(Reception {
            id: settings.id.clone(),
            node: settings.node.clone(),
            session_token: settings.session_token.clone(),
            rendering: settings.rendering,
            model_file: settings.model_file.as_ref().map(|file| file.display().to_string()),
            network_version: misbehaviour.network_version.clone(),
            stream_version: misbehaviour.stream_version.clone(),
            exit_on_load_finish: settings.exit_on_load_finish,
            notifier,
            log: Arc::clone(log),
            taken: AtomicBool::new(false),
        }),
        listener,
        notifications,
        initial_use,
        leave: None,
        crash: None,
    };
    let end = server.wait_for_the_end(misbehaviour)?;
    match end {
        End::Crash => return Ok(trouble::crash(misbehaviour.crash.unwrap_or(Death::Code(1)))),
        End::InitialUse => log.info(INITIAL_USE_TIMEOUT),
        End::Loaded => log.info("exiting because loading has finished"),
        End::Left(reason) => log.info(format_args!("server disconnect: {reason}")),
    }
    let crash = server.crash;
    drop(server);
    if let Some(reporter) = reporter {
        reporter.disconnect();
    }
    if misbehaviour.disconnect_no_exit {
        log.warn("staying although nothing is left to do, as asked");
        sleep_until(crash);
        return Ok(trouble::crash(misbehaviour.crash.unwrap_or(Death::Code(1))));
    }
    Ok(Exit::Success)
}

/// What a server asked to misbehave does before its port opens; the exit, if that was all of its life.
fn misbehave_before_ready(
    misbehaviour: &Misbehaviour,
    initial_use: Option<Instant>,
    log: &Log,
) -> Result<Option<Exit>, Failure> {
    if misbehaviour.ignore_term {
        trouble::ignore_term().map_err(internal("install a signal handler"))?;
    }
    if misbehaviour.fork_grandchild {
        trouble::fork_grandchild(log).map_err(internal("start a grandchild"))?;
    }
    if let Some(bytes_per_sec) = misbehaviour.flood_bytes_per_sec {
        trouble::flood(bytes_per_sec).map_err(internal("start the flood"))?;
    }
    let fails = (misbehaviour.fail_ratio > 0.0 && trouble::strikes(misbehaviour.fail_ratio))
        .then_some(Exit::InternalError.code());
    if let Some(code) = misbehaviour.exit_before_ready.or(fails) {
        log.info("initializing the stream cache");
        log.warn("initialization is not going well");
        thread::sleep(misbehaviour.exit_delay);
        return Err(Failure::new(Exit::Other(code), last_words(code)));
    }
    if misbehaviour.never_ready {
        log.warn("initialization hangs, as asked");
        sleep_until(initial_use);
        log.info(INITIAL_USE_TIMEOUT);
        return Ok(Some(Exit::Success));
    }
    thread::sleep(misbehaviour.ready_delay);
    Ok(None)
}

/// Sleeps until this moment; without one, until the process is killed.
fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => thread::sleep(time.saturating_duration_since(Instant::now())),
        None => loop {
            thread::park();
        },
    }
}

fn internal(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::new(Exit::InternalError, format!("failed to {what}: {error}"))
}

/// What ended the wait.
enum End {
    Left(String),
    Loaded,
    InitialUse,
    Crash,
}

/// Everything that the main thread waits on. Dropping it closes the port.
struct Server {
    listener: TcpListener,
    notifications: Notifications,
    reception: Arc<Reception>,
    /// Gone once the viewer has sent something.
    initial_use: Option<Instant>,
    /// When to do as if the viewer left.
    leave: Option<Instant>,
    crash: Option<Instant>,
}

impl Server {
    fn wait_for_the_end(&mut self, misbehaviour: &Misbehaviour) -> Result<End, Failure> {
        loop {
            self.poll().map_err(internal("poll"))?;
            while let Some(notification) = self.notifications.next() {
                match notification {
                    // Delays count from here, so that the receiver always gets `ready` before the misbehaviour.
                    Notification::Ready => {
                        let now = Instant::now();
                        self.leave = misbehaviour.disconnect_after.map(|after| now + after);
                        self.crash = misbehaviour.crash_after.map(|after| now + after);
                    }
                    Notification::FirstData => {
                        self.reception.log.info("server has received initial data from the WS connection");
                        self.initial_use = None;
                    }
                    Notification::Left(reason) => return Ok(End::Left(reason)),
                    Notification::Loaded => return Ok(End::Loaded),
                }
            }
            let now = Instant::now();
            let has_come = |time: Option<Instant>| time.is_some_and(|time| time <= now);
            if has_come(self.crash) {
                return Ok(End::Crash);
            }
            if has_come(self.leave) {
                return Ok(End::Left("as asked".to_owned()));
            }
            if has_come(self.initial_use) {
                return Ok(End::InitialUse);
            }
            self.accept();
        }
    }

    /// Waits for a connection, a notification or the next deadline.
    fn poll(&self) -> io::Result<()> {
        let next = [self.initial_use, self.leave, self.crash].into_iter().flatten().min();
        let timeout = next.map(|next| {
            let left = next.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 })
        });
        let (listener, wakeup) = (self.listener.as_fd(), self.notifications.wakeup());
        let mut watched = [
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
            PollFd::from_borrowed_fd(wakeup, PollFlags::IN),
        ];
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes one connection, if there is one; `poll` comes back for the next.
    fn accept(&self) {
        let welcomed = self.listener.accept().and_then(|(stream, _)| self.reception.welcome(stream));
        match welcomed {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                self.reception.log.warn(format_args!("cannot accept a connection: {error}"));
                // Most likely out of descriptors: the connection stays in the queue, so do not spin on it.
                thread::sleep(Duration::from_millis(10));
            }
        }
    }
}
