//! The connection to a spawn's server: made until it is there, then asked for the upgrade that the viewer asked for.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
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
        let connected = async { TcpStream::connect(&addresses(host, port).await?[..]).await };
        match timeout_at(deadline, connected).await {
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

/// The addresses of a host, those of IPv4 first: servers listen on IPv4, and where a name has both families another process of the node may
/// listen on the same port of IPv6.
async fn addresses(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<SocketAddr> = lookup_host((host, port)).await?.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    Ok(found)
}

/// What a server is not given of a viewer's handshake, which may come from a page that is signed in beside the farm. The server opens foreign
/// models and may be taken over.
const WITHHELD: [HeaderName; 4] =
    [header::COOKIE, header::AUTHORIZATION, header::PROXY_AUTHORIZATION, header::FORWARDED];
/// The headers of an answer that do not reach the viewer, whose browser would take them for those of the farm's own origin.
const NOT_PASSED_BACK: [&str; 10] = [
    "alt-svc",
    "authentication-info",
    "clear-site-data",
    "location",
    "proxy-authenticate",
    "refresh",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "www-authenticate",
];

/// The headers of a viewer as its server gets them: all but who the viewer is elsewhere.
fn for_server(headers: &HeaderMap) -> HeaderMap {
    let passes = |name: &HeaderName| !WITHHELD.contains(name) && !name.as_str().starts_with("x-forwarded-");
    let passed = headers.iter().filter(|(name, _)| passes(name));
    passed.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Takes out of an answer what would act on the farm's origin.
fn keep_answer(headers: &mut HeaderMap) {
    let acts = |name: &HeaderName| {
        NOT_PASSED_BACK.contains(&name.as_str()) || name.as_str().starts_with("access-control-")
    };
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| acts(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

/// Asks for the upgrade as the viewer did, but for the path, which is this one with the query of `uri`, and for what a server is not
/// given ([`WITHHELD`]). What the server, or the relay before it, answers is the answer, but for what would act on the farm's origin
/// ([`NOT_PASSED_BACK`]); the connection comes with 101 alone.
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
    *asked.headers_mut() = for_server(headers);
    let deadline = Instant::now() + ANSWER;
    let answered = timeout_at(deadline, sender.send_request(asked)).await;
    let mut response = answered.map_err(|_| silent())?.map_err(broken)?;
    keep_answer(response.headers_mut());
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok((response, None));
    }
    let upgraded = timeout_at(deadline, hyper::upgrade::on(&mut response)).await;
    let upgraded = upgraded.map_err(|_| silent())?.map_err(broken)?;
    Ok((response, Some(TokioIo::new(upgraded))))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, TcpListener};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// What a server gets of a handshake with these headers, and what comes back when it answers so.
    async fn exchange(headers: &HeaderMap, answer: &str) -> (String, Response<Incoming>) {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let uri = "/s/a/b/c?q=1".parse().unwrap();
        let server = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(far.read_u8().await.unwrap());
            }
            far.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(head).unwrap().to_lowercase()
        };
        let (head, answered) = tokio::join!(server, upgrade(near, ("/", &uri), headers, "server"));
        (head, answered.unwrap().0)
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    #[tokio::test]
    async fn a_process_that_has_the_port_by_ipv6_is_not_taken_for_the_server() {
        let Ok(thief) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
        let port = thief.local_addr().unwrap().port();
        let Ok(_server) = TcpListener::bind(("127.0.0.1", port)) else { return };
        let reached = connect("localhost", port, "server").await.unwrap();
        assert!(reached.peer_addr().unwrap().is_ipv4());
    }

    #[tokio::test]
    async fn a_server_gets_a_viewers_handshake_and_none_of_its_credentials_and_sets_none_on_the_farms_origin()
    {
        let passed = [
            ("host", "farm.example.com"),
            ("origin", "https://app.example.com"),
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "hoops, other"),
            ("sec-websocket-extensions", "permessage-deflate"),
            ("user-agent", "a browser"),
        ];
        let withheld = [
            ("cookie", "session=secret"),
            ("authorization", "Bearer secret"),
            ("proxy-authorization", "Basic secret"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-client-cert", "secret"),
            ("forwarded", "for=192.0.2.7"),
        ];
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: hoops\r\n\
            Server: a server\r\nSet-Cookie: session=theirs\r\nStrict-Transport-Security: max-age=0\r\nLocation: /\r\n\r\n";
        let (head, response) = exchange(&headers(&[&passed[..], &withheld].concat()), answer).await;
        assert!(head.starts_with("get /?q=1 http/1.1\r\n"), "{head}");
        for (name, value) in passed {
            assert!(head.contains(&format!("{name}: {value}\r\n").to_lowercase()), "{name}: {head}");
        }
        for (name, _) in withheld {
            assert!(!head.contains(&format!("\n{name}:")), "{name}: {head}");
        }
        let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["connection", "sec-websocket-accept", "sec-websocket-protocol", "server", "upgrade"]
        );
        let refusal = "HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\
            Set-Cookie: session=theirs\r\nClear-Site-Data: \"*\"\r\n\r\nno";
        let (_, response) = exchange(&headers(&passed), refusal).await;
        let mut names: Vec<&str> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!((response.status().as_u16(), names), (403, vec!["content-length", "content-type"]));
    }
}
