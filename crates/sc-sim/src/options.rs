//! The grammar of the command line: which options exist, what each takes, and how tokens become values.
//!
//! The vendor's server reads its command line with `boost::program_options`. What that library accepts is kept
//! (`--option value`, `--option=value`, any unambiguous beginning of a name, several words for true and false), and so
//! is what it refuses, down to the wording of its errors: an agent that gets an argument wrong must find out here and
//! not on the machine that has the licence.

use std::collections::BTreeMap;
use std::ffi::OsString;

use crate::exit_code::Failure;

/// Every option with a known name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Opt {
    Help,
    Id,
    ScPort,
    License,
    LicenseFile,
    Csr,
    Ssr,
    SsrGpuIndex,
    SsrEgl,
    LogFile,
    LogFileCategoryMask,
    LogStdoutCategoryMask,
    LogStyleDelta,
    InitialUseDuration,
    ModelSearchDirectories,
    ModelFile,
    WorkspaceDir,
    SessionToken,
    SslCertificateFile,
    SslPrivateKeyFile,
    LivelinessEndpoint,
    LivelinessUpdateFrequency,
    ExitOnLoadFinish,
    ScTickTimeoutMs,
    ScVerboseLogging,
    DebugLogFile,
    ServiceRespawn,
    ServiceRespawnLogSuffix,
}

/// What follows an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    Bool,
    Port,
    Number,
    Seconds,
    Text,
}

/// One line of the table below.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) opt: Opt,
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) about: &'static str,
}

const fn spec(opt: Opt, name: &'static str, takes: Takes, about: &'static str) -> Spec {
    Spec { opt, name, takes, about }
}

/// All options, in the order of `--help`.
#[rustfmt::skip]
pub(crate) const TABLE: &[Spec] = &[
    spec(Opt::Help, "help", Takes::Nothing, "show this text and exit (also -h)"),
    spec(Opt::Id, "id", Takes::Text, "names this invocation in logs and liveliness posts (required)"),
    spec(Opt::ScPort, "sc-port", Takes::Port, "WebSocket port (required)"),
    spec(Opt::License, "license", Takes::Text, "licence key"),
    spec(Opt::LicenseFile, "license-file", Takes::Text, "file that holds the licence key"),
    spec(Opt::Csr, "csr", Takes::Bool, "serve client-side rendering (default true)"),
    spec(Opt::Ssr, "ssr", Takes::Bool, "serve server-side rendering (default false)"),
    spec(Opt::SsrGpuIndex, "ssr-gpu-index", Takes::Number, "GPU for server-side rendering, from zero"),
    spec(Opt::SsrEgl, "ssr-egl", Takes::Bool, "create the GL context through EGL (Linux only)"),
    spec(Opt::LogFile, "log-file", Takes::Text, "log to this file"),
    spec(Opt::LogFileCategoryMask, "log-file-category-mask", Takes::Number, "what goes to the file: error=1 warn=2 info=4 debug=8, added up (default 7)"),
    spec(Opt::LogStdoutCategoryMask, "log-stdout-category-mask", Takes::Number, "what goes to stdout, same mask (default 7)"),
    spec(Opt::LogStyleDelta, "log-style-delta", Takes::Bool, "stamp log lines with seconds since start"),
    spec(Opt::InitialUseDuration, "initial-use-duration", Takes::Number, "exit if no viewer sent anything for this many seconds after start, 0 to wait for ever (default 60)"),
    spec(Opt::ModelSearchDirectories, "model-search-directories", Takes::Text, "directories with models, joined by ';'"),
    spec(Opt::ModelFile, "model-file", Takes::Text, "model to serve whatever the viewer asks for"),
    spec(Opt::WorkspaceDir, "workspace-dir", Takes::Text, "existing directory for temporary files"),
    spec(Opt::SessionToken, "session-token", Takes::Text, "token the viewer must present"),
    spec(Opt::SslCertificateFile, "ssl-certificate-file", Takes::Text, "certificate chain for wss"),
    spec(Opt::SslPrivateKeyFile, "ssl-private-key-file", Takes::Text, "private key for wss"),
    spec(Opt::LivelinessEndpoint, "liveliness-endpoint", Takes::Text, "URL below which liveliness is posted"),
    spec(Opt::LivelinessUpdateFrequency, "liveliness-update-frequency", Takes::Seconds, "seconds between pings (default 5)"),
    spec(Opt::ExitOnLoadFinish, "exit-on-load-finish", Takes::Bool, "exit once a model is loaded"),
    spec(Opt::ScTickTimeoutMs, "sc-tick-timeout-ms", Takes::Number, "idle time between ticks"),
    spec(Opt::ScVerboseLogging, "sc-verbose-logging", Takes::Bool, "have the stream cache log more"),
    spec(Opt::DebugLogFile, "debug-log-file", Takes::Text, "log of the server-side renderer"),
    spec(Opt::ServiceRespawn, "service-respawn", Takes::Bool, "respawn in the console session (Windows services only)"),
    spec(Opt::ServiceRespawnLogSuffix, "service-respawn-log-suffix", Takes::Text, "suffix of the respawner's log file (default _respawner)"),
];

/// A value of the type its option takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Given,
    Bool(bool),
    Port(u16),
    Number(u32),
    Seconds(f64),
    Text(String),
}

/// A command line that obeys the grammar. Which options belong together is for [`crate::settings`] to say.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Parsed(BTreeMap<Opt, Value>);

impl Parsed {
    pub(crate) fn wants_help(&self) -> bool {
        self.0.contains_key(&Opt::Help)
    }

    pub(crate) fn bool(&self, opt: Opt) -> Option<bool> {
        match self.0.get(&opt) {
            Some(Value::Bool(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn port(&self, opt: Opt) -> Option<u16> {
        match self.0.get(&opt) {
            Some(Value::Port(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn number(&self, opt: Opt) -> Option<u32> {
        match self.0.get(&opt) {
            Some(Value::Number(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn seconds(&self, opt: Opt) -> Option<f64> {
        match self.0.get(&opt) {
            Some(Value::Seconds(value)) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn text(&self, opt: Opt) -> Option<String> {
        match self.0.get(&opt) {
            Some(Value::Text(value)) => Some(value.clone()),
            _ => None,
        }
    }
}

/// Reads the arguments that follow the program's name.
pub(crate) fn parse(args: impl Iterator<Item = OsString>) -> Result<Parsed, Failure> {
    let mut parsed = Parsed::default();
    let mut tokens = args
        .map(|token| {
            token.into_string().map_err(|token| {
                let token = token.to_string_lossy();
                Failure::command_line(format!("the argument '{token}' is not valid UTF-8"))
            })
        })
        .peekable();

    while let Some(token) = tokens.next() {
        let token = token?;
        let (spec, adjacent) = match token.strip_prefix("--") {
            Some(long) if !long.is_empty() => long_option(long)?,
            _ if token == "-h" => (find("help")?, None),
            _ if looks_like_an_option(&token) => {
                return Err(Failure::command_line(format!("unrecognised option '{token}'")));
            }
            // The licensed server would skip a stray word in silence. That hides a mistake of the program that built the
            // command line, so the simulator does what the library does when words are counted.
            _ => {
                return Err(Failure::command_line(
                    "too many positional options have been specified on the command line",
                ));
            }
        };
        let name = spec.name;
        let raw = match (spec.takes, adjacent) {
            (Takes::Nothing, None) => None,
            (Takes::Nothing, Some(_)) => {
                return Err(Failure::command_line(format!("option '--{name}' does not take any arguments")));
            }
            (_, Some("")) => {
                return Err(Failure::command_line(format!(
                    "the argument for option '--{name}' should follow immediately after the equal sign"
                )));
            }
            (_, Some(value)) => Some(value.to_owned()),
            (_, None) => {
                let is_value = |next: &Result<String, _>| !next.as_deref().is_ok_and(looks_like_an_option);
                let Some(value) = tokens.next_if(is_value) else {
                    return Err(Failure::command_line(format!(
                        "the required argument for option '--{name}' is missing"
                    )));
                };
                Some(value?)
            }
        };
        let value = match raw {
            None => Value::Given,
            Some(raw) => typed(spec.takes, &raw).ok_or_else(|| {
                Failure::command_line(format!("the argument ('{raw}') for option '--{name}' is invalid"))
            })?,
        };
        if parsed.0.insert(spec.opt, value).is_some() {
            return Err(Failure::command_line(format!(
                "option '--{name}' cannot be specified more than once"
            )));
        }
    }
    Ok(parsed)
}

/// A lone `-` is a value, as it is for boost.
fn looks_like_an_option(token: &str) -> bool {
    token.len() > 1 && token.starts_with('-')
}

fn long_option(long: &str) -> Result<(&'static Spec, Option<&str>), Failure> {
    match long.split_once('=') {
        Some((name, value)) => Ok((find(name)?, Some(value))),
        None => Ok((find(long)?, None)),
    }
}

/// A whole name wins over names it is the beginning of: `--license` is not short for `--license-file`.
fn find(name: &str) -> Result<&'static Spec, Failure> {
    if let Some(spec) = TABLE.iter().find(|spec| spec.name == name) {
        return Ok(spec);
    }
    let begins_so: Vec<_> =
        TABLE.iter().filter(|spec| !name.is_empty() && spec.name.starts_with(name)).collect();
    match begins_so.as_slice() {
        [] => Err(Failure::command_line(format!("unrecognised option '--{name}'"))),
        [spec] => Ok(spec),
        several => {
            let names: Vec<_> = several.iter().map(|spec| format!("'--{}'", spec.name)).collect();
            let names = names.join(", ");
            Err(Failure::command_line(format!("option '--{name}' is ambiguous and matches {names}")))
        }
    }
}

fn typed(takes: Takes, raw: &str) -> Option<Value> {
    Some(match takes {
        Takes::Nothing => Value::Given,
        Takes::Bool => Value::Bool(boolean(raw)?),
        Takes::Port => Value::Port(raw.parse().ok().filter(|port| *port != 0)?),
        Takes::Number => Value::Number(raw.parse().ok()?),
        Takes::Seconds => Value::Seconds(raw.parse().ok().filter(|s: &f64| s.is_finite())?),
        Takes::Text => Value::Text(raw.to_owned()),
    })
}

/// The words the vendor's server knows for true and false, in any case.
pub(crate) fn boolean(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "on" | "yes" | "1" | "true" => Some(true),
        "off" | "no" | "0" | "false" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
