//! Connections to the server that has the farm.
//!
//! One connection is shared by all calls, which pipelines them. Followers get connections of their own, because a blocking
//! read would hold up the others. Lists share another one, because they read much. Every call is bounded in time.
//!
//! ```text
//!            the first call, or one after the pause
//!  lost ────────────────────────────────────────────▶ sought ── connected ──▶ found
//!   ▲  ▲                                                │                       │
//!   │  └──────────── no server; the pause doubles ──────┘                       │
//!   └── broken, too slow, not the farm's server any more, or Sentinels name another ┘
//! ```
//!
//! Leaving `found` drops every connection to that server. One search is under way at a time, in a task of its own, and all
//! calls that need a connection wait for it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use model::jittered;
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation};
use tokio::sync::{Mutex as AsyncMutex, watch};
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::seek::{ANSWER, CONNECT, Seeker, Server};
use super::server_error::{is_elsewhere, registry_error, spoils_connection};
use super::settings::Warnings;
use super::url::Address;
use crate::ask::MAX_FOLLOW;
use crate::error::{OpenError, RegistryError};
use crate::outage::{Outage, OutageKind};

/// Connections of followers kept for the next call.
const MAX_IDLE: usize = 4;
/// The longest that a search takes: it asks several servers, one after the other.
const SEARCH: Duration = Duration::from_secs(3);
/// The pause after a search that found no server, so that many callers do not make many searches. It doubles with every
/// such search: a server that stalls must not meet thousands of new connections when it goes on.
const PAUSE: Duration = Duration::from_millis(50);
/// How often the settings of a server are read again: an operator may change them while it runs.
const READ_SETTINGS: Duration = Duration::from_secs(60);
/// The longest pause between two searches.
const MAX_PAUSE: Duration = Duration::from_millis(500);
/// The interval at which a Sentinel is asked for the master.
const LOOK: Duration = Duration::from_secs(1);
/// After this many questions another Sentinel is asked: one alone may be cut off and know nothing new.
const LOOKS: usize = 30;
/// Calls that are not sent again when the connection breaks under them. Done twice, they would count twice or answer
/// differently.
const ONCE: [&str; 4] = ["reserve", "permit", "learn", "count"];
/// The number of the next server that is found.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A call in the form that Redis gets it.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

pub(super) struct Link {
    seeker: Arc<Seeker>,
    phase: watch::Sender<LinkPhase>,
    /// Connections of followers that wait for their next call, with the numbers of their servers.
    idle: Mutex<Vec<(u64, MultiplexedConnection)>>,
    /// The connection of lists, with the number of its server. Held while it is made, so that one is made for all that want it.
    lists: AsyncMutex<Option<(u64, MultiplexedConnection)>>,
    warnings: Arc<Warnings>,
    /// Whether `trouble` holds something, so that calls that succeed need no lock.
    troubled: AtomicBool,
    /// How the last call failed.
    trouble: Mutex<Option<RegistryError>>,
}

/// A search that found no server.
#[derive(Clone)]
struct Miss {
    at: Instant,
    outage: Outage,
    /// Searches without success in a row.
    count: u32,
}

impl Miss {
    /// Whether the pause after it is not over.
    fn holds(&self) -> bool {
        let pause = (PAUSE * 2_u32.pow(self.count.min(8) - 1)).min(MAX_PAUSE);
        self.at.elapsed() < jittered(pause)
    }
}

enum LinkPhase {
    /// There is no server and no search; how the last search failed, if there was no server since.
    Lost(Option<Miss>),
    /// A search is under way; how the one before it failed, if there was no server since.
    Sought(Option<Miss>),
    /// There is a server. Every time that one is found gets a number of its own, so that a late verdict on an earlier
    /// connection moves nothing.
    Found(u64, Arc<Server>),
}

impl LinkPhase {
    fn is(&self, number: u64) -> bool {
        matches!(self, Self::Found(found, _) if *found == number)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Its fields would show the password.
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A link for the farm with this prefix. Connects with the first call.
    pub(super) fn open(url: &str, password_file: Option<&Path>, prefix: &str) -> Result<Self, OpenError> {
        Ok(Self {
            seeker: Arc::new(Seeker::new(url, password_file, prefix)?),
            phase: watch::Sender::new(LinkPhase::Lost(None)),
            idle: Mutex::default(),
            lists: AsyncMutex::default(),
            warnings: Arc::default(),
            troubled: AtomicBool::new(false),
            trouble: Mutex::default(),
        })
    }

    /// How the last call failed, if it did.
    pub(super) fn trouble(&self) -> Option<RegistryError> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What an operator should change in the server's settings.
    pub(super) fn warnings(&self) -> Vec<String> {
        self.warnings.all()
    }

    /// Makes a call that is answered at once.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: Question<'_>,
    ) -> Result<T, RegistryError> {
        let answer = self.try_ask(call, question).await;
        let trouble = answer.as_ref().err().cloned();
        if trouble.is_some() || self.troubled.load(Ordering::Relaxed) {
            self.troubled.store(trouble.is_some(), Ordering::Relaxed);
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = trouble;
        }
        answer
    }

    async fn try_ask<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: Question<'_>,
    ) -> Result<T, RegistryError> {
        let (mut again, mut was_cut) = (true, false);
        // The first try may have happened, whatever becomes of the second.
        let after = |was_cut: bool, error| match error {
            RegistryError::Away(outage) if was_cut => RegistryError::Away(outage.again()),
            error => error,
        };
        loop {
            let (number, server) = self.server().await.map_err(|error| after(was_cut, error))?;
            let error = match put(question, &mut server.shared.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.judge(number, &server, &error);
            let cut = error.is_connection_dropped() && !ONCE.contains(&call);
            if !(again && (cut || is_elsewhere(&error))) {
                return Err(after(was_cut, registry_error(call, &error)));
            }
            (again, was_cut) = (false, cut);
        }
    }

    /// Makes a call that is answered when something has happened, within [`MAX_FOLLOW`].
    pub(super) async fn wait<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: &Pipeline,
    ) -> Result<T, RegistryError> {
        let (number, server) = self.server().await?;
        let mut phase = self.phase.subscribe();
        let mut connection = match self.idle(number) {
            Some(connection) => connection,
            None => {
                let another = self.seeker.another(&server, MAX_FOLLOW + ANSWER).await;
                another.map_err(|error| registry_error(call, &error))?
            }
        };
        let answer = tokio::select! {
            answer = put(Question::Pipeline(question), &mut connection) => answer,
            // Another server has the farm now: nothing will happen on this connection any more.
            _ = phase.wait_for(|phase| !phase.is(number)) => {
                return Err(RegistryError::Away(Outage::new(OutageKind::Other, "the connection was given up")));
            }
        };
        match answer {
            Ok(answer) => {
                self.park(number, connection);
                Ok(answer)
            }
            Err(error) => {
                // A broken connection says nothing about the shared one.
                if !error.is_io_error() {
                    self.judge(number, &server, &error);
                }
                Err(registry_error(call, &error))
            }
        }
    }

    /// Reads for a list, on a connection that no other call waits behind. Its failure says nothing about other calls.
    pub(super) async fn list<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: &Pipeline,
    ) -> Result<T, RegistryError> {
        let mut again = true;
        loop {
            let (number, server) = self.server().await?;
            let answer = match self.of_lists(number, &server).await {
                Ok(mut connection) => put(Question::Pipeline(question), &mut connection).await,
                Err(error) => Err(error),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if spoils_connection(&error) {
                self.lists.lock().await.take_if(|(of, _)| *of == number);
            }
            // Late is no verdict on the server; a connection that it has dropped is.
            if error.is_connection_dropped() || is_elsewhere(&error) {
                self.judge(number, &server, &error);
            }
            if !(again && (error.is_connection_dropped() || is_elsewhere(&error))) {
                return Err(registry_error(call, &error));
            }
            again = false;
        }
    }

    async fn of_lists(&self, number: u64, server: &Server) -> RedisResult<MultiplexedConnection> {
        let mut lists = self.lists.lock().await;
        if let Some((of, connection)) = &*lists
            && *of == number
        {
            return Ok(connection.clone());
        }
        let (_, connection) = lists.insert((number, self.seeker.another(server, ANSWER).await?));
        Ok(connection.clone())
    }

    fn idle(&self, number: u64) -> Option<MultiplexedConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(other, _)| *other == number);
        idle.pop().map(|(_, connection)| connection)
    }

    fn park(&self, number: u64, connection: MultiplexedConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push((number, connection));
        }
    }

    /// Gives a server up whose answer says that it cannot be used any more.
    fn judge(&self, number: u64, server: &Server, error: &RedisError) {
        if spoils_connection(error) {
            // Many calls fail at once. Only the first verdict on this server changes anything.
            self.phase.send_if_modified(|phase| {
                let news = phase.is(number);
                if news {
                    *phase = LinkPhase::Lost(None);
                    self.seeker.lost(server, is_elsewhere(error));
                }
                news
            });
        }
    }

    /// The server; starts a search when there is none, and waits for it.
    async fn server(&self) -> Result<(u64, Arc<Server>), RegistryError> {
        if let LinkPhase::Found(number, server) = &*self.phase.borrow() {
            return Ok((*number, Arc::clone(server)));
        }
        let mut phase = self.phase.subscribe();
        self.search();
        let unconnected = |outage: Outage| Err(RegistryError::Away(outage.unconnected()));
        let found = timeout(CONNECT, phase.wait_for(|phase| !matches!(phase, LinkPhase::Sought(_)))).await;
        match found {
            Ok(Ok(phase)) => match &*phase {
                LinkPhase::Found(number, server) => Ok((*number, Arc::clone(server))),
                LinkPhase::Lost(Some(miss)) => unconnected(miss.outage.clone()),
                LinkPhase::Lost(None) | LinkPhase::Sought(_) => {
                    unconnected(Outage::new(OutageKind::Other, "lost again"))
                }
            },
            Ok(Err(_)) | Err(_) => unconnected(Outage::new(OutageKind::NoAnswer, "not connected in time")),
        }
    }

    /// Starts a search, unless one is under way or has just failed.
    fn search(&self) {
        let begins = self.phase.send_if_modified(|phase| match phase {
            LinkPhase::Lost(Some(miss)) if miss.holds() => false,
            LinkPhase::Lost(miss) => {
                *phase = LinkPhase::Sought(miss.take());
                true
            }
            LinkPhase::Sought(_) | LinkPhase::Found(..) => false,
        });
        if begins {
            let search = Search { phase: self.phase.clone() };
            tokio::spawn(search.run(Arc::clone(&self.seeker), Arc::clone(&self.warnings)));
        }
    }
}

/// A search that is under way. However it ends, also by a panic, `Drop` ends the phase: callers never wait for a dead search.
struct Search {
    phase: watch::Sender<LinkPhase>,
}

impl Search {
    async fn run(self, seeker: Arc<Seeker>, warnings: Arc<Warnings>) {
        match timeout(SEARCH, seeker.find()).await {
            Ok(Ok(server)) => {
                let (host, port) = &server.at;
                info!(host, port, "connected to the registry");
                let (connection, at) = (server.shared.clone(), server.at.clone());
                let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
                let server = Arc::new(server);
                let found = Arc::downgrade(&server);
                self.end(|_| LinkPhase::Found(number, server));
                if seeker.has_sentinels() {
                    let sentinels = SentinelWatch { phase: self.phase.clone(), number, at };
                    tokio::spawn(sentinels.watch(Arc::downgrade(&seeker)));
                }
                drop(seeker);
                warnings.read(connection).await;
                tokio::spawn(keep_reading(warnings, found));
            }
            Ok(Err(outage)) => self.missed(outage),
            Err(_) => self.missed(Outage::new(OutageKind::NoAnswer, "not found in time")),
        }
    }

    fn missed(&self, outage: Outage) {
        self.end(|before| {
            // Logged once for each absence, and again when the server's verdict on the credential changes.
            let credential = |outage: &Outage| outage.kind().refused_credential();
            if before.as_ref().is_none_or(|before| credential(&before.outage) != credential(&outage)) {
                warn!(why = %outage, "cannot connect to the registry");
            }
            let count = before.map_or(0, |before| before.count).saturating_add(1);
            LinkPhase::Lost(Some(Miss { at: Instant::now(), outage, count }))
        });
    }

    fn end(&self, phase: impl FnOnce(Option<Miss>) -> LinkPhase) {
        self.phase.send_if_modified(|now| {
            let LinkPhase::Sought(before) = now else { return false };
            *now = phase(before.take());
            true
        });
    }
}

/// Reads the settings of a server again and again, until another one is found or the link is gone.
async fn keep_reading(warnings: Arc<Warnings>, server: Weak<Server>) {
    loop {
        sleep(jittered(READ_SETTINGS)).await;
        let Some(connection) = server.upgrade().map(|server| server.shared.clone()) else { return };
        warnings.read(connection).await;
    }
}

/// Watches whether Sentinels name another master than the server that was found.
struct SentinelWatch {
    phase: watch::Sender<LinkPhase>,
    number: u64,
    at: Address,
}

impl SentinelWatch {
    /// Returns when the server was given up, here or elsewhere, or the link is gone.
    async fn watch(self, seeker: Weak<Seeker>) {
        let mut phase = self.phase.subscribe();
        let mut connection = None;
        let first = fastrand::usize(..1000);
        for look in 0_usize.. {
            tokio::select! {
                () = sleep(jittered(LOOK)) => {}
                _ = phase.wait_for(|phase| !phase.is(self.number)) => return,
            }
            let Some(seeker) = seeker.upgrade() else { return };
            if look % LOOKS == 0 {
                connection = None;
            }
            if seeker.has_moved(&self.at, &mut connection, first + look / LOOKS).await {
                let (host, port) = &self.at;
                info!(host, port, "Sentinels name another master than the registry's server so far");
                self.phase.send_if_modified(|phase| {
                    let same = phase.is(self.number);
                    if same {
                        *phase = LinkPhase::Lost(None);
                    }
                    same
                });
                return;
            }
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.missed(Outage::new(OutageKind::Other, "the search was broken off"));
    }
}

async fn put<T: FromRedisValue>(
    question: Question<'_>,
    connection: &mut MultiplexedConnection,
) -> RedisResult<T> {
    match question {
        Question::Pipeline(pipeline) => pipeline.query_async(connection).await,
        Question::Script(script) => script.invoke_async(connection).await,
    }
}
