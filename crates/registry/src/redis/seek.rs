//! Finding the server that has the farm: the one the URL names, the master that Sentinels name, or the node of a cluster
//! that serves the farm's slot. All keys of a farm are in one slot, so it is always one server.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    Value, cmd, from_redis_value, pipe,
};
use tokio::time::timeout;

use super::url::{Address, Guide, Target};

/// A call takes well under a millisecond; Redis that needs longer than this is as good as away.
pub(super) const ANSWER: Duration = Duration::from_secs(1);
/// To be connected, or to have been told by one who knows.
pub(super) const CONNECT: Duration = Duration::from_millis(500);
/// Nodes of a cluster that are remembered.
const MOST_GUIDES: usize = 64;

/// The server that has the farm, connected.
pub(super) struct Server {
    pub(super) at: Address,
    /// Who said so.
    told_by: Option<Address>,
    info: ConnectionInfo,
    /// For calls that do not block.
    pub(super) shared: MultiplexedConnection,
}

impl Server {
    /// One more connection to it, on which answers may take so long.
    pub(super) async fn another(&self, answer: Duration) -> RedisResult<MultiplexedConnection> {
        connect(self.info.clone(), answer).await
    }
}

/// Knows whom to ask.
pub(super) struct Seeker {
    target: Target,
    /// The farm's prefix: the cluster's nodes are asked for its slot.
    prefix: String,
    /// In the order in which they are asked.
    guides: Mutex<Vec<Address>>,
}

impl Seeker {
    pub(super) fn new(target: Target, prefix: &str) -> Self {
        let guides = Mutex::new(target.addresses.clone());
        Self { target, prefix: prefix.to_owned(), guides }
    }

    /// Finds it and connects; else why not.
    pub(super) async fn find(&self) -> Result<Server, String> {
        if self.target.guide == Guide::Url {
            let at = &self.target.addresses[0];
            return self.connected(at, None).await.map_err(|e| format!("{}: {e}", told(at)));
        }
        let guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut tried: Vec<Address> = Vec::new();
        let mut failed = String::new();
        let mut note = |at: &Address, error: &dyn std::fmt::Display| {
            let before = if failed.is_empty() { "" } else { "; " };
            failed = format!("{failed}{before}{}: {error}", told(at));
        };
        for guide in guides {
            let told = match timeout(CONNECT, self.ask(&guide)).await {
                Ok(Ok(told)) => told,
                Ok(Err(error)) => {
                    note(&guide, &error);
                    self.ask_last(&guide);
                    continue;
                }
                Err(_) => {
                    note(&guide, &"no answer in time");
                    self.ask_last(&guide);
                    continue;
                }
            };
            if tried.contains(&told) {
                continue;
            }
            match self.connected(&told, Some(guide)).await {
                Ok(server) => return Ok(server),
                Err(error) => note(&told, &error),
            }
            tried.push(told);
        }
        Err(failed)
    }

    /// This server was lost: whoever named it is asked last, or, if it said itself that another one has the farm, it is
    /// asked first.
    pub(super) fn lost(&self, server: &Server, knows_better: bool) {
        if knows_better && self.target.guide == Guide::Cluster {
            let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
            guides.retain(|guide| *guide != server.at);
            guides.insert(0, server.at.clone());
            return;
        }
        for last in [server.told_by.as_ref(), Some(&server.at)].into_iter().flatten() {
            self.ask_last(last);
        }
    }

    fn ask_last(&self, guide: &Address) {
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(index) = guides.iter().position(|other| other == guide) {
            guides[index..].rotate_left(1);
        }
    }

    async fn connected(&self, at: &Address, told_by: Option<Address>) -> RedisResult<Server> {
        let info = self.target.server(at);
        let mut shared = connect(info.clone(), ANSWER).await?;
        // Whoever named it may be behind: it may have been demoted.
        if told_by.is_some() {
            match cmd("ROLE").query_async::<Vec<Value>>(&mut shared).await {
                Ok(role) if role.first() == Some(&Value::BulkString(b"master".to_vec())) => {}
                // Not everybody may ask.
                Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {}
                Err(error) => return Err(error),
                Ok(_) => return Err((ErrorKind::Client, "it is not a master").into()),
            }
        }
        Ok(Server { at: at.clone(), told_by, info, shared })
    }

    /// Asks one who knows where the server is.
    async fn ask(&self, guide: &Address) -> RedisResult<Address> {
        let mut connection = connect(self.target.guide(guide), CONNECT).await?;
        if let Guide::Sentinels(master) = &self.target.guide {
            let mut ask = cmd("SENTINEL");
            let told: Option<Address> =
                ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master).query_async(&mut connection).await?;
            return told.ok_or_else(|| (ErrorKind::Client, "it knows no master of that name").into());
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
        owner.ok_or_else(|| (ErrorKind::Client, "it knows nobody who serves the farm's slot").into())
    }

    /// A cluster outlives the nodes that the URL names.
    fn learn(&self, nodes: Vec<Address>) {
        let mut guides = self.guides.lock().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            if !guides.contains(&node) && guides.len() < MOST_GUIDES {
                guides.push(node);
            }
        }
    }
}

/// A node in the answer to `CLUSTER SLOTS`; one that does not know its host is where it was asked.
fn address(node: Value, asked: &Address) -> Option<Address> {
    let mut parts = from_redis_value::<Vec<Value>>(node).ok()?.into_iter();
    let host: Option<String> = from_redis_value(parts.next()?).ok()?;
    let host = host.filter(|host| !host.is_empty() && host != "?").unwrap_or_else(|| asked.0.clone());
    Some((host, from_redis_value(parts.next()?).ok()?))
}

fn told((host, port): &Address) -> String {
    format!("{host}:{port}")
}

async fn connect(info: ConnectionInfo, answer: Duration) -> Result<MultiplexedConnection, RedisError> {
    let config =
        AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(answer));
    Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
}
