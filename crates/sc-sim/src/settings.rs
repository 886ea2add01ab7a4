//! The settings of this invocation: a command line that parses and whose options fit together.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::exit_code::{Exit, Failure};
use crate::log::{LogSettings, Mask};
use crate::options::{Opt, Parsed};

const DEFAULT_INITIAL_USE_SECONDS: u32 = 60;
const DEFAULT_PING_SECONDS: f64 = 5.0;
/// The longest ping interval, a year: more is a mistake, and far more would overflow the clock.
const MAX_PING_SECONDS: u64 = 365 * 24 * 60 * 60;

/// Where a viewer's pictures are made, and whether that is allowed here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rendering {
    /// In the viewer.
    pub(crate) csr: bool,
    /// In this process.
    pub(crate) ssr: bool,
}

/// The licence as given; its text is read late, as the vendor's server does.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum License {
    Key(String),
    File(PathBuf),
}

/// Certificate and key for wss, which the simulator cannot serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) key: Option<PathBuf>,
}

/// All settings. Holds the licence and the token, so it has no `Debug`; [`Settings::lines`] is what may be logged.
pub(crate) struct Settings {
    pub(crate) id: String,
    /// The node that this server runs on, where it is known.
    pub(crate) node: Option<String>,
    pub(crate) port: u16,
    pub(crate) license: License,
    pub(crate) rendering: Rendering,
    pub(crate) gpu: Option<u32>,
    pub(crate) egl: bool,
    pub(crate) log: LogSettings,
    pub(crate) initial_use: Option<Duration>,
    pub(crate) model_directories: Vec<PathBuf>,
    pub(crate) model_file: Option<PathBuf>,
    pub(crate) workspace: Option<PathBuf>,
    pub(crate) session_token: Option<String>,
    pub(crate) tls: Tls,
    pub(crate) liveliness_endpoint: Option<String>,
    pub(crate) ping_period: Duration,
    pub(crate) exit_on_load_finish: bool,
    pub(crate) tick_timeout_ms: Option<u32>,
    pub(crate) verbose: bool,
    pub(crate) debug_log_file: Option<PathBuf>,
    pub(crate) service_respawn: bool,
}

impl Settings {
    /// Checks everything that can be checked without touching the network or opening a log.
    ///
    /// `node` is what the agent says of it in the environment.
    pub(crate) fn new(parsed: &Parsed, node: Option<String>) -> Result<Self, Failure> {
        let id = parsed.text(Opt::Id).ok_or_else(|| required("id"))?;
        let port = parsed.port(Opt::ScPort).ok_or_else(|| required("sc-port"))?;
        let path = |opt| parsed.text(opt).map(PathBuf::from);
        let model_directories = model_directories(parsed.text(Opt::ModelSearchDirectories))?;
        let model_file = path(Opt::ModelFile).map(|file| resolve(file, &model_directories));
        Ok(Self {
            id,
            node,
            port,
            rendering: rendering(parsed)?,
            license: license(parsed)?,
            gpu: parsed.number(Opt::SsrGpuIndex),
            egl: egl(parsed)?,
            log: LogSettings {
                stdout: Mask(parsed.number(Opt::LogStdoutCategoryMask).unwrap_or(7)),
                file: path(Opt::LogFile),
                file_mask: Mask(parsed.number(Opt::LogFileCategoryMask).unwrap_or(7)),
                delta: parsed.bool(Opt::LogStyleDelta).unwrap_or(false),
            },
            initial_use: initial_use(parsed),
            model_directories,
            model_file,
            workspace: workspace(path(Opt::WorkspaceDir))?,
            session_token: parsed.text(Opt::SessionToken),
            tls: Tls { certificate: path(Opt::SslCertificateFile), key: path(Opt::SslPrivateKeyFile) },
            liveliness_endpoint: parsed.text(Opt::LivelinessEndpoint),
            ping_period: ping_period(parsed)?,
            exit_on_load_finish: parsed.bool(Opt::ExitOnLoadFinish).unwrap_or(false),
            tick_timeout_ms: parsed.number(Opt::ScTickTimeoutMs),
            verbose: parsed.bool(Opt::ScVerboseLogging).unwrap_or(false),
            debug_log_file: path(Opt::DebugLogFile),
            service_respawn: parsed.bool(Opt::ServiceRespawn).unwrap_or(false),
        })
    }

    /// What the log may show: neither the licence nor the token.
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = vec![
            format!("settings.id: {}", self.id),
            format!("settings.sc-port: {}", self.port),
            format!("settings.csr: {}", self.rendering.csr),
            format!("settings.ssr: {}", self.rendering.ssr),
            format!("settings.initial-use-duration: {}", self.initial_use.unwrap_or_default().as_secs()),
            format!("settings.liveliness-update-frequency: {}", self.ping_period.as_secs_f64()),
        ];
        let mut optional = |name: &str, value: Option<String>| {
            lines.extend(value.map(|value| format!("settings.{name}: {value}")));
        };
        let shown = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let switched_on = |on: bool| on.then(|| "true".to_owned());
        optional("ssr-gpu-index", self.gpu.map(|gpu| gpu.to_string()));
        optional("ssr-egl", switched_on(self.egl));
        optional("liveliness-endpoint", self.liveliness_endpoint.clone());
        optional(
            "model-search-directories",
            (!self.model_directories.is_empty()).then(|| {
                let shown: Vec<_> =
                    self.model_directories.iter().map(|directory| directory.display().to_string()).collect();
                shown.join(";")
            }),
        );
        optional("model-file", shown(&self.model_file));
        optional("workspace-dir", shown(&self.workspace));
        optional("exit-on-load-finish", switched_on(self.exit_on_load_finish));
        optional("sc-tick-timeout-ms", self.tick_timeout_ms.map(|ms| ms.to_string()));
        optional("sc-verbose-logging", switched_on(self.verbose));
        optional("debug-log-file", shown(&self.debug_log_file));
        lines
    }
}

/// The text of the licence. The simulator takes any text but `invalid`, so that a refused licence can be tried.
pub(crate) fn check_license(license: &License) -> Result<(), Failure> {
    let text = match license {
        License::Key(key) => key.clone(),
        License::File(path) => read_license(path)?,
    };
    match text.trim() {
        "" | "invalid" => Err(Failure::new(Exit::BadLicense, "invalid license")),
        _ => Ok(()),
    }
}

fn read_license(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let mut file = File::open(path)
        .map_err(|_| Failure::new(Exit::BadLicenseFile, format!("Unable to open license file '{shown}'")))?;
    let mut text = String::new();
    match file.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => Ok(text),
        _ => Err(Failure::new(Exit::BadLicenseFile, format!("Unable to read license file from '{shown}'"))),
    }
}

/// A server that was asked to speak wss and speaks ws instead would pass tests it must fail.
pub(crate) fn check_tls(tls: &Tls) -> Result<(), Failure> {
    if *tls == (Tls { certificate: None, key: None }) {
        return Ok(());
    }
    let opens = |path: &Option<PathBuf>| path.as_ref().is_some_and(|path| File::open(path).is_ok());
    let message = if !opens(&tls.certificate) {
        "unable to open SSL certificate file"
    } else if !opens(&tls.key) {
        "unable to open SSL key file"
    } else {
        "the simulator cannot serve wss; leave --ssl-certificate-file and --ssl-private-key-file away"
    };
    Err(Failure::new(Exit::ScInitFailed, message))
}

fn required(name: &str) -> Failure {
    Failure::command_line(format!("the option '--{name}' is required but missing"))
}

fn rendering(parsed: &Parsed) -> Result<Rendering, Failure> {
    let csr = parsed.bool(Opt::Csr).unwrap_or(true);
    let ssr = parsed.bool(Opt::Ssr).unwrap_or(false);
    if csr || ssr {
        Ok(Rendering { csr, ssr })
    } else {
        Err(Failure::command_line("No rendering location specified. Set either '--ssr' or '--csr' to true"))
    }
}

fn license(parsed: &Parsed) -> Result<License, Failure> {
    match (parsed.text(Opt::License), parsed.text(Opt::LicenseFile)) {
        (Some(key), None) => Ok(License::Key(key)),
        (None, Some(path)) => Ok(License::File(path.into())),
        (None, None) => Err(Failure::command_line("You must specify either a license or a license-file")),
        (Some(_), Some(_)) => {
            Err(Failure::command_line("You must specify only a license or a license-file, not both"))
        }
    }
}

fn egl(parsed: &Parsed) -> Result<bool, Failure> {
    let egl = parsed.bool(Opt::SsrEgl).unwrap_or(false);
    if egl && !cfg!(target_os = "linux") {
        return Err(Failure::command_line("EGL context creation is currently only supported on Linux."));
    }
    Ok(egl)
}

fn initial_use(parsed: &Parsed) -> Option<Duration> {
    match parsed.number(Opt::InitialUseDuration).unwrap_or(DEFAULT_INITIAL_USE_SECONDS) {
        0 => None,
        seconds => Some(Duration::from_secs(seconds.into())),
    }
}

fn ping_period(parsed: &Parsed) -> Result<Duration, Failure> {
    let seconds = parsed.seconds(Opt::LivelinessUpdateFrequency).unwrap_or(DEFAULT_PING_SECONDS);
    Duration::try_from_secs_f64(seconds)
        .ok()
        .filter(|period| !period.is_zero() && period.as_secs() <= MAX_PING_SECONDS)
        .ok_or_else(|| {
            Failure::command_line(format!(
                "the argument ('{seconds}') for option '--liveliness-update-frequency' is invalid"
            ))
        })
}

fn model_directories(joined: Option<String>) -> Result<Vec<PathBuf>, Failure> {
    let joined = joined.unwrap_or_default();
    if joined.contains('*') {
        return Err(Failure::command_line(format!(
            "the argument ('{joined}') for option '--model-search-directories' is invalid: '*' is not allowed"
        )));
    }
    Ok(joined.split(';').filter(|directory| !directory.is_empty()).map(PathBuf::from).collect())
}

/// The first search directory that has the file; a file nobody has stays as given, a viewer will not notice here.
fn resolve(file: PathBuf, directories: &[PathBuf]) -> PathBuf {
    directories
        .iter()
        .map(|directory| directory.join(&file))
        .find(|candidate| file.is_relative() && candidate.exists())
        .unwrap_or(file)
}

fn workspace(directory: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let Some(directory) = directory else {
        return Ok(None);
    };
    let shown = directory.display();
    if !directory.exists() {
        return Err(Failure::command_line(format!(
            "the argument ('{shown}') for option '--workspace-dir' is invalid: it does not exist"
        )));
    }
    if !directory.is_dir() {
        return Err(Failure::command_line(format!(
            "the argument ('{shown}') for option '--workspace-dir' is invalid: it is not a directory"
        )));
    }
    Ok(Some(directory))
}
