//! The viewer of this benchmark: bytes on a connection, plain or by TLS.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, ensure};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};
use tokio_rustls::TlsConnector;

use super::server::{LARGE, REQUEST};

/// What brings nothing for so long brings nothing any more.
const STALLED: Duration = Duration::from_secs(20);

/// A connection of either kind.
trait Bytes: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Bytes for T {}

/// Where viewers connect, and how.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) name: &'static str,
    addr: SocketAddr,
    tls: Option<TlsConnector>,
}

impl Way {
    pub(super) fn plain(name: &'static str, addr: SocketAddr) -> Self {
        Self { name, addr, tls: None }
    }

    /// By TLS, with this CA.
    pub(super) fn tls(name: &'static str, addr: SocketAddr, ca: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { name, addr, tls: Some(TlsConnector::from(Arc::new(config))) })
    }

    /// A viewer that is connected by this path, once the viewer before it counts as gone.
    pub(super) async fn connect(&self, path: &str) -> anyhow::Result<Viewer> {
        loop {
            if let Some(viewer) = self.try_connect(path).await? {
                return Ok(viewer);
            }
        }
    }

    /// `None`: the spawn has a viewer.
    async fn try_connect(&self, path: &str) -> anyhow::Result<Option<Viewer>> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let mut stream: Box<dyn Bytes> = match &self.tls {
            None => Box::new(stream),
            Some(connector) => Box::new(connector.connect(ServerName::try_from("localhost")?, stream).await?),
        };
        let head = format!(
            "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::with_capacity(512);
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        if answer.starts_with("HTTP/1.1 409 ") {
            return Ok(None);
        }
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{}: {answer}", self.name);
        Ok(Some(Viewer { way: self.name, stream }))
    }
}

/// A connected viewer.
pub(super) struct Viewer {
    way: &'static str,
    stream: Box<dyn Bytes>,
}

impl Viewer {
    /// Sends a small frame, masked with zeros, and waits for its echo.
    pub(super) async fn echo(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let frame = [&[0x82, 0x80 | 32, 0, 0, 0, 0][..], &[7; 32]].concat();
        self.stream.write_all(&frame).await?;
        self.stream.flush().await?;
        let mut answer = [0; 34];
        self.stream.read_exact(&mut answer).await?;
        Ok(began.elapsed())
    }

    /// Has so many large frames sent, and reads them.
    pub(super) async fn receive(&mut self, frames: u64, buffer: &mut [u8]) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let ask = [&[0x82, 0x80 | u8::try_from(REQUEST)?, 0, 0, 0, 0][..], &frames.to_be_bytes()].concat();
        self.stream.write_all(&ask).await?;
        self.stream.flush().await?;
        let mut left = frames * (LARGE as u64 + 10);
        while left > 0 {
            let read = timeout(STALLED, self.stream.read(buffer)).await;
            let read =
                read.with_context(|| format!("{} stands still, {left} bytes before the end", self.way))?;
            let read = read?;
            ensure!(read > 0, "{} ended {left} bytes too early", self.way);
            left -= u64::try_from(read)?;
        }
        Ok(began.elapsed())
    }

    /// Closes in good order.
    pub(super) async fn leave(mut self) -> anyhow::Result<()> {
        self.stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await?;
        let mut rest = [0; 64];
        while self.stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        Ok(())
    }
}
