//! One connection: from raw TCP through the WebSocket handshake to the end of the conversation.
//!
//! Each connection has its own thread until it is either the one viewer of this process or gone, so a silent connection
//! holds up no other.

use std::io::{self, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tungstenite::error::ProtocolError;
use tungstenite::handshake::HandshakeError;
use tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tungstenite::http::{HeaderValue, StatusCode};
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error, Message, accept_hdr_with_config};

use crate::frames::{self, Frame, Open, Refusal, Renderer};
use crate::log::Log;
use crate::notify::{Notification, Notifier};
use crate::picture::Words;
use crate::settings::Rendering;
use crate::stream::Stream;

/// How long a connection may take to become a WebSocket.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refused viewer may take to answer the close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest message of a viewer, in bytes: it sends commands, not models.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

/// What every connection needs to know.
#[derive(Debug)]
pub(crate) struct Reception {
    /// The id of this server, and its node where that is known: pictures show them.
    pub(crate) id: String,
    pub(crate) node: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) rendering: Rendering,
    pub(crate) model_file: Option<String>,
    pub(crate) network_version: Option<String>,
    pub(crate) stream_version: Option<String>,
    pub(crate) exit_on_load_finish: bool,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) log: Arc<Log>,
    /// Set by the first connection that asks for a WebSocket as it should, before it is answered, and never unset: this
    /// process has one viewer.
    pub(crate) taken: AtomicBool,
}

impl Reception {
    /// Serves a new connection in a thread of its own.
    pub(crate) fn welcome(self: &Arc<Self>, stream: TcpStream) -> io::Result<()> {
        if self.taken.load(Ordering::Acquire) {
            self.turn_away();
            return Ok(());
        }
        let reception = Arc::clone(self);
        thread::Builder::new().name("viewer".to_owned()).spawn(move || reception.serve(&stream))?;
        Ok(())
    }

    fn turn_away(&self) {
        self.log.warn("connection attempted when one already existed - ignoring it");
    }

    #[expect(clippy::result_large_err, reason = "the signature is the WebSocket library's")]
    fn serve(&self, stream: &TcpStream) {
        let mut claim = Claim::None;
        let websocket = match handshake(stream, |request: &Request, response: Response| {
            if self.taken.swap(true, Ordering::AcqRel) {
                claim = Claim::Refused;
                return Err(occupied());
            }
            claim = Claim::Granted;
            echo_binary(request, response)
        }) {
            Ok(websocket) => websocket,
            Err(why) => {
                match claim {
                    Claim::None => self.log.warn(format_args!("no websocket handshake: {why}")),
                    Claim::Refused => self.turn_away(),
                    Claim::Granted => self.notifier.notify(Notification::Left(why)),
                }
                return;
            }
        };
        self.log.info("client connected. connection-count=1");
        let end = match stream.set_read_timeout(None) {
            Ok(()) => self.converse(websocket),
            Err(error) => Notification::Left(error.to_string()),
        };
        // The connection must be closed before `disconnect` is posted.
        stream.shutdown(std::net::Shutdown::Both).ok();
        self.notifier.notify(end);
    }

    fn converse(&self, mut websocket: WebSocket<&TcpStream>) -> Notification {
        self.conversation(&mut websocket).unwrap_or_else(|error| Notification::Left(error.to_string()))
    }

    /// Reads and answers until the conversation is over. While there are pictures to send, a read ends when the next one is
    /// due.
    fn conversation(&self, websocket: &mut WebSocket<&TcpStream>) -> Result<Notification, Error> {
        let mut silent_so_far = true;
        let mut stream: Option<Stream> = None;
        loop {
            if let Some(stream) = &mut stream {
                let now = Instant::now();
                let mut wait = stream.wait(now);
                if wait == Some(Duration::ZERO) {
                    websocket.send(stream.next(now))?;
                    wait = stream.wait(now);
                }
                websocket.get_ref().set_read_timeout(wait)?;
            }
            let message = match websocket.read() {
                Ok(message) if message.is_binary() || message.is_text() => message,
                Ok(_) => continue,
                Err(Error::Io(error)) if stream.is_some() && is_timeout(&error) => continue,
                Err(error) => return Err(error),
            };
            if silent_so_far {
                silent_so_far = false;
                self.notifier.notify(Notification::FirstData);
            }
            match (frames::understand(&message), &mut stream) {
                (Frame::Open(open), _) => {
                    if let Some(end) = self.answer(websocket, &open, &mut stream)? {
                        return Ok(end);
                    }
                }
                (Frame::Resize(size), Some(stream)) => stream.resize(size),
                (Frame::Acknowledge, Some(stream)) => stream.acknowledge(),
                (Frame::Known(command), _) => self.log.debug(format_args!("received {command}")),
                (Frame::Call, Some(_)) => self.log.debug(format_args!("ignoring a call of the session")),
                (Frame::Resize(_) | Frame::Acknowledge, None) => {
                    self.log.debug("received a frame of a session that has not started");
                }
                (Frame::Call, None) | (Frame::Unknown, _) => {
                    let length = message.len();
                    self.log.warn(format_args!("ignoring an unknown frame of {length} bytes"));
                }
            }
        }
    }

    /// Answers the opening frame; the conversation is over if that says so. Pictures begin with it for a server-side viewer.
    fn answer(
        &self,
        websocket: &mut WebSocket<&TcpStream>,
        open: &Open,
        stream: &mut Option<Stream>,
    ) -> Result<Option<Notification>, Error> {
        if let Some(refusal) = self.refusal(open) {
            let reason = refusal.reason();
            self.log.error(format_args!("open model failed: {reason}"));
            websocket.send(frames::refused(open.renderer, &refusal))?;
            close(websocket)?;
            return Ok(Some(Notification::Left(reason.to_owned())));
        }
        let model = self.model_file.as_ref().unwrap_or(&open.model);
        self.log.info(format_args!("opened model '{model}'"));
        websocket.send(frames::opened(open.renderer, model))?;
        if open.renderer == Renderer::Server {
            let words = Words { spawn: self.id.clone(), node: self.node.clone(), model: model.clone() };
            let now = Instant::now();
            let stream = stream.insert(Stream::new(words, open.size, now));
            websocket.send(stream.next(now))?;
        }
        if !self.exit_on_load_finish {
            return Ok(None);
        }
        close(websocket)?;
        Ok(Some(Notification::Loaded))
    }

    fn refusal(&self, open: &Open) -> Option<Refusal> {
        let other = |expected: &Option<String>, actual: &Option<String>| {
            let expected = expected.clone().filter(|_| expected != actual)?;
            Some((expected, actual.clone().unwrap_or_default()))
        };
        match open.renderer {
            Renderer::Client if !self.rendering.csr => return Some(Refusal::NoClientSide),
            Renderer::Server if !self.rendering.ssr => return Some(Refusal::NoServerSide),
            Renderer::Client | Renderer::Server => {}
        }
        if self.session_token.is_some() && self.session_token != open.token {
            return Some(Refusal::Token);
        }
        if let Some((expected, actual)) = other(&self.network_version, &open.network_version) {
            return Some(Refusal::NetworkVersion { expected, actual });
        }
        if open.renderer == Renderer::Client
            && let Some((expected, actual)) = other(&self.stream_version, &open.stream_version)
        {
            return Some(Refusal::StreamVersion { expected, actual });
        }
        None
    }
}

/// Takes any path and query. The subprotocol `binary` is echoed exactly to viewers that offer it: Chromium fails a
/// handshake in which its offer is not echoed, or that echoes what it did not offer.
fn handshake(stream: &TcpStream, callback: impl Callback) -> Result<WebSocket<&TcpStream>, String> {
    stream
        .set_nodelay(true)
        .and_then(|()| stream.set_read_timeout(Some(HANDSHAKE_TIMEOUT)))
        .and_then(|()| stream.set_write_timeout(Some(HANDSHAKE_TIMEOUT)))
        .map_err(|error| error.to_string())?;
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    match accept_hdr_with_config(stream, callback, Some(config)) {
        Ok(websocket) => Ok(websocket),
        Err(HandshakeError::Interrupted(_)) => Err("it took too long".to_owned()),
        Err(HandshakeError::Failure(error)) => {
            if let Some(answer) = http_answer(&error) {
                let mut stream = stream;
                stream.write_all(answer.as_bytes()).ok();
            }
            Err(error.to_string())
        }
    }
}

/// Whether a connection has become the one viewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It made no valid WebSocket request.
    None,
    /// Another connection is the viewer.
    Refused,
    /// It is the viewer, whether or not it gets the answer.
    Granted,
}

fn occupied() -> ErrorResponse {
    let mut response = ErrorResponse::new(None);
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
}

#[expect(clippy::result_large_err, reason = "the signature is the WebSocket library's")]
fn echo_binary(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offers_binary = request
        .headers()
        .get_all("Sec-WebSocket-Protocol")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|offer| offer.trim() == "binary");
    if offers_binary {
        response.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("binary"));
    }
    Ok(response)
}

/// The answer to a failed handshake: HTTP status 426 or 400; `None` when the peer hung up or was answered already.
fn http_answer(error: &Error) -> Option<String> {
    let status = match error {
        Error::Protocol(
            ProtocolError::MissingConnectionUpgradeHeader | ProtocolError::MissingUpgradeWebSocketHeader,
        ) => "426 Upgrade Required\r\nUpgrade: websocket",
        // The library has written the answer itself.
        Error::Http(_) => return None,
        Error::Protocol(ProtocolError::HandshakeIncomplete) | Error::Io(_) => return None,
        _ => "400 Bad Request",
    };
    Some(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"))
}

/// Whether a read ended because its time was up.
fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Sends a close frame and waits for the viewer's, so that a reset connection does not lose the last answer.
fn close(websocket: &mut WebSocket<&TcpStream>) -> Result<(), Error> {
    websocket.close(None)?;
    websocket.get_ref().set_read_timeout(Some(CLOSE_TIMEOUT))?;
    loop {
        match websocket.read() {
            Ok(Message::Close(_)) | Err(_) => return Ok(()),
            Ok(_) => {}
        }
    }
}
