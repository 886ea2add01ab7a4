//! The `--registry` setting: where Redis is, or which Sentinels or cluster nodes know it, and how to connect.
//!
//! [`Source`] is the setting itself with the files that it names; [`Target`] is the setting with those files read. No
//! message in here quotes a part of a URL, since any part may be a piece of a password.

use std::fs;
use std::path::{Path, PathBuf};

use redis::{
    Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisConnectionInfo,
    TlsCertificates,
};

use super::shown_url::without_password;
use crate::error::OpenError;

/// The port of a Sentinel without one in the URL.
const SENTINEL_PORT: u16 = 26379;

/// A server's host and port.
pub(super) type Address = (String, u16);

/// What knows where the farm's server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Guide {
    /// The URL itself.
    Url,
    /// Sentinels, which know the master of this name.
    Sentinels(String),
    /// The nodes of a cluster.
    Cluster,
}

/// A setting that was parsed, with its files read.
pub(super) struct Target {
    pub(super) guide: Guide,
    /// The server, the Sentinels, or some of the cluster's nodes.
    pub(super) addresses: Vec<Address>,
    /// How to connect to a server, whatever its address.
    server: ConnectionInfo,
    /// How to connect to a Sentinel or a node that is asked for the server.
    guides: ConnectionInfo,
    /// Whether a client certificate is shown to the server.
    has_certificate: bool,
}

/// The setting, and the files that it names. Their contents may change while the program runs.
#[derive(Clone)]
pub(super) struct Source {
    url: String,
    /// The password of the server; it goes with the user that the URL names.
    password_file: Option<PathBuf>,
}

impl Source {
    pub(super) fn new(url: &str, password_file: Option<&Path>) -> Self {
        Self { url: url.to_owned(), password_file: password_file.map(Path::to_owned) }
    }

    /// Whether [`Self::read`] may give another result than before.
    pub(super) fn has_files(&self) -> bool {
        self.password_file.is_some() || self.url.contains("?")
    }

    /// Reads all files and understands the URL. Blocks.
    pub(super) fn read(&self) -> Result<Target, OpenError> {
        let password = self.password_file.as_deref().map(password_in).transpose()?;
        understand(&self.url, password.as_deref())
            .map_err(|why| OpenError::Url { url: without_password(&self.url), why })
    }
}

/// The password in a file, without the line's end.
fn password_in(file: &Path) -> Result<String, OpenError> {
    let wrong = |why: &str| OpenError::PasswordFile { file: file.to_owned(), why: why.to_owned() };
    let text = fs::read_to_string(file).map_err(|error| wrong(&error.to_string()))?;
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("it is empty")),
        password => Ok(password.to_owned()),
    }
}

impl Target {
    /// How to reach the farm's server, which is here.
    pub(super) fn server(&self, at: &Address) -> ConnectionInfo {
        moved(&self.server, at)
    }

    /// How to reach a Sentinel, or a node that is asked for the server.
    pub(super) fn guide(&self, at: &Address) -> ConnectionInfo {
        moved(&self.guides, at)
    }
}

/// A setting whose server is on another machine without protection: an attacker that reaches it, or the network to it, owns
/// the farm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unprotected {
    /// The host of the server, a Sentinel or a node of the cluster.
    pub host: String,
    /// What is missing, in words: `without TLS`, `without a password`, or both.
    pub lacks: &'static str,
}

/// Checks that a setting with a server on another machine has TLS, and a password or a client certificate. `None` when it
/// has, or when the server is on this machine.
///
/// ```
/// let found = registry::unprotected("redis://10.0.0.5:6379", None)?.unwrap();
/// assert_eq!((found.host.as_str(), found.lacks), ("10.0.0.5", "without TLS and a password"));
/// assert_eq!(registry::unprotected("redis://127.0.0.1", None)?, None);
/// # Ok::<(), registry::OpenError>(())
/// ```
///
/// # Errors
/// The setting or a file that it names cannot be used.
pub fn unprotected(url: &str, password_file: Option<&Path>) -> Result<Option<Unprotected>, OpenError> {
    if url == "embedded" {
        return Ok(None);
    }
    let target = Source::new(url, password_file).read()?;
    let Some((host, _)) = target.addresses.iter().find(|(host, _)| !is_on_this_machine(host)) else {
        return Ok(None);
    };
    let secure = matches!(target.server.addr(), ConnectionAddr::TcpTls { .. });
    let known = target.server.redis_settings().password().is_some() || target.has_certificate;
    let lacks = match (secure, known) {
        (true, true) => return Ok(None),
        (false, true) => "without TLS",
        (true, false) => "without a password",
        (false, false) => "without TLS and a password",
    };
    Ok(Some(Unprotected { host: host.clone(), lacks }))
}

/// Whether a setting names a server on another machine. Reads no file; of a setting that is malformed nothing is known, and the answer is no.
///
/// ```
/// assert!(registry::is_elsewhere("rediss://agent@10.0.0.5"));
/// assert!(!registry::is_elsewhere("redis://localhost:6379/1"));
/// assert!(!registry::is_elsewhere("embedded"));
/// ```
#[must_use]
pub fn is_elsewhere(url: &str) -> bool {
    let Some((_, rest)) = url.split_once("://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let hosts = authority.rsplit_once('@').map_or(authority, |(_, hosts)| hosts);
    hosts.split(',').filter(|host| !host.is_empty()).any(|host| {
        let bracketed = host.strip_prefix('[').and_then(|rest| rest.split_once(']'));
        let name = bracketed.map_or_else(|| host.split(':').next().unwrap_or_default(), |(name, _)| name);
        !is_on_this_machine(name)
    })
}

/// Whether a host can only be this machine's loopback.
fn is_on_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.eq_ignore_ascii_case("localhost")
        || address.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The same connection settings for another address.
fn moved(info: &ConnectionInfo, (host, port): &Address) -> ConnectionInfo {
    let addr = match info.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => ConnectionAddr::TcpTls {
            host: host.clone(),
            port: *port,
            insecure: *insecure,
            tls_params: tls_params.clone(),
        },
        _ => ConnectionAddr::Tcp(host.clone(), *port),
    };
    info.clone().set_addr(addr)
}

fn understand(url: &str, password: Option<&str>) -> Result<Target, String> {
    let (scheme, rest) = url.split_once("://").ok_or("it has no scheme")?;
    let (secure, kind) = match scheme.strip_prefix("redis") {
        Some(kind) => (kind.starts_with('s'), kind.strip_prefix('s').unwrap_or(kind)),
        None => return Err("its scheme is none of these".to_owned()),
    };
    if rest.contains('#') {
        return Err("it has a fragment (a # in a password is written %23)".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let settings = Settings::parse(query, secure, kind == "-sentinel")?;
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (user, hosts) = authority.rsplit_once('@').unwrap_or(("", authority));
    let (guide, db) = match kind {
        "" => (Guide::Url, path),
        "-cluster" => (Guide::Cluster, path),
        "-sentinel" => match path.split_once('/').unwrap_or((path, "")) {
            ("", _) => return Err("it names no master: …/master-name".to_owned()),
            (master, db) => (Guide::Sentinels(master.to_owned()), db),
        },
        _ => return Err("its scheme is none of these".to_owned()),
    };
    if guide == Guide::Cluster && !["", "0"].contains(&db) {
        return Err("a cluster has one database".to_owned());
    }
    if guide == Guide::Url && hosts.contains(',') {
        return Err("several servers are for redis-sentinel:// and redis-cluster://".to_owned());
    }
    let mut addresses = Vec::new();
    let mut server = None;
    for host in hosts.split(',') {
        let one = format!("redis{}://{user}@{host}/{db}", if secure { "s" } else { "" });
        let info = one.as_str().into_connection_info().map_err(|e| e.to_string())?;
        let (ConnectionAddr::Tcp(name, port) | ConnectionAddr::TcpTls { host: name, port, .. }) = info.addr()
        else {
            return Err("the URL has no host".to_owned());
        };
        let says_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let sentinel = matches!(guide, Guide::Sentinels(_));
        addresses.push((name.clone(), if sentinel && !says_port { SENTINEL_PORT } else { *port }));
        server.get_or_insert(info);
    }
    let server = server.ok_or("it names no server")?;
    let server = match password {
        Some(_) if server.redis_settings().password().is_some() => {
            return Err("it has a password already, and so has --registry-password-file".to_owned());
        }
        Some(password) => {
            let settings = server.redis_settings().clone().set_password(password);
            server.set_redis_settings(settings)
        }
        None => server,
    };
    let has_certificate = settings.cert.is_some();
    let server = settings.secured(server)?;
    let guides = match guide {
        Guide::Sentinels(_) => server.clone().set_redis_settings(settings.sentinel),
        Guide::Url | Guide::Cluster => server.clone(),
    };
    Ok(Target { guide, addresses, server, guides, has_certificate })
}

/// The query of the URL, with its files read.
#[derive(Default)]
struct Settings {
    /// The only certificate authorities to be trusted, instead of the machine's.
    ca: Option<Vec<u8>>,
    /// The client certificate, and its key.
    cert: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    /// The credential for Sentinels.
    sentinel: RedisConnectionInfo,
}

impl Settings {
    fn parse(query: &str, secure: bool, sentinels: bool) -> Result<Self, String> {
        let mut settings = Self::default();
        let parsed = redis::parse_redis_url(&format!("redis://_/?{query}")).ok_or("its query is no query")?;
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "ca" if secure => settings.ca = Some(pem("ca", &value, "-----BEGIN CERTIFICATE-----")?),
                "cert" if secure => settings.cert = Some(pem("cert", &value, "-----BEGIN CERTIFICATE-----")?),
                "key" if secure => settings.key = Some(pem("key", &value, "PRIVATE KEY-----")?),
                "ca" | "cert" | "key" => return Err(format!("{name} is for rediss:// and its like")),
                "sentinel-user" if sentinels => settings.sentinel = settings.sentinel.set_username(value),
                "sentinel-password" if sentinels => {
                    settings.sentinel = settings.sentinel.set_password(value);
                }
                _ => {
                    let known = "ca, cert, key; for Sentinels also sentinel-user, sentinel-password";
                    return Err(format!("its query has other settings than {known}"));
                }
            }
        }
        if settings.cert.is_some() != settings.key.is_some() {
            return Err("cert and key go together".to_owned());
        }
        Ok(settings)
    }

    fn secured(&self, info: ConnectionInfo) -> Result<ConnectionInfo, String> {
        if !matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
            return Ok(info);
        }
        // The process may have a provider already; then that one stays.
        rustls::crypto::ring::default_provider().install_default().ok();
        if self.ca.is_none() && self.cert.is_none() {
            return Ok(info);
        }
        let client_tls = self.cert.clone().zip(self.key.clone());
        let client_tls =
            client_tls.map(|(client_cert, client_key)| ClientTlsConfig { client_cert, client_key });
        let certificates = TlsCertificates { client_tls, root_cert: self.ca.clone() };
        let client = Client::build_with_tls(info, certificates).map_err(|e| e.to_string())?;
        Ok(client.get_connection_info().clone())
    }
}

/// Reads a file that must hold this PEM section.
fn pem(name: &str, path: &str, what: &str) -> Result<Vec<u8>, String> {
    let bytes = fs::read(path).map_err(|e| format!("the file of its {name} cannot be read: {e}"))?;
    if String::from_utf8_lossy(&bytes).contains(what) {
        Ok(bytes.strip_prefix("\u{feff}".as_bytes()).map(<[u8]>::to_vec).unwrap_or(bytes))
    } else {
        Err(format!("the file of its {name} has no such thing in PEM"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(url: &str) -> String {
        match Source::new(url, None).read() {
            Ok(_) => panic!("{url} is not refused"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_server_elsewhere_lacks_what_its_url_does_not_have() {
        let lacks = |url: &str| unprotected(url, None).unwrap().map(|found| (found.host, found.lacks));
        for url in [
            "embedded",
            "redis://localhost",
            "redis://127.0.0.1:6379/1",
            "redis://[::1]:6379",
            "redis-sentinel://127.0.0.1:1,localhost:2/master",
            "rediss://:secret@redis",
            "rediss-cluster://u:secret@10.0.0.5,10.0.0.6",
        ] {
            assert_eq!(lacks(url), None, "{url}");
        }
        for (url, host, what) in [
            ("redis://redis", "redis", "without TLS and a password"),
            ("redis://10.0.0.5:6379", "10.0.0.5", "without TLS and a password"),
            ("redis://:secret@10.0.0.5", "10.0.0.5", "without TLS"),
            ("rediss://redis.farm", "redis.farm", "without a password"),
            ("redis-sentinel://127.0.0.1:1,10.0.0.5/master", "10.0.0.5", "without TLS and a password"),
            ("redis-cluster://u:secret@localhost.evil.example", "localhost.evil.example", "without TLS"),
        ] {
            assert_eq!(lacks(url), Some((host.to_owned(), what)), "{url}");
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"secret\n").unwrap();
        assert_eq!(unprotected("rediss://redis", Some(file.path())).unwrap(), None);
    }

    #[test]
    fn a_wrong_url_is_refused_without_showing_its_password() {
        for url in [
            "localhost:6379",
            "user:secret@localhost",
            "http://localhost",
            "redisss://u:secret@h",
            "redis://user:secret@host:port",
            "redis://u:sec/secret@h",
            "redis://u:sec#secret@h",
            "redis://u:sec?secret@h",
            "redis://u:secret@h/x",
            "redis://u:secret@h,i",
            "redis://u:secret@h?ca=/x",
            "rediss://u:secret@h/#insecure",
            "rediss://u:secret@h?ca=/nowhere/ca.pem",
            "rediss://u:secret@h?ca=/dev/null",
            "rediss://u:secret@h?cert=/dev/null",
            "redis-sentinel://u:secret@h:1",
            "redis-sentinel://u:secret@h:1/",
            "redis-sentinel://u:secret@h:1,h:x/m",
            "redis-sentinel://u:secret@h:1,/m",
            "redis-sentinel://h:1/m/x?sentinel-password=secret@secret",
            "redis-cluster://u:secret@h:1/1",
            "redis-cluster://u:secret@",
            "redis-ring://u:secret@h",
        ] {
            let error = refused(url);
            assert!(error.contains("--registry") && !error.contains("secret"), "{url}: {error}");
        }
        assert!(refused("rediss://h?ca=/nowhere/ca.pem").contains("ca cannot be read"));
    }

    #[test]
    fn each_way_to_redis_is_understood() {
        let target = |url| match Source::new(url, None).read() {
            Ok(target) => target,
            Err(error) => panic!("{error}"),
        };
        let at = |name: &str, port| (name.to_owned(), port);

        let one = target("redis://u:p%40@h:1/2");
        assert_eq!((&one.guide, &one.addresses), (&Guide::Url, &vec![at("h", 1)]));
        let server = one.server(&one.addresses[0]);
        let settings = server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("u"), Some("p@"), 2));

        let one = target("rediss://[::1]");
        assert_eq!(one.addresses, [at("::1", 6379)]);
        assert!(matches!(one.server(&at("h", 1)).addr(), ConnectionAddr::TcpTls { insecure: false, .. }));

        let some = target("redis-sentinel://u:p@h:1,i,[::1]/m/3?sentinel-user=s&sentinel-password=q%26");
        assert_eq!(some.guide, Guide::Sentinels("m".to_owned()));
        assert_eq!(some.addresses, [at("h", 1), at("i", 26379), at("::1", 26379)]);
        let (server, guide) = (some.server(&at("x", 5)), some.guide(&at("y", 6)));
        let of = |info: &ConnectionInfo| {
            let settings = info.redis_settings();
            (info.addr().to_string(), settings.password().map(str::to_owned), settings.db())
        };
        assert_eq!(of(&server), ("x:5".to_owned(), Some("p".to_owned()), 3));
        assert_eq!(of(&guide), ("y:6".to_owned(), Some("q&".to_owned()), 0));

        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(&file, "a:b@/\r\n").unwrap();
        let with_file = |url| Source::new(url, Some(file.path())).read();
        for (url, user, of_guide) in [
            ("redis://host:6379/2", None, Some("a:b@/")),
            ("rediss://user@host", Some("user"), Some("a:b@/")),
            ("redis-sentinel://a,b/farm?sentinel-user=x@y", None, None),
            ("redis-cluster://user@h:1,i", Some("user"), Some("a:b@/")),
        ] {
            let target = with_file(url).unwrap_or_else(|error| panic!("{error}"));
            let server = target.server(&target.addresses[0]);
            let settings = server.redis_settings();
            assert_eq!((settings.username(), settings.password()), (user, Some("a:b@/")), "{url}");
            let guide = target.guide(&target.addresses[0]);
            assert_eq!(guide.redis_settings().password(), of_guide, "{url}");
        }
        assert!(matches!(with_file("redis://:x@host"), Err(OpenError::Url { .. })));
        fs::write(&file, "\u{feff}a:b@/\r\n").unwrap();
        let marked = with_file("redis://host").unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(marked.server(&at("h", 1)).redis_settings().password(), Some("a:b@/"));
        fs::write(&file, "\n").unwrap();
        assert!(matches!(with_file("redis://host"), Err(OpenError::PasswordFile { .. })));

        let some = target("redis-cluster://:p@h:1,i");
        assert_eq!((some.guide, some.addresses), (Guide::Cluster, vec![at("h", 1), at("i", 6379)]));
    }
}
