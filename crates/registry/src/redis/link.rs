//! Connections to Redis: one shared by all calls, which pipelines them, and one per follower, because a blocking read
//! would hold up the others. Every call is bounded in time.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection};
use redis::{AsyncConnectionConfig, Client, ErrorKind, RedisError, ServerErrorKind};

use crate::ask::LONGEST_FOLLOW;
use crate::error::{OpenError, RegistryError};

/// A call takes well under a millisecond; Redis that needs longer than this is as good as away.
const ANSWER: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_millis(500);
/// Connections of followers kept for the next call.
const MOST_IDLE: usize = 4;

pub(super) struct Link {
    client: Client,
    /// Made by the first call, because it needs the runtime that the opening need not have.
    shared: OnceLock<ConnectionManager>,
    idle: Mutex<Vec<MultiplexedConnection>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The client's own form would show the password.
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl Link {
    pub(super) fn open(url: &str) -> Result<Self, OpenError> {
        let wrong = |why: String| OpenError::Url { url: without_password(url), why };
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("redis") => {}
            Some(other) => return Err(wrong(format!("this build does not speak {other}://"))),
            None => return Err(wrong("it has no scheme".to_owned())),
        }
        let client = Client::open(url).map_err(|e| wrong(e.to_string()))?;
        Ok(Self { client, shared: OnceLock::new(), idle: Mutex::new(Vec::new()) })
    }

    /// The connection for calls that do not block.
    pub(super) fn shared(&self) -> Result<ConnectionManager, RegistryError> {
        if let Some(shared) = self.shared.get() {
            return Ok(shared.clone());
        }
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(ANSWER));
        let made = ConnectionManager::new_lazy_with_config(self.client.clone(), config)
            .map_err(|e| failed("connect", &e))?;
        Ok(self.shared.get_or_init(|| made).clone())
    }

    /// A connection for one blocking call; hand it back with [`Self::park`] when the call succeeded.
    pub(super) async fn blocking(&self) -> Result<MultiplexedConnection, RegistryError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        if let Some(connection) = idle {
            return Ok(connection);
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            .set_response_timeout(Some(LONGEST_FOLLOW + ANSWER));
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .map_err(|e| failed("connect", &e))
    }

    pub(super) fn park(&self, connection: MultiplexedConnection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MOST_IDLE {
            idle.push(connection);
        }
    }
}

/// What an error means: Redis cannot serve us now, or it said something this version does not understand.
pub(super) fn failed(call: &'static str, error: &RedisError) -> RegistryError {
    let defect = matches!(
        error.kind(),
        ErrorKind::Server(ServerErrorKind::ResponseError)
            | ErrorKind::UnexpectedReturnType
            | ErrorKind::InvalidClientConfig
            | ErrorKind::Parse
    );
    if defect {
        RegistryError::Unexpected { call, what: error.to_string() }
    } else {
        RegistryError::Away(error.to_string())
    }
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://…@{host}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_url_is_refused_without_showing_its_password() {
        for url in
            ["localhost:6379", "http://localhost", "redis://user:secret@host:port", "rediss://u:secret@h"]
        {
            let error = Link::open(url).expect_err(url).to_string();
            assert!(error.contains("--registry") && !error.contains("secret"), "{error}");
        }
    }
}
