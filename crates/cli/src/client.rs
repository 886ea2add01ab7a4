//! Typed calls to a front door.
//!
//! One client is one connection pool with one time limit for a whole call. Nothing is retried: a command decides whether to ask again.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, USER_AGENT};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use model::NodeId;
use model::api::{
    AuditList, CordonRequest, DrainRequest, EligibilityAnswer, Explanation, ForgetAnswer, Node, NodeList,
    Spawn, SpawnAnswer, SpawnList, SpawnRequest, WaitingList,
};
use serde::de::DeserializeOwned;
use sse_stream::SseStream;

use crate::call_error::{CallError, refusal};
use crate::connector::{Connector, innermost};
use crate::credential::Credential;
use crate::filter::Filter;
use crate::server::Server;
use crate::spawn_events::{Stage, StreamedEvent};

/// No answer is longer, in bytes: a list of ten thousand nodes takes a tenth of it.
pub(crate) const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Enough for the pool to keep what a load generator uses.
const IDLE_CONNECTIONS: usize = 4096;
pub(crate) const AGENT: HeaderValue =
    HeaderValue::from_static(concat!("hatchery/", env!("CARGO_PKG_VERSION")));
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ANYTHING: HeaderValue = HeaderValue::from_static("*/*");
/// A front door of the release before answers in JSON.
const WATCHING: HeaderValue = HeaderValue::from_static("text/event-stream, application/json;q=0.9");

/// A good answer: understood, and as it came.
#[derive(Debug, Clone)]
pub(crate) struct Answer<T> {
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

/// The answer to a request to stop a spawn.
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

    /// One for another address of the same farm. The credential is left out where it could be read on the way.
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

    pub(crate) fn credential(&self) -> &Arc<Credential> {
        &self.credential
    }

    /// The longest a call takes.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Starts a spawn and waits until it is ready.
    pub(crate) async fn spawn(&self, prepared: &PreparedSpawn) -> Result<Answer<SpawnAnswer>, CallError> {
        let (_, body) = self.send(self.spawn_request(prepared)).await?;
        self.read(body)
    }

    /// The same, and reports how far it has come, where the front door says so.
    pub(crate) async fn spawn_watched(
        &self,
        prepared: &PreparedSpawn,
        mut report: impl FnMut(&Stage),
    ) -> Result<Answer<SpawnAnswer>, CallError> {
        let mut request = self.spawn_request(prepared);
        request.headers_mut().insert(ACCEPT, WATCHING);
        let (_, body) = self.send_watched(request, &mut report).await?;
        self.read(body)
    }

    fn spawn_request(&self, prepared: &PreparedSpawn) -> Request<Full<Bytes>> {
        let mut request = self.request(Method::POST, self.spawn.clone(), Full::new(prepared.body.clone()));
        request.headers_mut().insert(CONTENT_TYPE, JSON);
        if let Some(key) = &prepared.key {
            request.headers_mut().insert("idempotency-key", key.clone());
        }
        request
    }

    /// The first ones in line.
    pub(crate) async fn waiting(&self, limit: u32) -> Result<Answer<WaitingList>, CallError> {
        self.get(&format!("/v1/waiting?limit={limit}")).await
    }

    /// One page of operators' orders.
    pub(crate) async fn audit(&self, query: &[(&str, String)]) -> Result<Answer<AuditList>, CallError> {
        let query: Vec<String> =
            query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        self.get(&format!("/v1/audit?{}", query.join("&"))).await
    }

    /// Where a spawn would be placed, and why.
    pub(crate) async fn explain(&self, request: &SpawnRequest) -> Result<Answer<Explanation>, CallError> {
        let body = serde_json::to_vec(request).unwrap_or_default();
        self.post("/v1/explain", body.into()).await
    }

    /// One page of spawns.
    pub(crate) async fn spawns(
        &self,
        filter: &Filter,
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Answer<SpawnList>, CallError> {
        let mut path = format!("/v1/spawns?limit={limit}");
        let cursor = cursor.map(|cursor| ("cursor", cursor.to_owned()));
        for (name, value) in filter.query().into_iter().chain(cursor) {
            path += &format!("&{name}={}", encoded(&value));
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

    /// All nodes in one answer.
    pub(crate) async fn nodes(&self) -> Result<Answer<NodeList>, CallError> {
        self.get("/v1/nodes").await
    }

    /// One page of nodes. `query`: names and values of the filter.
    pub(crate) async fn nodes_page(
        &self,
        query: &[(&str, String)],
        limit: u32,
        cursor: Option<&str>,
    ) -> Result<Answer<NodeList>, CallError> {
        let mut path = format!("/v1/nodes?limit={limit}");
        let pairs = query.iter().map(|(name, value)| (*name, value.as_str()));
        for (name, value) in pairs.chain(cursor.map(|cursor| ("cursor", cursor))) {
            path += &format!("&{name}={}", encoded(value));
        }
        self.get(&path).await
    }

    /// The metrics, where this is an admin address.
    pub(crate) async fn metrics(&self) -> Result<Bytes, CallError> {
        let uri = uri(&self.server, "/metrics")?;
        Ok(self.send(self.request(Method::GET, uri, Full::default())).await?.1)
    }

    pub(crate) async fn node(&self, node: &NodeId) -> Result<Answer<Node>, CallError> {
        self.get(&format!("/v1/nodes/{node}")).await
    }

    /// Closes a node to new spawns.
    pub(crate) async fn cordon(
        &self,
        node: &NodeId,
        reason: Option<&str>,
    ) -> Result<Answer<EligibilityAnswer>, CallError> {
        // A front door of the release before this one takes no body.
        let body = reason.map(|reason| {
            serde_json::to_vec(&CordonRequest { reason: Some(reason.to_owned()) }).unwrap_or_default()
        });
        self.post(&format!("/v1/nodes/{node}/cordon"), body.unwrap_or_default().into()).await
    }

    /// Opens a node to new spawns again.
    pub(crate) async fn uncordon(&self, node: &NodeId) -> Result<Answer<EligibilityAnswer>, CallError> {
        self.post(&format!("/v1/nodes/{node}/uncordon"), Bytes::new()).await
    }

    /// Has a node emptied.
    pub(crate) async fn drain(
        &self,
        node: &NodeId,
        request: &DrainRequest,
    ) -> Result<Answer<EligibilityAnswer>, CallError> {
        let body = serde_json::to_vec(request).unwrap_or_default();
        self.post(&format!("/v1/nodes/{node}/drain"), body.into()).await
    }

    /// Removes a node that will not come back.
    pub(crate) async fn forget(&self, node: &NodeId) -> Result<Answer<ForgetAnswer>, CallError> {
        let uri = uri(&self.server, &format!("/v1/nodes/{node}"))?;
        let (_, body) = self.send(self.request(Method::DELETE, uri, Full::default())).await?;
        self.read(body)
    }

    /// An answer as it comes, whatever its status.
    pub(crate) async fn plain(
        &self,
        method: Method,
        path: &str,
        body: &'static str,
    ) -> Result<Response<Bytes>, CallError> {
        let mut request = self.request(method, uri(&self.server, path)?, Full::from(body));
        if !body.is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, JSON);
        }
        self.exchange(request).await
    }

    /// The same of a `GET` without a credential.
    pub(crate) async fn plain_without_credential(&self, path: &str) -> Result<Response<Bytes>, CallError> {
        let mut request = self.request(Method::GET, uri(&self.server, path)?, Full::default());
        request.headers_mut().remove(AUTHORIZATION);
        self.exchange(request).await
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, CallError> {
        let exchange = async {
            let broken = |why| CallError::Broken { server: self.server.clone(), why };
            let response = self.http.request(request).await.map_err(|e| broken(innermost(&e)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok(Response::from_parts(head, body.map_err(|e| broken(innermost(&*e)))?.to_bytes()))
        };
        let late = |_| CallError::TimedOut { server: self.server.clone(), after: self.timeout };
        tokio::time::timeout(self.timeout, exchange).await.map_err(late)?
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
        self.send_watched(request, &mut |_| {}).await
    }

    /// The same. Of an answer that is a stream of events, `report` gets the stages, and what is returned is its end.
    async fn send_watched(
        &self,
        request: Request<Full<Bytes>>,
        report: &mut impl FnMut(&Stage),
    ) -> Result<(StatusCode, Bytes), CallError> {
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
            let kind = response.headers().get(CONTENT_TYPE);
            let streamed = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream"));
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES);
            let broken = |why| CallError::Broken { server: self.server.clone(), why };
            if !streamed {
                let body = body.collect().await.map_err(|e| broken(innermost(&*e)))?;
                return Ok((status, body.to_bytes()));
            }
            let mut events = SseStream::new(body.map_err(io::Error::other));
            while let Some(sse) = events.next().await {
                match StreamedEvent::read(sse.map_err(|e| broken(innermost(&e)))?) {
                    Some(StreamedEvent::Stage(stage)) => report(&stage),
                    Some(StreamedEvent::Ready(json)) => return Ok((status, json)),
                    Some(StreamedEvent::Problem(json)) => return Ok((status_of(&json), json)),
                    None => {}
                }
            }
            Err(broken("the stream of events ended before the answer".to_owned()))
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

/// The status that a problem states.
fn status_of(problem: &[u8]) -> StatusCode {
    let problem: Option<serde_json::Value> = serde_json::from_slice(problem).ok();
    let status = problem.and_then(|problem| u16::try_from(problem["status"].as_u64()?).ok());
    let status = status.and_then(|status| StatusCode::from_u16(status).ok());
    status.unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
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
