//! The connection to a spawn's server: made until it is there, then asked for the upgrade that the viewer asked for.

use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

/// How long a server may refuse connections.
const CONNECT: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(50);
/// How long a server may take to answer the handshake.
const ANSWER: Duration = Duration::from_secs(10);
/// The longest head of its answer.
const MAX_HEAD: usize = 64 * 1024;

/// The connection once it speaks WebSocket.
pub(super) type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// The host of the machine that an agent is on.
///
/// # Errors
/// It is not to be had, without the address: it may end up with callers.
pub(super) fn host_of(advertise: &str) -> Result<String, String> {
    let uri: Uri = advertise.parse().map_err(|_| "the agent's address is no URL".to_owned())?;
    uri.host().map(ToOwned::to_owned).ok_or_else(|| "the agent's address has no host".to_owned())
}

/// Connects to a port.
///
/// # Errors
/// Why there is no connection, without the address: it may end up with callers. `whose` is in it.
pub(super) async fn connect(host: &str, port: u16, whose: &str) -> Result<TcpStream, String> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let deadline = Instant::now() + CONNECT;
    let mut last = "no connection in time".to_owned();
    loop {
        match timeout_at(deadline, TcpStream::connect((host, port))).await {
            Ok(Ok(stream)) => {
                stream.set_nodelay(true).ok();
                return Ok(stream);
            }
            Ok(Err(error)) => last = format!("its {whose} cannot be connected to: {}", error.kind()),
            Err(_) => return Err(last),
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

/// Asks for the upgrade as the viewer did, but for the path: this one, and the query of `uri`. What the server, or the relay before it,
/// answers is the answer; the connection comes with 101 alone.
pub(super) async fn upgrade<S>(
    stream: S,
    (path, uri): (&str, &Uri),
    headers: &HeaderMap,
    whose: &str,
) -> Result<(Response<Incoming>, Option<Upgraded>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| format!("its {whose} does not speak HTTP: {error}");
    let silent = || format!("its {whose} does not answer");
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .preserve_header_case(true)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broken)?;
    // It ends with the connection, whose owner is the holder of the answer.
    tokio::spawn(connection.with_upgrades());
    let path = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut asked = hyper::Request::new(Empty::<Bytes>::new());
    *asked.uri_mut() = path.parse().map_err(|_| "the query cannot be passed on".to_owned())?;
    *asked.headers_mut() = headers.clone();
    let deadline = Instant::now() + ANSWER;
    let answered = timeout_at(deadline, sender.send_request(asked)).await;
    let mut response = answered.map_err(|_| silent())?.map_err(broken)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    let upgraded = timeout_at(deadline, hyper::upgrade::on(&mut response)).await;
    let upgraded = upgraded.map_err(|_| silent())?.map_err(broken)?;
    Ok((response, Some(TokioIo::new(upgraded))))
}
