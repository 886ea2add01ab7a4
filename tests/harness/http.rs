//! An HTTP/1.1 client that can also be rude: send garbage, stop in the middle, hang up.
//!
//! One connection per request, so that no request is disturbed by what another one did.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// As long as an answer may take at the most: a spawn's deadline, a minute in line, and some more.
const LIMIT: Duration = Duration::from_secs(120);

/// Talks to one address.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// The address.
    pub addr: SocketAddr,
    /// What every request shows.
    pub credential: Option<&'static str>,
}

impl Client {
    /// For this address, showing nothing.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, credential: None }
    }

    /// One that shows this with every request.
    #[must_use]
    pub fn showing(self, credential: &str) -> Self {
        // Tests end soon, and clients are copied freely.
        Self { credential: Some(credential.to_owned().leak()), ..self }
    }

    /// One that shows nothing.
    #[must_use]
    pub fn showing_nothing(self) -> Self {
        Self::new(self.addr)
    }

    /// A request to be added to.
    pub fn request(&self, method: &str, path: &str) -> Request {
        let bearer = self.credential.map(|text| ("authorization".to_owned(), format!("Bearer {text}")));
        Request {
            addr: self.addr,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: bearer.into_iter().collect(),
            body: Body::None,
        }
    }

    /// `GET`.
    pub fn get(&self, path: &str) -> Request {
        self.request("GET", path)
    }

    /// `POST`.
    pub fn post(&self, path: &str) -> Request {
        self.request("POST", path)
    }

    /// `DELETE`.
    pub fn delete(&self, path: &str) -> Request {
        self.request("DELETE", path)
    }

    /// `POST /spawn` with this body.
    pub async fn spawn(&self, body: &Value) -> Response {
        self.post("/spawn").json(body).send().await
    }

    /// `POST /spawn` that must succeed; its answer.
    pub async fn spawned(&self, body: &Value) -> Value {
        let response = self.spawn(body).await;
        assert_eq!(response.status, 200, "{response:?}");
        response.json()
    }

    /// The JSON that a `GET` answers.
    pub async fn json(&self, path: &str) -> Value {
        let response = self.get(path).send().await;
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response.json()
    }

    /// Sends these bytes and reads what comes back as an answer.
    pub async fn raw(&self, bytes: &[u8]) -> io::Result<Response> {
        let exchange = async {
            let stream = TcpStream::connect(self.addr).await?;
            let (mut read, mut write) = stream.into_split();
            // An answer may come before everything is sent, and the connection be closed then.
            let (response, _sent) = tokio::join!(receive(&mut read), write.write_all(bytes));
            response
        };
        timeout(LIMIT, exchange).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
    }

    /// Sends these bytes and leaves the connection open; dropping it hangs up.
    pub async fn open(&self, bytes: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr).await.expect("it listens");
        stream.write_all(bytes).await.expect("it reads");
        stream
    }
}

#[derive(Debug, Clone)]
enum Body {
    None,
    Whole(Vec<u8>),
    Chunked(Vec<u8>),
}

/// A request that is not sent yet.
#[derive(Debug, Clone)]
#[must_use]
pub struct Request {
    addr: SocketAddr,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Body,
}

impl Request {
    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    /// A body with its length, and nothing said about its type.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(body.into());
        self
    }

    /// A body in chunks, its length unknown until its end.
    pub fn chunked(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Chunked(body.into());
        self
    }

    /// Sends it and waits for the answer.
    pub async fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.path);
        self.try_send().await.unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// The same where there may be nobody to answer.
    pub async fn try_send(self) -> io::Result<Response> {
        Client::new(self.addr).raw(&self.bytes()).await
    }

    /// Sends it and does not wait; dropping the connection hangs up.
    pub async fn start(self) -> TcpStream {
        Client::new(self.addr).open(&self.bytes()).await
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let mut header = |name: &str, value: &str| head += &format!("{name}: {value}\r\n");
        header("host", &self.addr.to_string());
        header("connection", "close");
        for (name, value) in &self.headers {
            header(name, value);
        }
        let body = match &self.body {
            Body::None => {
                if self.method != "GET" {
                    header("content-length", "0");
                }
                Vec::new()
            }
            Body::Whole(body) => {
                header("content-length", &body.len().to_string());
                body.clone()
            }
            Body::Chunked(body) => {
                header("transfer-encoding", "chunked");
                let mut chunks = Vec::new();
                for chunk in body.chunks(1000) {
                    chunks.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    chunks.extend(chunk);
                    chunks.extend(b"\r\n");
                }
                chunks.extend(b"0\r\n\r\n");
                chunks
            }
        };
        [format!("{head}\r\n").into_bytes(), body].concat()
    }
}

/// An answer.
#[derive(Clone)]
pub struct Response {
    /// Of the status line.
    pub status: u16,
    /// In their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// All of it.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header; panics if there are two, as nothing here is a list.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let value = values.next().map(|(_, value)| value.as_str());
        assert!(values.next().is_none(), "{name} comes twice: {self:?}");
        value
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap_or_else(|_| panic!("no UTF-8: {self:?}"))
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

impl std::fmt::Debug for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {}", self.status, self.headers, String::from_utf8_lossy(&self.body))
    }
}

/// Reads one answer, and interim ones before it.
pub async fn receive(stream: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Response> {
    let mut bytes = Vec::new();
    let mut more = async |bytes: &mut Vec<u8>| match stream.read_buf(bytes).await {
        Ok(read) => Ok(read > 0),
        // Whoever closes a connection that still has something to read resets it; what was said before counts.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false),
        Err(error) => Err(error),
    };
    let torn = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("the connection ended after {text:?}"))
    };
    let (status, headers, mut body) = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            let (status, headers) = head(&bytes[..end])?;
            let rest = bytes.split_off(end + 4);
            if status >= 200 {
                break (status, headers, rest);
            }
            bytes = rest;
        } else if !more(&mut bytes).await? {
            return Err(torn(&bytes));
        }
    };
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    if let Some(length) = header("content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        while body.len() < length {
            if !more(&mut body).await? {
                return Err(torn(&body));
            }
        }
        body.truncate(length);
    } else if header("transfer-encoding") == Some("chunked") {
        body = loop {
            if let Some(whole) = unchunk(&body)? {
                break whole;
            }
            if !more(&mut body).await? {
                return Err(torn(&body));
            }
        };
    } else if status != 204 && status != 304 {
        while more(&mut body).await? {}
    }
    Ok(Response { status, headers, body })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

type Headers = Vec<(String, String)>;

fn head(bytes: &[u8]) -> io::Result<(u16, Headers)> {
    let text = String::from_utf8_lossy(bytes);
    let wrong = || io::Error::new(io::ErrorKind::InvalidData, format!("not an HTTP answer: {text:?}"));
    let mut lines = text.split("\r\n");
    let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok());
    let headers = lines.map(|line| {
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        Ok((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Ok((status.ok_or_else(wrong)?, headers.collect::<io::Result<_>>()?))
}

/// The content of chunks, once the last one is there.
fn unchunk(mut bytes: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let mut whole = Vec::new();
    loop {
        let Some(line) = find(bytes, b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[..line]).map_err(io::Error::other)?;
        let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
        let Some(chunk) = bytes.get(line + 2..line + 2 + size) else { return Ok(None) };
        if size == 0 {
            return Ok(Some(whole));
        }
        whole.extend_from_slice(chunk);
        let Some(rest) = bytes.get(line + 2 + size + 2..) else { return Ok(None) };
        bytes = rest;
    }
}
