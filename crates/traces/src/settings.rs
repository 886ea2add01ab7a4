//! The standard variables `OTEL_*` that say whether, where and how traces are exported.
//!
//! An empty variable counts as one that is not set, as the specification of OpenTelemetry says. Here a value that is not understood is an
//! error that names the variable, where SDKs fall back to a default. Errors do not repeat values of variables that may hold secrets.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tonic::metadata::{Ascii, MetadataKey, MetadataMap, MetadataValue};
use tonic::transport::Uri;

use crate::pairs;
use crate::sampler::{Root, Sampler};

/// A variable whose value is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {variable}: {why}")]
pub struct SettingsError {
    /// Name of the environment variable.
    pub variable: String,
    why: String,
}

impl SettingsError {
    pub(crate) fn new(variable: &str, why: impl fmt::Display) -> Self {
        Self { variable: variable.to_owned(), why: why.to_string() }
    }
}

/// How the collector is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    HttpProtobuf,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Grpc => "grpc",
            Self::HttpProtobuf => "http/protobuf",
        })
    }
}

/// Files for TLS with the collector; each one with the variable that names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    /// Who signs the collector's certificate, where that is not one of the machine's.
    pub(crate) ca: Option<(String, PathBuf)>,
    /// The certificate that the collector is shown, and its key.
    pub(crate) identity: Option<((String, PathBuf), (String, PathBuf))>,
}

/// How finished spans are collected before they are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Batches {
    pub(crate) delay: Duration,
    pub(crate) queue: usize,
    pub(crate) size: usize,
    pub(crate) timeout: Duration,
}

/// What the variables say, where traces are to be exported.
#[derive(Debug, Clone)]
pub struct Settings {
    pub(crate) protocol: Protocol,
    /// Over HTTP, with the path that batches are sent to.
    pub(crate) endpoint: Uri,
    pub(crate) timeout: Duration,
    pub(crate) tls: TlsFiles,
    pub(crate) metadata: MetadataMap,
    pub(crate) sampler: Sampler,
    pub(crate) batches: Batches,
    pub(crate) service_name: Option<String>,
    pub(crate) resource: Vec<(String, String)>,
}

impl Settings {
    /// Reads the variables of this process. `None`: traces are off.
    ///
    /// # Errors
    /// A value is not understood.
    pub fn from_environment() -> Result<Option<Self>, SettingsError> {
        Self::read(|name| match std::env::var_os(name) {
            None => Ok(None),
            Some(value) => {
                value.into_string().map(Some).map_err(|_| SettingsError::new(name, "expected UTF-8"))
            }
        })
    }

    /// Reads variables from `get`. `None`: traces are off.
    ///
    /// # Errors
    /// A value is not understood.
    pub fn read(
        get: impl Fn(&str) -> Result<Option<String>, SettingsError>,
    ) -> Result<Option<Self>, SettingsError> {
        let variables = Variables { get };
        if variables.one("OTEL_SDK_DISABLED", boolean)?.unwrap_or_default() {
            return Ok(None);
        }
        let exporters = variables.one("OTEL_TRACES_EXPORTER", exporter)?;
        if exporters == Some(false) {
            return Ok(None);
        }
        if variables.otlp("ENDPOINT", |text| Ok(text.to_owned()))?.is_none() {
            return Ok(None);
        }
        let protocol = variables.otlp("PROTOCOL", protocol)?.unwrap_or(Protocol::Grpc);
        let Some(endpoint) = variables.endpoint(protocol)? else { return Ok(None) };
        variables.otlp("COMPRESSION", compression)?;
        variables.otlp("INSECURE", boolean)?;
        Ok(Some(Self {
            protocol,
            endpoint,
            timeout: variables.otlp("TIMEOUT", milliseconds)?.unwrap_or(Duration::from_secs(10)),
            tls: variables.tls()?,
            metadata: variables.otlp("HEADERS", metadata)?.unwrap_or_default(),
            sampler: variables.sampler()?,
            batches: variables.batches()?,
            service_name: variables.one("OTEL_SERVICE_NAME", |name| Ok(name.to_owned()))?,
            resource: variables.one("OTEL_RESOURCE_ATTRIBUTES", pairs::parse)?.unwrap_or_default(),
        }))
    }

    /// Whether the collector is called by TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.endpoint.scheme_str() == Some("https")
    }
}

/// The contents of a file that a variable names.
pub(crate) fn read(variable: &str, path: &Path) -> Result<Vec<u8>, SettingsError> {
    std::fs::read(path)
        .map_err(|error| SettingsError::new(variable, format!("cannot read {}: {error}", path.display())))
}

struct Variables<G> {
    get: G,
}

impl<G: Fn(&str) -> Result<Option<String>, SettingsError>> Variables<G> {
    fn text(&self, name: &str) -> Result<Option<String>, SettingsError> {
        Ok((self.get)(name)?.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()))
    }

    fn one<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        let text = self.text(name)?;
        text.map(|text| parse(&text).map_err(|why| SettingsError::new(name, why))).transpose()
    }

    /// A variable of the exporter: the one for traces goes before the one for all signals.
    fn otlp<T>(
        &self,
        what: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<T>, SettingsError> {
        match self.one(&format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), &parse)? {
            None => self.one(&format!("OTEL_EXPORTER_OTLP_{what}"), &parse),
            some => Ok(some),
        }
    }

    /// Where the collector is. Over HTTP, the variable for all signals names what their paths stand below.
    fn endpoint(&self, protocol: Protocol) -> Result<Option<Uri>, SettingsError> {
        let own = self.one("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", |text| endpoint(text, protocol))?;
        if own.is_some() {
            return Ok(own);
        }
        self.one("OTEL_EXPORTER_OTLP_ENDPOINT", |text| match protocol {
            Protocol::Grpc => endpoint(text, protocol),
            Protocol::HttpProtobuf => {
                endpoint(text, protocol)?;
                endpoint(&format!("{}/v1/traces", text.trim_end_matches('/')), protocol)
            }
        })
    }

    /// The same for a file, with the name of its variable.
    fn file(&self, what: &str) -> Result<Option<(String, PathBuf)>, SettingsError> {
        for name in [format!("OTEL_EXPORTER_OTLP_TRACES_{what}"), format!("OTEL_EXPORTER_OTLP_{what}")] {
            if let Some(path) = self.text(&name)? {
                return Ok(Some((name, path.into())));
            }
        }
        Ok(None)
    }

    fn tls(&self) -> Result<TlsFiles, SettingsError> {
        let ca = self.file("CERTIFICATE")?;
        let identity = match (self.file("CLIENT_CERTIFICATE")?, self.file("CLIENT_KEY")?) {
            (None, None) => None,
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (Some((name, _)), None) => {
                return Err(SettingsError::new(&name, "it goes with OTEL_EXPORTER_OTLP_CLIENT_KEY"));
            }
            (None, Some((name, _))) => {
                return Err(SettingsError::new(&name, "it goes with OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"));
            }
        };
        Ok(TlsFiles { ca, identity })
    }

    fn sampler(&self) -> Result<Sampler, SettingsError> {
        const ARGUMENT: &str = "OTEL_TRACES_SAMPLER_ARG";
        let Some(name) = self.one("OTEL_TRACES_SAMPLER", sampler)? else { return Ok(Sampler::default()) };
        // The others take none.
        let Root::Ratio(_) = name.root else { return Ok(name) };
        let ratio = self.one(ARGUMENT, ratio)?.unwrap_or(1.0);
        Ok(Sampler { root: Root::Ratio(ratio), ..name })
    }

    fn batches(&self) -> Result<Batches, SettingsError> {
        const QUEUE: &str = "OTEL_BSP_MAX_QUEUE_SIZE";
        const SIZE: &str = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE";
        let queue = self.one(QUEUE, |text| number(text, 1_000_000))?.unwrap_or(2048);
        let size = self.one(SIZE, |text| number(text, 1_000_000))?;
        if let Some(size) = size.filter(|size| *size > queue) {
            return Err(SettingsError::new(SIZE, format!("expected at most {QUEUE}, {queue}, got {size}")));
        }
        let milliseconds = |name: &str, default| Ok(self.one(name, milliseconds)?.unwrap_or(default));
        Ok(Batches {
            queue,
            size: size.unwrap_or(512).min(queue),
            delay: milliseconds("OTEL_BSP_SCHEDULE_DELAY", Duration::from_secs(5))?,
            timeout: milliseconds("OTEL_BSP_EXPORT_TIMEOUT", Duration::from_secs(30))?,
        })
    }
}

fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("expected true or false, got {text:?}")),
    }
}

/// Whether there is one.
fn exporter(text: &str) -> Result<bool, String> {
    match text {
        "otlp" => Ok(true),
        "none" => Ok(false),
        _ => Err(format!("expected otlp or none, got {text:?}")),
    }
}

fn endpoint(text: &str, protocol: Protocol) -> Result<Uri, String> {
    let expected = "expected http://host:port or https://host:port";
    let uri: Uri = text.parse().map_err(|e| format!("{expected}: {e}"))?;
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(format!("{expected}, without a user; see OTEL_EXPORTER_OTLP_HEADERS"));
    }
    if uri.query().is_some() {
        return Err(format!("{expected}, without a query"));
    }
    if protocol == Protocol::Grpc && !matches!(uri.path(), "" | "/") {
        return Err(format!(
            "{expected}, without a path: the protocol grpc has none (see OTEL_EXPORTER_OTLP_PROTOCOL)"
        ));
    }
    let has_host = uri.host().is_some_and(|host| !host.is_empty());
    if !matches!(uri.scheme_str(), Some("http" | "https")) || !has_host {
        return Err(format!("{expected}, got {text:?}"));
    }
    Ok(uri)
}

fn protocol(text: &str) -> Result<Protocol, String> {
    match text {
        "grpc" => Ok(Protocol::Grpc),
        "http/protobuf" => Ok(Protocol::HttpProtobuf),
        _ => Err(format!("expected grpc or http/protobuf, got {text:?}")),
    }
}

fn compression(text: &str) -> Result<(), String> {
    match text {
        "none" => Ok(()),
        _ => Err(format!("expected none, the only compression that there is here, got {text:?}")),
    }
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    number(text, 3_600_000).map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()))
}

fn number(text: &str, max: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=max).contains(number));
    number.ok_or_else(|| format!("expected a number from 1 to {max}, got {text:?}"))
}

fn metadata(text: &str) -> Result<MetadataMap, String> {
    let mut metadata = MetadataMap::new();
    for (key, value) in pairs::parse(text)? {
        let key = key.to_ascii_lowercase();
        let name: MetadataKey<Ascii> =
            key.parse().map_err(|_| format!("{key:?} cannot be the name of a header"))?;
        let value: MetadataValue<Ascii> =
            value.parse().map_err(|_| format!("the value of {key:?} cannot be that of a header"))?;
        metadata.append(name, value);
    }
    Ok(metadata)
}

fn sampler(text: &str) -> Result<Sampler, String> {
    let (name, parent_based) = text.strip_prefix("parentbased_").map_or((text, false), |name| (name, true));
    let root = match name {
        "always_on" => Root::On,
        "always_off" => Root::Off,
        "traceidratio" => Root::Ratio(1.0),
        _ => {
            return Err(format!(
                "expected always_on, always_off or traceidratio, each also with parentbased_ in front, got {text:?}"
            ));
        }
    };
    Ok(Sampler { root, parent_based })
}

fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.ok_or_else(|| format!("expected a number from 0 to 1, got {text:?}"))
}

#[cfg(test)]
#[path = "settings_tests.rs"]
mod tests;
