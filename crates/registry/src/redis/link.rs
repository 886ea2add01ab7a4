//! Connections to the server that has the farm: one shared by all calls, which pipelines them, and a few for those who
//! wait, because a blocking read would hold up the others. Every call is bounded in time.
//!
//! A connection that cannot be trusted any more (broken, too slow, or of a server that says it is not the one) is dropped,
//! with all others to that server; the next call has the server sought anew. One search is under way at a time, in a task
//! of its own, and everybody who needs a connection waits for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ScriptInvocation, ServerErrorKind,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::info;

use super::seek::{ANSWER, CONNECT, Seeker, Server};
use super::url::Target;
use crate::ask::LONGEST_FOLLOW;
use crate::error::{OpenError, RegistryError};

/// Connections of followers kept for the next call.
const MOST_IDLE: usize = 4;
/// A search asks one after the other, but not for ever.
const SEARCH: Duration = Duration::from_secs(3);
/// What a search found out holds for so long, so that many callers do not make many searches.
const PAUSE: Duration = Duration::from_millis(50);

/// What is asked.
#[derive(Clone, Copy)]
pub(super) enum Question<'a> {
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

pub(super) struct Link {
    seeker: Arc<Seeker>,
    phase: watch::Sender<Phase>,
    /// With the numbers of the servers they lead to.
    idle: Mutex<Vec<(u64, MultiplexedConnection)>>,
}

enum Phase {
    /// Nobody looks for the server; when and why that ended without one, if anybody did.
    Lost(Option<(Instant, String)>),
    Sought,
    /// It is this one; connections to the same server at different times have different numbers.
    Found(u64, Arc<Server>),
}

impl Phase {
    fn is(&self, number: u64) -> bool {
        matches!(self, Self::Found(found, _) if *found == number)
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The form of what is in it would show the password.
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    /// A link for the farm with this prefix. Connects when it is needed.
    pub(super) fn open(url: &str, prefix: &str) -> Result<Self, OpenError> {
        let seeker = Arc::new(Seeker::new(Target::parse(url)?, prefix));
        Ok(Self { seeker, phase: watch::Sender::new(Phase::Lost(None)), idle: Mutex::default() })
    }

    /// Asks what is answered at once.
    pub(super) async fn ask<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: Question<'_>,
    ) -> Result<T, RegistryError> {
        let mut again = true;
        loop {
            let (number, server) = self.server().await?;
            let error = match put(question, &mut server.shared.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            self.judge(number, &server, &error);
            if !(again && is_elsewhere(&error)) {
                return Err(failed(call, &error));
            }
            again = false;
        }
    }

    /// Asks what is answered when something has happened, within [`LONGEST_FOLLOW`].
    pub(super) async fn wait<T: FromRedisValue>(
        &self,
        call: &'static str,
        question: &Pipeline,
    ) -> Result<T, RegistryError> {
        let (number, server) = self.server().await?;
        let mut phase = self.phase.subscribe();
        let mut connection = match self.idle(number) {
            Some(connection) => connection,
            None => server.another(LONGEST_FOLLOW + ANSWER).await.map_err(|e| failed(call, &e))?,
        };
        let answer = tokio::select! {
            answer = put(Question::Pipeline(question), &mut connection) => answer,
            // Nothing will happen there any more.
            _ = phase.wait_for(|phase| !phase.is(number)) => {
                return Err(RegistryError::Away("the connection was given up".to_owned()));
            }
        };
        match answer {
            Ok(answer) => {
                self.park(number, connection);
                Ok(answer)
            }
            Err(error) => {
                // Its own connection may be all that broke.
                if !error.is_io_error() {
                    self.judge(number, &server, &error);
                }
                Err(failed(call, &error))
            }
        }
    }

    fn idle(&self, number: u64) -> Option<MultiplexedConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|(other, _)| *other == number);
        idle.pop().map(|(_, connection)| connection)
    }

    fn park(&self, number: u64, connection: MultiplexedConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push((number, connection));
        }
    }

    /// Drops the connections to a server whose answer says that it is no good.
    fn judge(&self, number: u64, server: &Server, error: &RedisError) {
        let no_good = match error.kind() {
            ErrorKind::Server(kind) => {
                use ServerErrorKind::{ClusterDown, MasterDown, Moved, ReadOnly};
                matches!(kind, ClusterDown | MasterDown | Moved | ReadOnly)
            }
            ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed => true,
            // A master that is cut off from its replicas may have been replaced.
            ErrorKind::Extension => error.code() == Some("NOREPLICAS"),
            _ => false,
        };
        if no_good {
            // Only the first who says so moves anything.
            self.phase.send_if_modified(|phase| {
                let news = phase.is(number);
                if news {
                    *phase = Phase::Lost(None);
                    self.seeker.lost(server, is_elsewhere(error));
                }
                news
            });
        }
    }

    /// The server; has it sought when it is not known.
    async fn server(&self) -> Result<(u64, Arc<Server>), RegistryError> {
        if let Phase::Found(number, server) = &*self.phase.borrow() {
            return Ok((*number, Arc::clone(server)));
        }
        let mut phase = self.phase.subscribe();
        self.search();
        let found = timeout(CONNECT, phase.wait_for(|phase| !matches!(phase, Phase::Sought))).await;
        match found {
            Ok(Ok(phase)) => match &*phase {
                Phase::Found(number, server) => Ok((*number, Arc::clone(server))),
                Phase::Lost(Some((_, why))) => Err(RegistryError::Away(why.clone())),
                Phase::Lost(None) | Phase::Sought => Err(RegistryError::Away("lost again".to_owned())),
            },
            Ok(Err(_)) | Err(_) => Err(RegistryError::Away("not connected in time".to_owned())),
        }
    }

    /// Starts to search, unless somebody does, or just did.
    fn search(&self) {
        let begins = self.phase.send_if_modified(|phase| match phase {
            Phase::Lost(Some((at, _))) if at.elapsed() < PAUSE => false,
            Phase::Lost(_) => {
                *phase = Phase::Sought;
                true
            }
            Phase::Sought | Phase::Found(..) => false,
        });
        if begins {
            let search = Search { phase: self.phase.clone() };
            tokio::spawn(search.run(Arc::clone(&self.seeker)));
        }
    }
}

/// A search that is under way. However it ends, those who wait for it are told.
struct Search {
    phase: watch::Sender<Phase>,
}

impl Search {
    async fn run(self, seeker: Arc<Seeker>) {
        match timeout(SEARCH, seeker.find()).await {
            Ok(Ok(server)) => {
                let (host, port) = &server.at;
                info!(host, port, "connected to the registry");
                self.end(|| Phase::Found(fastrand::u64(..), Arc::new(server)));
            }
            Ok(Err(why)) => self.end(|| Phase::Lost(Some((Instant::now(), why)))),
            Err(_) => self.end(|| Phase::Lost(Some((Instant::now(), "not found in time".to_owned())))),
        }
    }

    fn end(&self, phase: impl FnOnce() -> Phase) {
        self.phase.send_if_modified(|now| {
            let under_way = matches!(now, Phase::Sought);
            if under_way {
                *now = phase();
            }
            under_way
        });
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.end(|| Phase::Lost(Some((Instant::now(), "the search was broken off".to_owned()))));
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

/// Nothing was done, because another server has the farm.
fn is_elsewhere(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::Moved)
}

/// What an error means: Redis cannot serve us now, or it said something this version does not understand.
///
/// `ASK` and `TRYAGAIN` mean that the farm's slot is being moved to another node and that a part of its keys has arrived.
/// That counts as away: a script would see half a farm on either side.
fn failed(call: &'static str, error: &RedisError) -> RegistryError {
    let defect = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Parse
    );
    if defect {
        return RegistryError::Unexpected { call, what: error.to_string() };
    }
    // Operators know the server's own word: LOADING, BUSY, READONLY, MISCONF, OOM, NOREPLICAS, NOAUTH …
    let why = error.to_string();
    match error.code() {
        Some(word) if !why.contains(word) => RegistryError::Away(format!("{word} {why}")),
        _ => RegistryError::Away(why),
    }
}
