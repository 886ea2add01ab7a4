//! The spawn's server of this benchmark, in the same executable: it echoes what is small, and sends as many large frames as it is
//! asked for. Threads and blocking sockets, so that it costs little and hides nothing.

use std::cell::LazyCell;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

/// The payload of a large frame, in bytes.
pub(super) const LARGE: usize = 1 << 20;
/// A frame of this many bytes asks for as many large frames as the number in it.
pub(super) const REQUEST: usize = 8;

/// Runs as a server when the agent that starts this executable says so.
pub(crate) fn serve_if_asked() -> anyhow::Result<bool> {
    if std::env::var_os(super::SERVER).is_none() {
        return Ok(false);
    }
    let args: Vec<String> = std::env::args().collect();
    let option = |name: &str| {
        let value = args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
        value.cloned().with_context(|| format!("there is no {name}"))
    };
    let listener = TcpListener::bind(format!("0.0.0.0:{}", option("--sc-port")?))?;
    let (endpoint, id) = (option("--liveliness-endpoint")?, option("--id")?);
    let pause = Duration::from_secs_f64(option("--liveliness-update-frequency")?.parse()?);
    thread::Builder::new().stack_size(64 << 10).spawn(move || report(&endpoint, &id, pause))?;
    for stream in listener.incoming() {
        let stream = stream?;
        thread::Builder::new().stack_size(64 << 10).spawn(move || converse(stream).ok())?;
    }
    Ok(true)
}

/// `ready`, and then pings for good.
fn report(endpoint: &str, id: &str, pause: Duration) -> anyhow::Result<()> {
    let (host, path) =
        endpoint.strip_prefix("http://").and_then(|rest| rest.split_once('/')).context("a URL")?;
    let mut stream = TcpStream::connect(host)?;
    let mut word = "ready";
    loop {
        write!(
            stream,
            "POST /{path}/{id}?liveliness={word} HTTP/1.1\r\nhost: {host}\r\ncontent-length: 0\r\n\r\n"
        )?;
        let read = stream.read(&mut [0; 4096])?;
        anyhow::ensure!(read > 0, "the agent has gone");
        word = "ping";
        thread::park_timeout(pause);
    }
}

/// One viewer.
fn converse(mut stream: TcpStream) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(4096, stream.try_clone()?);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    stream.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
          sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    )?;
    // Most viewers ask for none.
    let large = LazyCell::new(|| [&[0x82, 127][..], &(LARGE as u64).to_be_bytes(), &vec![7; LARGE]].concat());
    loop {
        let mut header = [0; 6];
        reader.read_exact(&mut header)?;
        let length = usize::from(header[1] & 0x7f);
        let mut payload = vec![0; length];
        reader.read_exact(&mut payload)?;
        payload.iter_mut().zip(header[2..].iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        match header[0] & 0x0f {
            // A close frame is answered in kind, a pong with nothing.
            8 => return Ok(stream.write_all(&[0x88, 0])?),
            0xa => {}
            _ => match <[u8; REQUEST]>::try_from(payload.as_slice()) {
                Ok(count) => {
                    for _ in 0..u64::from_be_bytes(count) {
                        stream.write_all(&large)?;
                    }
                }
                Err(_) => {
                    let header = [0x82, u8::try_from(length)?];
                    stream.write_all(&[&header, payload.as_slice()].concat())?;
                }
            },
        }
    }
}
