//! Finds for requests that are watched where they stand in line.
//!
//! Owns: the places in line whose positions are wanted here; they may be held by other front doors. One task reads the line for all of
//! them, so it costs the registry the same for one watcher and for a thousand, and nothing while there is none.
//!
//! Failure: while the registry is away, positions stay as they were.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::TicketId;
use registry::WaitingRequest;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::pace::Pace;
use super::progress::{LinePosition, Progress};
use crate::registry_access::circuit::RegistryClient;

/// The line is read at most this often, and for each thousand that wait as much longer.
const MIN_PAUSE: Duration = Duration::from_millis(300);
/// It is read this often, also when nothing seems to have changed.
const PAUSE: Duration = Duration::from_secs(2);

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Positions {
    registry: Arc<RegistryClient>,
    /// Never held across an await.
    watched: Mutex<Watched>,
    /// A caller watches, or the line has changed.
    changed: Notify,
}

#[derive(Debug, Default)]
struct Watched {
    last: u64,
    places: HashMap<u64, (TicketId, Progress)>,
}

/// A place in line that is watched until this is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    positions: Arc<Positions>,
    id: u64,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.positions.watched().places.remove(&self.id);
    }
}

impl Positions {
    pub(crate) fn new(registry: Arc<RegistryClient>) -> Self {
        Self { registry, watched: Mutex::default(), changed: Notify::new() }
    }

    fn watched(&self) -> MutexGuard<'_, Watched> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports the position of this place, while it has one, as this progress.
    pub(crate) fn watch(self: &Arc<Self>, ticket: TicketId, progress: &Progress) -> Watch {
        let mut watched = self.watched();
        watched.last += 1;
        let id = watched.last;
        watched.places.insert(id, (ticket, progress.clone()));
        drop(watched);
        self.changed.notify_one();
        Watch { positions: Arc::clone(self), id }
    }

    /// The line may have changed.
    pub(crate) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Runs for ever.
    pub(crate) async fn keep(self: Arc<Self>) {
        let mut pace = Pace::default();
        loop {
            if self.watched().places.is_empty() {
                self.changed.notified().await;
                continue;
            }
            let mut length = 0;
            match self.registry.waiting().await {
                Ok(line) => {
                    length = line.len();
                    let now = Instant::now();
                    pace.observe(now, &line);
                    self.report(&line, |waiting| pace.estimate(now, waiting));
                }
                Err(error) => debug!(%error, "positions in line not read"),
            }
            let thousands = u32::try_from(length / 1000).unwrap_or(u32::MAX);
            sleep(MIN_PAUSE * thousands.saturating_add(1)).await;
            let _woken = timeout(PAUSE, self.changed.notified()).await;
        }
    }

    fn report(&self, line: &[WaitingRequest], estimate: impl Fn(&WaitingRequest) -> Option<u64>) {
        let places: Vec<_> = self.watched().places.values().cloned().collect();
        let line: HashMap<_, _> = line.iter().map(|waiting| (waiting.ticket, waiting)).collect();
        for (ticket, progress) in places {
            if let Some(waiting) = line.get(&ticket) {
                progress.place(LinePosition { position: waiting.position, estimate: estimate(waiting) });
            }
        }
    }
}
