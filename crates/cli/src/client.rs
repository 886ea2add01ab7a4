//! Typed calls to a front door.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::api::{
    Attempt, DrainRequest, EligibilityAnswer, Node, NodeList, Problem, Spawn, SpawnAnswer, SpawnList,
    SpawnRequest,
};
use model::{NodeId, SpawnState};
use serde::de::DeserializeOwned;

use crate::connector::{Connector, innermost};
use crate::credential::Credential;
use crate::exit::Exit;
use crate::server::Server;

/// No answer is longer: a list of ten thousand nodes takes a tenth of it.
pub(crate) const LONGEST_ANSWER: usize = 64 << 20;
/// Enough for the pool to keep what a load generator uses.
const IDLE_CONNECTIONS: usize = 4096;
pub(crate) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hatchery/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");

/// Why a call has no good answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// Nobody listens there, or the name does not resolve.
    Unreachable { server: Server, why: String },
    /// The connection broke before the whole answer was here.
    Broken { server: Server, why: String },
    /// No answer in time.
    TimedOut { server: Server, after: Duration },
    /// The front door said no, and why.
    Refused { problem: Box<Problem>, json: Bytes },
    /// An error that is not in the form of a front door of this version.
    Odd { server: Server, status: StatusCode, json: Option<Bytes>, detail: Option<String> },
    /// A good answer that cannot be read.
    Unreadable { server: Server, why: String },
}

impl CallError {
    /// What it means to a script.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Unreachable { .. } | Self::Broken { .. } | Self::Unreadable { .. } => Exit::Failed,
            Self::TimedOut { .. } => Exit::TimedOut,
            Self::Refused { problem, .. } => Exit::of(problem.code),
            Self::Odd { status, .. } => match *status {
                StatusCode::GATEWAY_TIMEOUT => Exit::TimedOut,
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => {
                    Exit::Refused
                }
                _ => Exit::Failed,
            },
        }
    }

    /// Whether the front door wants to know who calls, or does not accept who says so.
    pub(crate) fn is_unauthenticated(&self) -> bool {
        match self {
            Self::Refused { problem, .. } => problem.status == StatusCode::UNAUTHORIZED.as_u16(),
            Self::Odd { status, .. } => *status == StatusCode::UNAUTHORIZED,
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Unreadable { .. } => false,
        }
    }

    /// The word under which a load generator counts it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Broken { .. } => "connection-lost",
            Self::TimedOut { .. } => "timed-out",
            Self::Refused { problem, .. } => problem.code.as_str(),
            Self::Odd { .. } | Self::Unreadable { .. } => "unexpected-answer",
        }
    }

    /// The problem as the front door wrote it.
    pub(crate) fn problem_json(&self) -> Option<&Bytes> {
        match self {
            Self::Refused { json, .. } => Some(json),
            Self::Odd { json, .. } => json.as_ref(),
            Self::Unreachable { .. }
            | Self::Broken { .. }
            | Self::TimedOut { .. }
            | Self::Unreadable { .. } => None,
        }
    }

    /// The last lines of the process that failed.
    pub(crate) fn log(&self) -> &[String] {
        match self {
            Self::Refused { problem, .. } => problem.log.as_deref().unwrap_or_default(),
            _ => &[],
        }
    }
}

impl CallError {
    /// The nodes that were tried for it.
    pub(crate) fn attempts(&self) -> &[Attempt] {
        match self {
            Self::Refused { problem, .. } => &problem.attempts,
            _ => &[],
        }
    }
}

impl std::fmt::Display for CallError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable { server, why } => {
                write!(f, "cannot reach {server}: {why} (--server or HATCHERY_SERVER names the front door)")
            }
            Self::Broken { server, why } => {
                write!(f, "the connection to {server} broke before it had answered: {why}")
            }
            Self::TimedOut { server, after } => {
                write!(f, "{server} did not answer within {}", humantime::format_duration(*after))
            }
            Self::Refused { problem, .. } => {
                let detail = problem.detail.trim().trim_end_matches('.');
                f.write_str(if detail.is_empty() { &problem.title } else { detail })?;
                write!(f, " ({}", problem.code.as_str())?;
                if let Some(node) = &problem.node {
                    write!(f, ", node {node}")?;
                }
                if let Some(spawn) = &problem.spawn {
                    write!(f, ", spawn {spawn}")?;
                }
                write!(f, ", request {})", problem.request_id)
            }
            Self::Odd { server, status, detail, .. } => {
                write!(f, "{server} answered {status}")?;
                match detail {
                    Some(detail) => write!(f, ": {detail}"),
                    None => f.write_str(", which is not how a front door says it"),
                }
            }
            Self::Unreadable { server, why } => {
                write!(f, "{server} answered something this version cannot read: {why}")
            }
        }
    }
}

/// A good answer: understood, and as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer<T> {
    /// Understood.
    pub(crate) value: T,
    /// As it came, for `--json`.
    pub(crate) json: Bytes,
}

/// A `POST /spawn` that can be sent any number of times.
#[derive(Debug, Clone)]
pub(crate) struct PreparedSpawn {
    body: Bytes,
    key: Option<HeaderValue>,
}

impl PreparedSpawn {
    /// With an idempotency key, or without.
    pub(crate) fn new(request: &SpawnRequest, key: Option<HeaderValue>) -> Self {
        let body = serde_json::to_vec(request).unwrap_or_default();
        Self { body: body.into(), key }
    }
}

/// What came of asking for a spawn's end.
#[derive(Debug, Clone)]
pub(crate) struct Stopped {
    /// It had ended before.
    pub(crate) had_ended: bool,
    /// What the front door wrote.
    pub(crate) json: Bytes,
}

/// A connection pool to one front door, with one limit for the time a call takes.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    connector: Connector,
    credential: Arc<Credential>,
    server: Server,
    timeout: Duration,
    /// Where spawns are asked for, parsed once.
    spawn: Uri,
}

impl Client {
    /// Connects when first used.
    pub(crate) fn new(
        server: &Server,
        connector: Connector,
        credential: Arc<Credential>,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector.clone());
        let spawn = uri(server, "/spawn")?;
        Ok(Self { http, connector, credential, server: server.clone(), timeout, spawn })
    }

    /// One for another address of the same farm. Who calls is not told where that could be read on the way.
    pub(crate) fn beside(&self, server: &Server, timeout: Duration) -> Result<Self, CallError> {
        let credential = if server.by_tls() { Arc::clone(&self.credential) } else { Arc::default() };
        Self::new(server, self.connector.clone(), credential, timeout)
    }

    /// The front door it talks to.
    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// What makes its connections.
    pub(crate) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Who calls.
    pub(crate) fn credential(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// The longest a call takes.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Starts a spawn and waits until it is ready.
    pub(crate) async fn spawn(&self, prepared: &PreparedSpawn) -> Result<Answer<SpawnAnswer>, CallError> {
        let mut request = self.request(Method::POST, self.spawn.clone(), Full::new(prepared.body.clone()));
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        if let Some(key) = &prepared.key {
            request.headers_mut().insert("idempotency-key", key.clone());
        }
        let (_, body) = self.send(request).await?;
        self.read(body)
    }

    /// One page of spawns.
    pub(crate) async fn spawns(
        &self,
        node: Option<&NodeId>,
        state: Option<SpawnState>,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Answer<SpawnList>, CallError> {
        let mut path = format!("/v1/spawns?limit={limit}");
        for (name, value) in
            [("node", node.map(|n| n.as_str())), ("state", state.map(|s| s.as_str())), ("cursor", cursor)]
        {
            if let Some(value) = value {
                path += &format!("&{name}={}", encoded(value));
            }
        }
        self.get(&path).await
    }

    /// One spawn with its history.
    pub(crate) async fn show(&self, id: &str) -> Result<Answer<Spawn>, CallError> {
        self.get(&format!("/v1/spawns/{}", encoded(id))).await
    }

    /// Asks for a spawn's end.
    pub(crate) async fn stop(&self, id: &str) -> Result<Stopped, CallError> {
        let uri = uri(&self.server, &format!("/v1/spawns/{}", encoded(id)))?;
        let (status, json) = self.send(self.request(Method::DELETE, uri, Full::default())).await?;
        Ok(Stopped { had_ended: status == StatusCode::OK, json })
    }

    /// The last lines of a spawn's output.
    pub(crate) async fn log(&self, id: &str, lines: u32) -> Result<Bytes, CallError> {
        let uri = uri(&self.server, &format!("/v1/spawns/{}/log?lines={lines}", encoded(id)))?;
        Ok(self.send(self.request(Method::GET, uri, Full::default())).await?.1)
    }

    /// All nodes.
    pub(crate) async fn nodes(&self) -> Result<Answer<NodeList>, CallError> {
        self.get("/v1/nodes").await
    }

    /// Figures, where this is an admin address.
    pub(crate) async fn metrics(&self) -> Result<Bytes, CallError> {
        let uri = uri(&self.server, "/metrics")?;
        Ok(self.send(self.request(Method::GET, uri, Full::default())).await?.1)
    }

    /// One node.
    pub(crate) async fn node(&self, node: &NodeId) -> Result<Answer<Node>, CallError> {
        self.get(&format!("/v1/nodes/{node}")).await
    }

    /// Closes a node to new spawns.
    pub(crate) async fn cordon(&self, node: &NodeId) -> Result<Answer<EligibilityAnswer>, CallError> {
        self.post(&format!("/v1/nodes/{node}/cordon"), Bytes::new()).await
    }

    /// Opens a node to new spawns again.
    pub(crate) async fn uncordon(&self, node: &NodeId) -> Result<Answer<EligibilityAnswer>, CallError> {
        self.post(&format!("/v1/nodes/{node}/uncordon"), Bytes::new()).await
    }

    /// Has a node emptied.
    pub(crate) async fn drain(
        &self,
        node: &NodeId,
        wish: &DrainRequest,
    ) -> Result<Answer<EligibilityAnswer>, CallError> {
        let body = serde_json::to_vec(wish).unwrap_or_default();
        self.post(&format!("/v1/nodes/{node}/drain"), body.into()).await
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<Answer<T>, CallError> {
        let uri = uri(&self.server, path)?;
        let typed = !body.is_empty();
        let mut request = self.request(Method::POST, uri, Full::new(body));
        if typed {
            request.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        let (_, body) = self.send(request).await?;
        self.read(body)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<Answer<T>, CallError> {
        let uri = uri(&self.server, path)?;
        let (_, body) = self.send(self.request(Method::GET, uri, Full::default())).await?;
        self.read(body)
    }

    fn request(&self, method: Method, uri: Uri, body: Full<Bytes>) -> Request<Full<Bytes>> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(USER_AGENT, AGENT);
        request.headers_mut().insert(ACCEPT, ANYTHING);
        if let Some(credential) = self.credential.header() {
            request.headers_mut().insert(AUTHORIZATION, credential);
        }
        request
    }

    /// The whole exchange within the time limit; an error status is an error.
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<(StatusCode, Bytes), CallError> {
        let exchange = async {
            let response = self.http.request(request).await.map_err(|e| {
                let (server, why) = (self.server.clone(), innermost(&e));
                if e.is_connect() {
                    CallError::Unreachable { server, why }
                } else {
                    CallError::Broken { server, why }
                }
            })?;
            let status = response.status();
            let body = Limited::new(response.into_body(), LONGEST_ANSWER);
            let body = body
                .collect()
                .await
                .map_err(|e| CallError::Broken { server: self.server.clone(), why: innermost(&*e) })?;
            Ok((status, body.to_bytes()))
        };
        let (status, body) = tokio::time::timeout(self.timeout, exchange)
            .await
            .map_err(|_| CallError::TimedOut { server: self.server.clone(), after: self.timeout })??;
        if status.is_success() { Ok((status, body)) } else { Err(refusal(&self.server, status, body)) }
    }

    fn read<T: DeserializeOwned>(&self, json: Bytes) -> Result<Answer<T>, CallError> {
        match serde_json::from_slice(&json) {
            Ok(value) => Ok(Answer { value, json }),
            Err(e) => Err(CallError::Unreadable { server: self.server.clone(), why: e.to_string() }),
        }
    }
}

/// What an answer with an error status says.
pub(crate) fn refusal(server: &Server, status: StatusCode, body: Bytes) -> CallError {
    if let Ok(problem) = serde_json::from_slice::<Problem>(&body) {
        return CallError::Refused { problem: Box::new(problem), json: body };
    }
    // A newer front door may have codes this version does not know.
    let value: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
    let text = |field: &str| value.as_ref()?.get(field)?.as_str().map(str::to_owned);
    let detail = text("detail").or_else(|| text("title")).map(|mut detail| {
        if let (Some(code), Some(id)) = (text("code"), text("requestId")) {
            write!(detail, " ({code}, request {id})").ok();
        }
        detail
    });
    let json = detail.is_some().then_some(body);
    CallError::Odd { server: server.clone(), status, json, detail }
}

fn uri(server: &Server, path: &str) -> Result<Uri, CallError> {
    format!("{server}{path}").parse().map_err(|e| CallError::Unreachable {
        server: server.clone(),
        why: format!("{path} is no path: {e}"),
    })
}

/// A part of a path or the value of a parameter.
fn encoded(text: &str) -> Cow<'_, str> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-._~".contains(b);
    if text.as_bytes().iter().all(plain) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len() * 3);
    for byte in text.as_bytes() {
        if plain(byte) {
            encoded.push(char::from(*byte));
        } else {
            write!(encoded, "%{byte:02X}").ok();
        }
    }
    Cow::Owned(encoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_survive_the_query() {
        assert_eq!(encoded("a-b.c"), "a-b.c");
        assert_eq!(encoded("a+b/c=&d"), "a%2Bb%2Fc%3D%26d");
    }
}
