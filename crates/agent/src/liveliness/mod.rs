//! The receiver of what spawned servers say of themselves: `POST /{secret}/liveliness/{id}?liveliness=ready|ping|disconnect`.
//!
//! The secret is the spawn's own ([`crate::secret`]), so no process can report for a spawn of others. Where spawns have users, a report must come from
//! its spawn's user too: a server sends the secret to any process that listens on this port while no agent does. Any process of the machine can connect,
//! though: [`limit`] keeps those that only hold connections from keeping spawns out. Where so many connect that a server may not
//! have been heard, no silence counts, see [`crate::table::Table::deafened`].
//!
//! Every spawn keeps a connection here for as long as it lives, and a `ready` stands between a caller and its answer.
//! So this speaks just as much HTTP as it takes, in half a kibibyte a connection; see [`head`].

mod head;
mod limit;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use model::SpawnId;
use rustix::process::geteuid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::head::{Head, Parsed};
use self::limit::{ConnectionLimit, Permit};
use crate::accept::AcceptPause;
use crate::node::Node;
use crate::sockets::{self, Sender};
use crate::table::Liveliness;
use crate::users::user::Ids;

/// What a connection's buffer starts with; any server's request fits.
const BUFFER: usize = 512;
/// Longer heads are refused.
const MAX_HEAD: usize = 8 << 10;
/// Longer bodies are not read; servers send none at all.
const MAX_BODY: usize = 64 << 10;
/// A connection on which nothing comes for this long, or this many ping intervals, is closed.
const IDLE: Duration = Duration::from_secs(60);
const IDLE_PINGS: u32 = 10;
/// Connections without a right report, beside one for each server: for servers that connect anew, and for people
/// with curl.
const STRANGERS: usize = 64;
/// One that must make room sooner than this may have been a server that had no time to report.
const HEARD_WITHIN: Duration = Duration::from_secs(1);

/// Takes connections until `stop` is cancelled, then ends them between two requests.
pub(crate) async fn receive(node: Arc<Node>, listener: TcpListener, stop: CancellationToken) {
    let servers = usize::try_from(node.config.slots).unwrap_or(usize::MAX / 8).max(node.table().running());
    let limit = ConnectionLimit::new(servers.saturating_add(STRANGERS));
    let idle = IDLE.max(node.config.ping_interval * IDLE_PINGS);
    let connections = TaskTracker::new();
    let mut pause = AcceptPause::default();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, sender) = match accepted {
            Ok((stream, _)) => {
                pause.over("liveliness");
                let sender = sender(&node, &stream);
                (stream, sender)
            }
            Err(error) => {
                // Servers wait in the queue meanwhile.
                node.table().deafened(Instant::now());
                pause.after("liveliness", &error).await;
                continue;
            }
        };
        let now = Instant::now();
        let (mut permit, evicted) = limit.enter(now);
        if let Some(age) = evicted {
            node.metrics.liveliness_evicted.inc();
            if age < HEARD_WITHIN && node.table().deafened(now) {
                tracing::warn!(
                    max_strangers = servers + STRANGERS,
                    "the liveliness port is flooded with connections; until that ends no silence of a spawn counts"
                );
            }
        }
        let (node, stop) = (Arc::clone(&node), stop.clone());
        connections.spawn(async move {
            let leave = permit.leave.clone();
            let conversed = tokio::select! {
                conversed = converse(&node, (stream, sender), idle, &mut permit, &stop) => conversed,
                // Also while it does not read its answer.
                () = leave.cancelled() => Ok(()),
            };
            if let Err(error) = conversed {
                tracing::debug!(%error, "a liveliness connection broke");
            }
        });
    }
    connections.close();
    connections.wait().await;
}

async fn converse(
    node: &Node,
    (mut stream, sender): (TcpStream, Sender),
    idle: Duration,
    permit: &mut Permit,
    stop: &CancellationToken,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer: Vec<u8> = Vec::with_capacity(BUFFER);
    // Bytes of a body that still have to be passed over.
    let mut skip = 0;
    loop {
        let passed = skip.min(buffer.len());
        buffer.drain(..passed);
        skip -= passed;
        let parsed = if skip > 0 { Parsed::Partial } else { head::parse(&buffer) };
        match parsed {
            Parsed::Partial if buffer.len() >= MAX_HEAD => {
                return stream.write_all(&Response::TooLong.bytes(Afterwards::Close)).await;
            }
            Parsed::Partial => {
                let read = tokio::select! {
                    biased;
                    read = tokio::time::timeout(idle, stream.read_buf(&mut buffer)) => read,
                    () = stop.cancelled() => return Ok(()),
                };
                match read {
                    Ok(Ok(0)) | Err(_) => return Ok(()),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return Err(error),
                }
            }
            Parsed::Bad => return stream.write_all(&Response::BadRequest.bytes(Afterwards::Close)).await,
            Parsed::Whole(head) => {
                let answer = answer(node, &head, sender, permit);
                let close = head.close || head.body > MAX_BODY;
                skip = head.length.saturating_add(head.body);
                stream
                    .write_all(&answer.bytes(if close { Afterwards::Close } else { Afterwards::KeepOpen }))
                    .await?;
                if close {
                    return Ok(());
                }
            }
        }
    }
}

/// All answers there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Response {
    TakenIn,
    UnknownId,
    UnknownValue,
    NotFound,
    NotAllowed,
    FromPage,
    UnknownHost,
    BadRequest,
    TooLong,
}

/// What becomes of the connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Afterwards {
    KeepOpen,
    Close,
}

impl Response {
    fn bytes(self, afterwards: Afterwards) -> Vec<u8> {
        let (status, header, body) = match self {
            Self::TakenIn => ("200 OK", "", ""),
            Self::UnknownId => ("404 Not Found", "", r#"{"error":"invalid spawnId."}"#),
            Self::UnknownValue => ("400 Bad Request", "", r#"{"error":"invalid liveliness value"}"#),
            Self::NotFound => ("404 Not Found", "", r#"{"error":"not found"}"#),
            Self::NotAllowed => {
                ("405 Method Not Allowed", "allow: POST\r\n", r#"{"error":"method not allowed"}"#)
            }
            Self::FromPage => ("403 Forbidden", "", r#"{"error":"pages may not report"}"#),
            Self::UnknownHost => ("421 Misdirected Request", "", r#"{"error":"unknown host"}"#),
            Self::BadRequest => ("400 Bad Request", "", r#"{"error":"bad request"}"#),
            Self::TooLong => ("431 Request Header Fields Too Large", "", r#"{"error":"bad request"}"#),
        };
        let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
        let close = match afterwards {
            Afterwards::KeepOpen => "",
            Afterwards::Close => "connection: close\r\n",
        };
        let length = body.len();
        format!("HTTP/1.1 {status}\r\n{header}{kind}{close}content-length: {length}\r\n\r\n{body}")
            .into_bytes()
    }
}

/// What a request says.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    /// No path of the receiver.
    SomethingElse,
    /// Not a spawn's id.
    NoId,
    About(Report<'a>),
}

#[derive(Debug, PartialEq, Eq)]
struct Report<'a> {
    id: SpawnId,
    secret: Option<&'a str>,
    value: Option<&'a str>,
}

fn understand(target: &str) -> Target<'_> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let Some((before, id)) = path.split_once("/liveliness/") else { return Target::SomethingElse };
    let secret = match before.strip_prefix('/') {
        Some(secret) if !secret.is_empty() && !secret.contains('/') => Some(secret),
        None if before.is_empty() => None,
        Some(_) | None => return Target::SomethingElse,
    };
    // A server that was given a base with a trailing slash may double it.
    let id = id.strip_prefix('/').unwrap_or(id);
    let value = query.split('&').find_map(|pair| pair.strip_prefix("liveliness="));
    match id.parse() {
        Ok(id) => Target::About(Report { id, secret, value }),
        Err(_) => Target::NoId,
    }
}

fn liveliness(value: Option<&str>) -> Option<Liveliness> {
    match value? {
        "ready" => Some(Liveliness::Ready),
        "ping" => Some(Liveliness::Ping),
        "disconnect" => Some(Liveliness::Disconnect),
        _ => None,
    }
}

/// Whose a new connection is. The kernel is asked now, since a process may close it any moment; and only where spawns have users.
fn sender(node: &Node, stream: &TcpStream) -> Sender {
    match (&node.config.spawn_users, stream.peer_addr(), stream.local_addr()) {
        (Some(_), Ok(peer), Ok(local)) => sockets::sender(peer, local),
        (Some(_), ..) => Sender::Gone,
        (None, ..) => Sender::Unsaid,
    }
}

/// Whether a process that sends from there may report for a spawn of this user. With the secret of another spawn, which a process may have
/// learnt by listening here while no agent did, it may not.
fn may_report(sender: Sender, user: Option<Ids>) -> bool {
    match (sender, user) {
        (Sender::Unsaid, _) | (_, None) => true,
        (Sender::Gone, Some(_)) => false,
        (Sender::User(sender), Some(user)) => [0, geteuid().as_raw(), user.uid].contains(&sender),
    }
}

fn answer(node: &Node, head: &Head<'_>, sender: Sender, permit: &mut Permit) -> Response {
    // Browsers post for any page, and a name can be pointed at this machine (DNS rebinding).
    if head.from_page {
        return Response::FromPage;
    }
    if head.host.is_some_and(|host| !node.config.hosts.knows(host)) {
        return Response::UnknownHost;
    }
    let report = match understand(head.target) {
        Target::SomethingElse => return Response::NotFound,
        _ if head.method != "POST" => return Response::NotAllowed,
        Target::NoId => return Response::UnknownId,
        Target::About(report) => report,
    };
    let Report { id, secret, value } = report;
    let now = Instant::now();
    let mut table = node.table();
    if !table.reporter(id, secret).is_some_and(|user| may_report(sender, user)) {
        drop(table);
        permit.lose_identity(now);
        return Response::UnknownId;
    }
    match liveliness(value) {
        Some(what) => {
            table.heard(id, what, now);
            drop(table);
            permit.identify(id);
            node.metrics.liveliness.inc();
            Response::TakenIn
        }
        None => Response::UnknownValue,
    }
}

/// Takes in a report that came on no connection, of a server of a simulated machine. Returns whether it was taken in.
pub(crate) fn take_in(node: &Node, target: &str) -> bool {
    let head = Head {
        method: "POST",
        target,
        close: true,
        host: None,
        from_page: false,
        length: target.len(),
        body: 0,
    };
    let (mut permit, _) = ConnectionLimit::new(1).enter(Instant::now());
    answer(node, &head, Sender::Unsaid, &mut permit) == Response::TakenIn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_found_in_path_and_query() {
        let id = SpawnId::mint();
        let about = |secret, value| Target::About(Report { id, secret, value });
        for (target, want) in [
            (format!("/s3/liveliness/{id}?liveliness=ready"), about(Some("s3"), Some("ready"))),
            (format!("/s3/liveliness//{id}?liveliness=ready"), about(Some("s3"), Some("ready"))),
            (format!("/liveliness/{id}?liveliness=ready"), about(None, Some("ready"))),
            (format!("/liveliness//{id}?liveliness=ping"), about(None, Some("ping"))),
            (format!("/liveliness/{id}?a=b&liveliness=disconnect"), about(None, Some("disconnect"))),
            (format!("/liveliness/{id}?other=ready"), about(None, None)),
            (format!("/liveliness/{id}"), about(None, None)),
            (format!("/s3/liveliness/{id}/x"), Target::NoId),
            ("/liveliness/".to_owned(), Target::NoId),
            ("/liveliness".to_owned(), Target::SomethingElse),
            (format!("//liveliness/{id}"), Target::SomethingElse),
            (format!("/a/b/liveliness/{id}"), Target::SomethingElse),
            (format!("/{id}"), Target::SomethingElse),
        ] {
            assert_eq!(understand(&target), want, "{target}");
        }
    }

    #[test]
    fn only_the_vendors_words_are_understood() {
        assert_eq!(liveliness(Some("ready")), Some(Liveliness::Ready));
        for other in [None, Some(""), Some("Ready"), Some("ready ")] {
            assert_eq!(liveliness(other), None);
        }
    }

    #[test]
    fn a_good_report_gets_an_empty_answer() {
        assert_eq!(
            Response::TakenIn.bytes(Afterwards::KeepOpen),
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
        );
        let bytes = String::from_utf8(Response::UnknownId.bytes(Afterwards::Close)).unwrap();
        assert!(bytes.contains("\r\nconnection: close\r\ncontent-length: 28\r\n\r\n{"), "{bytes}");
    }
}
