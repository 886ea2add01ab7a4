//! The smallest HTTP client that can post liveliness: one kept connection, one request at a time.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;

/// The timeout of connecting, and of an answer. The next ping tries again.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read; answers of a liveliness receiver are far shorter.
const MAX_ANSWER: usize = 64 * 1024;

/// Posts to one endpoint.
#[derive(Debug)]
pub(crate) struct Poster {
    endpoint: Endpoint,
    kept: Option<TcpStream>,
}

/// The parts of an answer that matter here.
struct PostAnswer {
    status_line: String,
    good: bool,
    reusable: bool,
}

impl Poster {
    pub(crate) fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, kept: None }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a whole request. The error is what the receiver answered, or why it did not.
    pub(crate) fn post(&mut self, request: &str) -> Result<(), String> {
        // A kept connection may be closed, or its receiver restarted. Its failure says nothing yet: a new connection is tried.
        let kept = self.kept.take().and_then(|stream| Some((exchange(&stream, request).ok()?, stream)));
        let (answer, stream) = match kept {
            Some(answered) => answered,
            None => self.connect_and_post(request).map_err(|e| e.to_string())?,
        };
        self.kept = answer.reusable.then_some(stream);
        if answer.good { Ok(()) } else { Err(answer.status_line) }
    }

    fn connect_and_post(&self, request: &str) -> io::Result<(PostAnswer, TcpStream)> {
        let stream = self.connect()?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let answer = exchange(&stream, request)?;
        Ok((answer, stream))
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "host has no address");
        for address in (self.endpoint.host.as_str(), self.endpoint.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, TIMEOUT) {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// One request, one answer, both whole.
fn exchange(mut stream: &TcpStream, request: &str) -> io::Result<PostAnswer> {
    stream.write_all(request.as_bytes())?;
    let deadline = Instant::now() + TIMEOUT;
    let mut received = Vec::with_capacity(512);
    loop {
        let mut chunk = [0; 512];
        let n = stream.read(&mut chunk)?;
        received.extend_from_slice(&chunk[..n]);
        if let Some((answer, length)) = read_head(&received) {
            // The status is all that counts, so a body is only read to make the connection usable again.
            return Ok(PostAnswer { reusable: answer.reusable && received.len() == length, ..answer });
        }
        if n == 0 || received.len() > MAX_ANSWER || Instant::now() > deadline {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no HTTP answer"));
        }
    }
}

/// The answer and its whole length, once all of it is there (or its length is not known, or it ends the connection).
fn read_head(received: &[u8]) -> Option<(PostAnswer, usize)> {
    let head_end = received.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&received[..head_end]);
    let mut lines = head.lines();
    let status_line = lines.next().unwrap_or_default();
    let (version, status) = status_line.split_once(' ').unwrap_or((status_line, ""));
    let mut body = None;
    let mut keeps_open = version == "HTTP/1.1";
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            body = value.parse::<usize>().ok();
        } else if name.eq_ignore_ascii_case("connection") {
            keeps_open &= !value.eq_ignore_ascii_case("close");
        }
    }
    let reusable = keeps_open && body.is_some_and(|body| body < MAX_ANSWER);
    let length = head_end + body.filter(|_| reusable).unwrap_or_default();
    if received.len() < length {
        return None;
    }
    let answer = PostAnswer {
        status_line: status.to_owned(),
        good: version.starts_with("HTTP/1.") && status.starts_with('2'),
        reusable,
    };
    Some((answer, length))
}
