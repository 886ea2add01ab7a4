//! Liveliness on its own thread: `ready` once, `ping` in between, `disconnect` once.
//!
//! Posts are best effort, as the vendor's are: a receiver that is gone costs a line in the log and nothing else, and
//! the server keeps serving.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::endpoint::{Endpoint, Liveliness};
use crate::log::Log;
use crate::misbehave::Misbehaviour;
use crate::notify::{Notification, Notifier};
use crate::post::Poster;
use crate::settings::Settings;

/// The running thread. Dropping it ends the pings without a `disconnect`.
#[derive(Debug)]
pub(crate) struct Reporter {
    disconnect: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Reporter {
    /// Starts the thread, which posts `ready` at once and then notifies the main thread: call it when a viewer may come.
    /// `None` without a usable endpoint.
    pub(crate) fn start(
        settings: &Settings,
        misbehaviour: &Misbehaviour,
        notifier: &Arc<Notifier>,
        log: &Arc<Log>,
    ) -> io::Result<Option<Self>> {
        let Some(url) = &settings.liveliness_endpoint else {
            log.info("HTTP Ping client disabled via settings");
            return Ok(None);
        };
        let endpoint = match Endpoint::parse(url) {
            Ok(endpoint) => endpoint,
            Err(unusable) => {
                log.error(unusable.text());
                return Ok(None);
            }
        };
        let report = Report {
            poster: Poster::new(endpoint),
            id: settings.id.clone(),
            slash: if misbehaviour.double_slash { "//" } else { "/" },
            period: settings.ping_period,
            silent_after: misbehaviour.silent_after,
            notifier: Arc::clone(notifier),
            log: Arc::clone(log),
        };
        let (disconnect, asked) = sync_channel(1);
        let thread =
            thread::Builder::new().name("liveliness".to_owned()).spawn(move || report.run(&asked))?;
        Ok(Some(Self { disconnect, thread }))
    }

    /// Posts `disconnect` and waits until that is done or has failed.
    pub(crate) fn disconnect(self) {
        // The thread waits for this, so neither fails unless it has panicked.
        self.disconnect.send(()).ok();
        self.thread.join().ok();
    }
}

struct Report {
    poster: Poster,
    id: String,
    slash: &'static str,
    period: Duration,
    silent_after: Option<Duration>,
    notifier: Arc<Notifier>,
    log: Arc<Log>,
}

impl Report {
    fn run(mut self, asked: &Receiver<()>) {
        self.post(Liveliness::Ready);
        self.notifier.notify(Notification::Ready);
        let ready = Instant::now();
        let mut next_ping = ready + self.period;
        loop {
            let until_ping = next_ping.saturating_duration_since(Instant::now());
            let waited = asked.recv_timeout(until_ping);
            let silent = self.silent_after.is_some_and(|silent_after| ready.elapsed() >= silent_after);
            match waited {
                Err(RecvTimeoutError::Timeout) if silent => {}
                Err(RecvTimeoutError::Timeout) => self.post(Liveliness::Ping),
                Ok(()) if silent => return,
                Ok(()) => return self.post(Liveliness::Disconnect),
                Err(RecvTimeoutError::Disconnected) => return,
            }
            // A receiver that hung must not get all the pings that it missed at once.
            next_ping = (next_ping + self.period).max(Instant::now());
        }
    }

    fn post(&mut self, liveliness: Liveliness) {
        let request = self.poster.endpoint().request(&self.id, liveliness, self.slash);
        if let Err(response) = self.poster.post(&request) {
            self.log.error(format_args!("Failed to send HTTP ping: response='{response}'"));
        }
    }
}
