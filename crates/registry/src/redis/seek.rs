//! Finding the server that has the farm: the one that the URL names, the master that Sentinels name, or the node of a
//! cluster that serves the farm's slot. All keys of a farm are in one slot, so it is always one server.
//!
//! Sentinels and the nodes of a cluster are *guides*: they know where the server is. They are asked in turn; a guide that
//! fails, or named a server that was lost, moves to the end.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisConnectionInfo, RedisError, RedisResult,
    ServerErrorKind, Value, cmd, from_redis_value, pipe,
};
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::warn;

use super::server_error::{code, message, outage_kind};
use super::url::{Address, Guide, Source, Target};
use crate::error::OpenError;
use crate::outage::{Outage, OutageKind};

/// A call takes well under a millisecond; Redis that needs longer than this is as good as away.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// The timeout of a connection, or of a guide's answer, while others could be asked instead.
pub(super) const CONNECT: Duration = Duration::from_millis(500);
/// The timeout of a connection where no other server could be asked: a TLS handshake and a login take four round trips.
const CONNECT_ONLY: Duration = Duration::from_secs(2);
/// The timeout of reading the files of passwords and certificates again. Then the contents of before serve.
const READ: Duration = Duration::from_millis(300);
/// The most nodes of a cluster that are remembered.
const MAX_GUIDES: usize = 64;

/// The server that has the farm, connected.
pub(super) struct Server {
    pub(super) at: Address,
    /// The guide that named it; `None` when the URL did.
    named_by: Option<Address>,
    /// For calls that do not block.
    pub(super) shared: MultiplexedConnection,
}

/// Knows the guides, and how to connect.
pub(super) struct Seeker {
    source: Source,
    /// The setting with the files as they were when they could last be read.
    target: Mutex<Arc<Target>>,
    /// Set while the files are read, so that a hung file system holds one thread, and not one for each try.
    reading: Arc<AtomicBool>,
    /// Why the files could not be read the last time.
    unread: Mutex<Option<String>>,
    /// The farm's prefix, which decides its slot in a cluster.
    prefix: String,
    /// The guides, in the order in which they are asked.
    guides: Mutex<Vec<Address>>,
}

impl Seeker {
    pub(super) fn new(url: &str, password_file: Option<&Path>, prefix: &str) -> Result<Self, OpenError> {
        let source = Source::new(url, password_file);
        let target = source.read()?;
        Ok(Self {
            guides: Mutex::new(target.addresses.clone()),
            target: Mutex::new(Arc::new(target)),
            reading: Arc::default(),
            unread: Mutex::default(),
            source,
            prefix: prefix.to_owned(),
        })
    }

    /// The setting with its files as they are now. A file that cannot be used counts as it was before.
    async fn target(&self) -> Arc<Target> {
        if self.source.has_files() && !self.reading.swap(true, Ordering::AcqRel) {
            let (source, reading) = (self.source.clone(), Arc::clone(&self.reading));
            let read = spawn_blocking(move || {
                let target = source.read().map_err(|error| error.to_string());
                reading.store(false, Ordering::Release);
                target
            });
            let read = match timeout(READ, read).await {
                Ok(read) => read.unwrap_or_else(|_| Err("the files cannot be read".to_owned())),
                Err(_) => Err(format!("the files cannot be read within {READ:?}")),
            };
            let (target, why) = match read {
                Ok(target) => (Some(Arc::new(target)), None),
                Err(why) => (None, Some(why)),
            };
            self.note_unread(why);
            if let Some(target) = target {
                *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
            }
        }
        Arc::clone(&self.target.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note_unread(&self, why: Option<String>) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(why) = why.as_ref().filter(|why| unread.as_ref() != Some(why)) {
            warn!(why, "cannot read the registry's password or certificates again: those of before are used");
        }
        *unread = why;
    }

    /// One more connection to a server that was found. `answer` is the timeout of answers on it.
    pub(super) async fn another(
        &self,
        server: &Server,
        answer: Duration,
    ) -> RedisResult<MultiplexedConnection> {
        connect(self.target().await.server(&server.at), CONNECT_ONLY, answer).await
    }

    /// Finds the server and connects to it. The error lists every guide and server that was tried, and why it failed.
    pub(super) async fn find(&self) -> Result<Server, Outage> {
        let target = self.target().await;
        if target.guide == Guide::Url {
            let at = &target.addresses[0];
            return self.connected(&target, at, None).await.map_err(|error| {
                Outage::new(outage_kind(&error), format!("{}: {}", host_port(at), message(&error)))
            });
        }
        let guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tried: Vec<Address> = Vec::new();
        let mut failed = Vec::new();
        let mut note = |at: &Address, kind: OutageKind, why: &str| {
            failed.push((kind, format!("{}: {why}", host_port(at))));
        };
        for guide in guides {
            let named = match timeout(CONNECT, self.ask(&target, &guide)).await {
                Ok(Ok(named)) => named,
                Ok(Err(error)) => {
                    note(&guide, outage_kind(&error), &message(&error));
                    self.ask_last(&guide);
                    continue;
                }
                Err(_) => {
                    note(&guide, OutageKind::NoAnswer, "no answer in time");
                    self.ask_last(&guide);
                    continue;
                }
            };
            if tried.contains(&named) {
                continue;
            }
            match self.connected(&target, &named, Some(guide)).await {
                Ok(server) => return Ok(server),
                Err(error) => note(&named, outage_kind(&error), &message(&error)),
            }
            tried.push(named);
        }
        let kind = failed.iter().map(|(kind, _)| *kind).min().unwrap_or(OutageKind::Other);
        let failed: Vec<String> = failed.into_iter().map(|(_, why)| why).collect();
        Err(Outage::new(kind, failed.join("; ")))
    }

    /// Notes that this server was lost. The guide that named it is asked last. A node of a cluster that said itself that
    /// another one has the farm is asked first.
    pub(super) fn lost(&self, server: &Server, knows_better: bool) {
        let target = Arc::clone(&self.target.lock().unwrap_or_else(PoisonError::into_inner));
        if knows_better && target.guide == Guide::Cluster {
            let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
            guides.retain(|guide| *guide != server.at);
            guides.insert(0, server.at.clone());
            return;
        }
        for last in [server.named_by.as_ref(), Some(&server.at)].into_iter().flatten() {
            self.ask_last(last);
        }
    }

    fn ask_last(&self, guide: &Address) {
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = guides.iter().position(|other| other == guide) {
            guides[index..].rotate_left(1);
        }
    }

    async fn connected(
        &self,
        target: &Target,
        at: &Address,
        named_by: Option<Address>,
    ) -> RedisResult<Server> {
        let within = if named_by.is_some() { CONNECT } else { CONNECT_ONLY };
        let mut shared = connect(target.server(at), within, ANSWER).await?;
        // The guide may be behind: the server may have been demoted since.
        if named_by.is_some() {
            match cmd("ROLE").query_async::<Vec<Value>>(&mut shared).await {
                Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => {}
                // This user may not ask for the role. A replica still refuses the first write.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {}
                Err(error) => return Err(error),
                Ok(_) => return Err((ErrorKind::Client, "it is not a master").into()),
            }
        }
        Ok(Server { at: at.clone(), named_by, shared })
    }

    /// Asks a guide where the server is.
    async fn ask(&self, target: &Target, guide: &Address) -> RedisResult<Address> {
        let mut connection = connect(target.guide(guide), CONNECT, CONNECT).await?;
        if let Guide::Sentinels(master) = &target.guide {
            return ask_sentinel(&mut connection, master).await;
        }
        let mut ask = pipe();
        ask.cmd("CLUSTER").arg("KEYSLOT").arg(&self.prefix).cmd("CLUSTER").arg("SLOTS");
        let (slot, ranges): (u16, Vec<Vec<Value>>) = ask.query_async(&mut connection).await?;
        let mut owner = None;
        let mut nodes = Vec::new();
        for range in ranges {
            let mut parts = range.into_iter();
            let mut bound = || parts.next().and_then(|v| from_redis_value::<u16>(v).ok());
            let range = bound().zip(bound());
            let mut serving = parts.filter_map(|node| address(node, guide));
            let master = serving.next();
            if range.is_some_and(|(first, last)| (first..=last).contains(&slot)) {
                owner = master.clone();
            }
            nodes.extend(master.into_iter().chain(serving));
        }
        self.learn(nodes);
        owner.ok_or_else(|| (ErrorKind::Client, "it knows no server of the farm's slot").into())
    }

    /// Whether Sentinels name another master than this one: the Sentinel on `kept` does, and so do more of those that
    /// answer than do not. `kept` is a connection to one Sentinel, reused by the next question; `turn` chooses the
    /// Sentinel.
    ///
    /// The old master of a failover that an operator ordered, or that is cut off from Sentinels alone, goes on as a master for
    /// ten seconds or more. What is written to it in that time is lost.
    pub(super) async fn has_moved(
        &self,
        at: &Address,
        kept: &mut Option<MultiplexedConnection>,
        turn: usize,
    ) -> bool {
        let target = self.target().await;
        let Guide::Sentinels(master) = &target.guide else { return false };
        let guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let seen = &guides[turn % guides.len()];
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match connect(target.guide(seen), CONNECT, CONNECT).await {
                Ok(connection) => connection,
                Err(_) => return false,
            },
        };
        let Ok(named) = ask_sentinel(&mut connection, master).await else { return false };
        *kept = Some(connection);
        if named == *at {
            return false;
        }
        let (mut here, mut elsewhere) = (0, None);
        let mut votes = 0;
        for guide in &guides {
            match timeout(CONNECT, self.ask(&target, guide)).await {
                Ok(Ok(named)) if named == *at => here += 1,
                Ok(Ok(_)) => {
                    votes += 1;
                    elsewhere.get_or_insert(guide);
                }
                _ => {}
            }
        }
        let Some(first) = elsewhere.filter(|_| votes > here) else { return false };
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        guides.retain(|guide| guide != first);
        guides.insert(0, first.clone());
        true
    }

    /// Whether [`Self::has_moved`] can ever be true.
    pub(super) fn has_sentinels(&self) -> bool {
        matches!(self.target.lock().unwrap_or_else(PoisonError::into_inner).guide, Guide::Sentinels(_))
    }

    /// Adds nodes of a cluster to the guides: a cluster outlives the nodes that the URL names.
    fn learn(&self, nodes: Vec<Address>) {
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            if !guides.contains(&node) && guides.len() < MAX_GUIDES {
                guides.push(node);
            }
        }
    }
}

/// The master that a Sentinel names.
async fn ask_sentinel(connection: &mut MultiplexedConnection, master: &str) -> RedisResult<Address> {
    let mut ask = cmd("SENTINEL");
    let named: Option<Address> =
        ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(connection).await?;
    named.ok_or_else(|| (ErrorKind::Client, "it knows no master of that name").into())
}

/// A node in the answer to `CLUSTER SLOTS`; one that does not know its host is where it was asked.
fn address(node: Value, asked: &Address) -> Option<Address> {
    let mut parts = from_redis_value::<Vec<Value>>(node).ok()?.into_iter();
    let host: Option<String> = from_redis_value(parts.next()?).ok()?;
    let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.0.clone());
    Some((host, from_redis_value(parts.next()?).ok()?))
}

fn host_port((host, port): &Address) -> String {
    format!("{host}:{port}")
}

/// Connects and authenticates. The connection counts only when the server has answered a PING on it, or has said that it
/// cannot serve now: either comes after its check of the credential.
async fn connect(
    info: ConnectionInfo,
    within: Duration,
    answer: Duration,
) -> Result<MultiplexedConnection, RedisError> {
    let settings = info.redis_settings().clone();
    // The library's own way drops the server's words when a password is wrong.
    let info = info.set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(within)).set_response_timeout(Some(answer));
    let ready = async {
        let mut connection =
            Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await?;
        if let Some(password) = settings.password() {
            let mut auth = cmd("AUTH");
            if let Some(user) = settings.username() {
                auth.arg(user);
            }
            auth.arg(password).exec_async(&mut connection).await?;
        }
        if settings.db() != 0 {
            cmd("SELECT").arg(settings.db()).exec_async(&mut connection).await?;
        }
        match cmd("PING").exec_async(&mut connection).await {
            Err(error) if !is_served_later(&error) => Err(error),
            _ => Ok(connection),
        }
    };
    let late = || RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
    timeout(within, ready).await.unwrap_or_else(|_| Err(late()))
}

/// Whether the server has accepted the credential and only cannot serve now.
fn is_served_later(error: &RedisError) -> bool {
    code(error).is_some_and(|code| ["LOADING", "BUSY", "MASTERDOWN", "NOPERM"].contains(&code.as_str()))
}
