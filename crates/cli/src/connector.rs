//! Connections to front doors, plain and by TLS, for calls and for the live feed alike.

use std::error::Error;
use std::fmt;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::{AlertDescription, CertificateError};
use tls::{ClientStream, Named, Roots};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::Service;

use crate::failure::Failure;

/// Names the file of a private CA.
const CA_VARIABLE: &str = "HATCHERY_CA";

/// Makes connections. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Connector {
    tcp: HttpConnector,
    /// Made when the first connection by TLS is.
    tls: Arc<OnceLock<Result<tls::Client, String>>>,
    /// Whose certificates are trusted; the system's authorities where there is none.
    ca: Option<Arc<Path>>,
}

impl Connector {
    /// Trusts the CA in the file that the flag or the environment names, else the system's authorities, which are looked up
    /// when the first connection by TLS is made.
    ///
    /// # Errors
    /// There are no certificates.
    pub(crate) fn new(flag: Option<&Path>) -> Result<Self, Failure> {
        let variable = || std::env::var_os(CA_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
        let (name, ca) = match flag {
            Some(path) => ("--ca", Some(path.to_owned())),
            None => (CA_VARIABLE, variable()),
        };
        let mut tcp = HttpConnector::new();
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let tls = OnceLock::new();
        if let Some(path) = &ca {
            let file = Named::new(name, path);
            let client = client(Roots::File(file)).map_err(Failure::usage)?;
            tls.get_or_init(|| Ok(client));
        }
        Ok(Self { tcp, tls: Arc::new(tls), ca: ca.map(Into::into) })
    }

    /// Connects to the host of this address.
    pub(crate) async fn connect(mut self, uri: Uri) -> Result<Stream, ConnectError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let by_tls = uri.scheme_str() == Some("https");
        let tcp = self.tcp.call(uri).await.map_err(|error| ConnectError(innermost(&error)))?.into_inner();
        if !by_tls {
            return Ok(Stream::Plain(tcp));
        }
        let tls = self.tls.get_or_init(|| client(Roots::System)).as_ref();
        let tls = tls.map_err(|why| ConnectError(why.clone()))?;
        match tls.connect(&host, tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(ConnectError(trouble(&error, &host, self.ca.as_deref()))),
        }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = ConnectError;
    type Future = BoxFuture<'static, Result<Self::Response, ConnectError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        self.tcp.poll_ready(context).map_err(|error| ConnectError(error.to_string()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.clone().connect(uri);
        Box::pin(async { connecting.await.map(TokioIo::new) })
    }
}

fn client(roots: Roots) -> Result<tls::Client, String> {
    tls::Client::open(roots, None, tls::HTTP1).map_err(|error| error.to_string())
}

/// Why a handshake failed, and what to do about it.
fn trouble(error: &io::Error, host: &str, ca: Option<&Path>) -> String {
    let Some(error) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                "it closed the connection instead of the TLS handshake: is it http:// ?".to_owned()
            }
            _ => format!("the TLS handshake broke off: {error}"),
        };
    };
    match error {
        rustls::Error::InvalidCertificate(why) => match why {
            // Another CA of the same name is another CA.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => match ca {
                Some(ca) => format!("its certificate is not of the CA in {}", ca.display()),
                None => "its certificate is of an authority that this machine does not know \
                         (--ca or HATCHERY_CA names the file of a private one)"
                    .to_owned(),
            },
            CertificateError::NotValidForNameContext { presented, .. } if !presented.is_empty() => {
                let names: Vec<&str> = presented.iter().map(|name| bare(name)).collect();
                format!("its certificate is for {}, not for {host}", names.join(", "))
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate is not for {host}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate is not valid yet: is this machine's clock right?".to_owned()
            }
            why => format!("its certificate is not good: {why}"),
        },
        rustls::Error::InvalidMessage(_) => "it does not speak TLS there: is it http:// ?".to_owned(),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate, as agents do: is it a front door?".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("it refused the TLS handshake: {alert:?}"),
        error => format!("no TLS connection: {error}"),
    }
}

/// `DnsName("door")` and `IpAddress(127.0.0.1)` without the wrapping.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').map_or(name, |(_, inner)| inner.trim_end_matches(')'));
    inner.trim_matches('"')
}

/// The innermost error says what happened; those around it only where.
pub(crate) fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    let text = inner.to_string();
    // "Connection refused (os error 111)": the number helps no reader.
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_lowercase(),
        None => text,
    }
}

/// Why there is no connection, in a clause for people.
#[derive(Debug)]
pub(crate) struct ConnectError(String);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for ConnectError {}

#[derive(Debug)]
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<ClientStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Plain(stream) => stream.connected(),
            Self::Tls(stream) => stream.get_ref().0.connected(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
