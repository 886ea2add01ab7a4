//! One attempt to deliver one event: a signed `POST`.
//!
//! Failure: anything but 2xx within [`ATTEMPT`] is a failure, redirections included. Its text names no part of the URL but its host. A refusal is a
//! failure that a repetition does not mend by itself: 4xx, but for 408, 425 and 429, which say that it was the moment.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tower::Service;
use tracing::{info, warn};

use super::signature::signatures;
use super::window::Post;
use crate::settings::{WebhookSecret, WebhookSettings, WebhookTarget};

/// The longest attempt, from the connection to the end of the answer.
const ATTEMPT: Duration = Duration::from_secs(15);
/// Between two looks at the file of the secret.
const LOOK: Duration = Duration::from_secs(5);
/// So much of an answer is read, so that its connection can be used again. Nothing is made of it.
const MAX_ANSWER: usize = 64 << 10;

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) why: String,
    /// Whether the receiver has understood the event and does not take it.
    pub(super) is_refusal: bool,
}

impl Failure {
    fn unknown(why: String) -> Self {
        Self { why, is_refusal: false }
    }

    fn answered(status: StatusCode) -> Self {
        let passes = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_EARLY, StatusCode::TOO_MANY_REQUESTS];
        Self {
            why: format!("it answers {}", status.as_u16()),
            is_refusal: status.is_client_error() && !passes.contains(&status),
        }
    }
}

/// Posts to receivers. Connections are shared by all webhooks.
#[derive(Debug)]
pub(super) struct Poster {
    client: Client<Connector, Full<Bytes>>,
    secret: RwLock<Arc<WebhookSecret>>,
}

impl Poster {
    pub(super) fn new(settings: &WebhookSettings) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let connector = Connector { tcp, tls: settings.tls.clone() };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client, secret: RwLock::new(Arc::new(settings.secret.clone())) }
    }

    /// Reads the secret again when it changes, for ever. One that cannot be read leaves the last one in use.
    pub(super) async fn keep_secret(&self, settings: &WebhookSettings) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_trouble = None;
        loop {
            ticks.tick().await;
            let file = settings.secret_file.clone();
            let Ok(read) = spawn_blocking(move || WebhookSecret::read(&file)).await else { continue };
            match read {
                Ok(secret) => {
                    last_trouble = None;
                    let mut known = self.secret.write().unwrap_or_else(std::sync::PoisonError::into_inner);
                    if **known != secret {
                        info!("the secret of webhooks was read again");
                        *known = Arc::new(secret);
                    }
                }
                Err(why) if last_trouble.as_ref() != Some(&why) => {
                    warn!(why, "the secret of webhooks cannot be read: the last one stays in use");
                    last_trouble = Some(why);
                }
                Err(_) => {}
            }
        }
    }

    pub(super) async fn attempt(&self, target: &WebhookTarget, post: &Post) -> Result<(), Failure> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let secret = Arc::clone(&self.secret.read().unwrap_or_else(std::sync::PoisonError::into_inner));
        let mut request = Request::post(target.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, concat!("hatchery/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &post.id)
            .header("webhook-timestamp", now)
            .header("webhook-signature", signatures(&secret, &post.id, now, &post.body));
        if let Some(authorization) = &target.authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request
            .body(Full::new(post.body.clone()))
            .map_err(|error| Failure::unknown(error.to_string()))?;
        let exchange = async {
            let response =
                self.client.request(request).await.map_err(|error| Failure::unknown(innermost(&error)))?;
            let status = response.status();
            // The rest of a longer answer goes with its connection.
            drop(Limited::new(response.into_body(), MAX_ANSWER).collect().await);
            if status.is_success() { Ok(()) } else { Err(Failure::answered(status)) }
        };
        let late = || Err(Failure::unknown(format!("no answer within {ATTEMPT:?}")));
        timeout(ATTEMPT, exchange).await.unwrap_or_else(|_| late())
    }
}

/// The cause at the bottom: what is above it repeats the URL, or says nothing.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// Connections to receivers, plain and by TLS.
#[derive(Debug, Clone)]
struct Connector {
    tcp: HttpConnector,
    tls: tls::Client,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_ready(context).map_err(io::Error::other)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (host, by_tls) = (uri.host().unwrap_or_default().to_owned(), uri.scheme_str() == Some("https"));
        let (connecting, tls) = (self.tcp.call(uri), self.tls.clone());
        Box::pin(async move {
            let tcp = connecting.await.map_err(io::Error::other)?.into_inner();
            let stream: Box<dyn Duplex> =
                if by_tls { Box::new(tls.connect(&host, tcp).await?) } else { Box::new(tcp) };
            Ok(TokioIo::new(Stream(stream)))
        })
    }
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

struct Stream(Box<dyn Duplex>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_refusal_is_an_answer_that_no_repetition_mends() {
        for (status, is_refusal) in [
            (400, true),
            (401, true),
            (404, true),
            (410, true),
            (413, true),
            (422, true),
            (408, false),
            (425, false),
            (429, false),
            (302, false),
            (500, false),
            (503, false),
        ] {
            let failure = Failure::answered(StatusCode::from_u16(status).unwrap());
            assert_eq!((failure.is_refusal, failure.why), (is_refusal, format!("it answers {status}")));
        }
    }
}
