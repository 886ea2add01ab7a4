//! An HTTP server, plain or by TLS, that answers as a test tells it to, and remembers what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// `GET /path`.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// What goes out.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    /// A whole answer.
    Answer { status: u16, kind: &'static str, body: String },
    /// Nothing, for as long as the client waits.
    Silence,
    /// Nothing, and the connection is closed.
    HangUp,
}

impl Reply {
    pub(crate) fn json(status: u16, body: impl ToString) -> Self {
        Self::Answer { status, kind: "application/json", body: body.to_string() }
    }

    pub(crate) fn text(body: impl ToString) -> Self {
        Self::Answer { status: 200, kind: "text/plain; charset=utf-8", body: body.to_string() }
    }
}

/// A problem with this code, as a front door writes it.
pub(crate) fn problem(code: model::api::ErrorCode) -> Reply {
    let body = serde_json::json!({
        "type": format!("urn:hatchery:{}", code.as_str()),
        "title": code.title(),
        "status": code.status(),
        "detail": format!("the detail of {}.", code.as_str()),
        "code": code.as_str(),
        "requestId": "req-4711",
        "new": "a field of a later version",
    });
    Reply::Answer { status: code.status(), kind: "application/problem+json", body: body.to_string() }
}

type Script = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// Listens on loopback until the test process ends.
#[derive(Debug)]
pub(crate) struct Server {
    scheme: &'static str,
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(script: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(None, script)
    }

    /// By TLS, with the certificate of this configuration.
    pub(crate) fn start_tls(
        tls: ServerConfig,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(Some(Arc::new(tls)), script)
    }

    fn listen(
        tls: Option<Arc<ServerConfig>>,
        script: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Script = Arc::new(script);
        let remember = Arc::clone(&seen);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (script, seen, tls) = (Arc::clone(&script), Arc::clone(&remember), tls.clone());
                // An error means that the client went away, which some tests make it do.
                thread::spawn(move || {
                    stream.set_nodelay(true)?;
                    match tls {
                        None => serve(stream, &script, &seen),
                        Some(tls) => {
                            let connection = ServerConnection::new(tls).unwrap();
                            serve(StreamOwned::new(connection, stream), &script, &seen)
                        }
                    }
                });
            }
        });
        Self { scheme, address, seen }
    }

    /// The same reply to everything.
    pub(crate) fn always(reply: Reply) -> Self {
        Self::start(move |_| reply.clone())
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// Everything that was asked, in order.
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD /path` of everything that was asked.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(Request::line).collect()
    }
}

fn serve(stream: impl Read + Write, script: &Script, seen: &Mutex<Vec<Request>>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    while let Some(request) = read(&mut input)? {
        seen.lock().unwrap().push(request.clone());
        match script(&request) {
            Reply::Answer { status, kind, body } => {
                let head = format!(
                    "HTTP/1.1 {status} Whatever\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                input.get_mut().write_all((head + &body).as_bytes())?;
                input.get_mut().flush()?;
            }
            Reply::Silence => {
                // Until the client closes.
                input.read_to_end(&mut Vec::new())?;
            }
            Reply::HangUp => return Ok(()),
        }
    }
    Ok(())
}

fn read(input: &mut impl BufRead) -> std::io::Result<Option<Request>> {
    let mut line = String::new();
    if input.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        input.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.push((name.to_lowercase(), value.to_owned()));
    }
    let length = headers.iter().find(|(n, _)| n == "content-length").and_then(|(_, v)| v.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    input.read_exact(&mut body)?;
    Ok(Some(Request { method, path, headers, body: String::from_utf8(body).unwrap_or_default() }))
}
