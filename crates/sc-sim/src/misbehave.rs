//! Misbehaviour on request: what a test wants this server to do wrong. `trouble.rs` carries it out.
//!
//! The command line must stay the vendor's, so requests come by environment (`SC_SIM_READY_DELAY_MS=3000`, for every
//! server of an agent) or inside a session token (`sim:ready_delay_ms=3000,crash_code=9`, for one spawn); a token wins
//! over the environment. A request that cannot be understood is an error: a test that misspells its misbehaviour would
//! otherwise pass for the wrong reason.

use std::ffi::OsString;
use std::time::Duration;

use crate::exit_code::Failure;
use crate::options;

/// Begins the name of every variable.
const PREFIX: &str = "SC_SIM_";

/// Begins a session token that carries requests.
const TOKEN_PREFIX: &str = "sim:";

/// How the process ends when it is to crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    Code(u8),
    Signal(Fatal),
}

/// The signals a server is likely to die of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fatal {
    Kill,
    Segv,
    Abrt,
}

/// All switches; the default is to behave.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Misbehaviour {
    pub(crate) ready_delay: Duration,
    pub(crate) exit_before_ready: Option<u8>,
    pub(crate) exit_delay: Duration,
    pub(crate) never_ready: bool,
    pub(crate) fail_ratio: f64,
    pub(crate) silent_after: Option<Duration>,
    pub(crate) double_slash: bool,
    pub(crate) ignore_term: bool,
    pub(crate) fork_grandchild: bool,
    pub(crate) flood_bytes_per_sec: Option<u64>,
    pub(crate) disconnect_after: Option<Duration>,
    pub(crate) disconnect_no_exit: bool,
    pub(crate) crash_after: Option<Duration>,
    pub(crate) crash: Option<Death>,
    pub(crate) network_version: Option<String>,
    pub(crate) stream_version: Option<String>,
}

/// Every key with what `--help` says of it.
#[rustfmt::skip]
pub(crate) const KEYS: &[(&str, &str)] = &[
    ("ready_delay_ms", "open the port and post ready this much later"),
    ("exit_before_ready", "fail with this exit code (0-255) before the port opens"),
    ("exit_delay_ms", "with exit_before_ready or fail_ratio: take this long to fail"),
    ("never_ready", "1: hang before the port opens; only the initial-use timeout ends it"),
    ("fail_ratio", "chance (0 to 1) to exit with code 3 before the port opens"),
    ("silent_after_ms", "post no liveliness at all from this long after ready, but keep running"),
    ("liveliness_double_slash", "1: post to <base>//<id>"),
    ("ignore_term", "1: outlive SIGTERM"),
    ("fork_grandchild", "1: leave a `sleep 600` in the process group; its pid is logged"),
    ("flood_bytes_per_sec", "write this much to stdout, 0 for as fast as possible"),
    ("disconnect_after_ms", "end as if the viewer left, this long after ready"),
    ("disconnect_no_exit", "1: close the port and post disconnect at the end, but never exit"),
    ("crash_after_ms", "crash this long after ready"),
    ("crash_code", "exit code (0-255) of the crash (default 1)"),
    ("crash_signal", "signal of the crash instead: KILL, SEGV or ABRT"),
    ("network_version", "answer BAD_NETWORK_VERSION to a viewer with another one"),
    ("stream_version", "answer BAD_STREAM_VERSION to a client-side viewer with another one"),
];

impl Misbehaviour {
    /// Reads both sources, the token last.
    pub(crate) fn new(
        environment: impl Iterator<Item = (OsString, OsString)>,
        session_token: Option<&str>,
    ) -> Result<Self, Failure> {
        let mut asked = Self::default();
        asked.apply(&from_environment(environment)?, |key| {
            format!("environment variable {PREFIX}{}", key.to_ascii_uppercase())
        })?;
        asked.apply(&from_token(session_token)?, |key| format!("'{key}' of the session token"))?;
        Ok(asked)
    }

    /// One source: a key given twice, or two ways to crash, contradict each other within it.
    fn apply(
        &mut self,
        requests: &[(String, String)],
        named: impl Fn(&str) -> String,
    ) -> Result<(), Failure> {
        let has = |key: &str| requests.iter().filter(|(k, _)| k == key).count();
        if has("crash_code") > 0 && has("crash_signal") > 0 {
            let (code, signal) = (named("crash_code"), named("crash_signal"));
            return Err(Failure::command_line(format!("{code} and {signal} exclude each other")));
        }
        for (key, value) in requests {
            if has(key) > 1 {
                let name = named(key);
                return Err(Failure::command_line(format!("{name} is given twice")));
            }
            self.set(key, value).map_err(|wanted| {
                let name = named(key);
                Failure::command_line(format!("{name}: '{value}' is not {wanted}"))
            })?;
        }
        Ok(())
    }

    /// Sets one switch, or says what the value should have been.
    fn set(&mut self, key: &str, value: &str) -> Result<(), &'static str> {
        match key {
            "ready_delay_ms" => self.ready_delay = millis(value)?,
            "exit_before_ready" => self.exit_before_ready = Some(code(value)?),
            "exit_delay_ms" => self.exit_delay = millis(value)?,
            "never_ready" => self.never_ready = switch(value)?,
            "fail_ratio" => self.fail_ratio = ratio(value)?,
            "silent_after_ms" => self.silent_after = Some(millis(value)?),
            "liveliness_double_slash" => self.double_slash = switch(value)?,
            "ignore_term" => self.ignore_term = switch(value)?,
            "fork_grandchild" => self.fork_grandchild = switch(value)?,
            "flood_bytes_per_sec" => {
                self.flood_bytes_per_sec = Some(value.parse().map_err(|_| "a number of bytes")?);
            }
            "disconnect_after_ms" => self.disconnect_after = Some(millis(value)?),
            "disconnect_no_exit" => self.disconnect_no_exit = switch(value)?,
            "crash_after_ms" => self.crash_after = Some(millis(value)?),
            "crash_code" => self.crash = Some(Death::Code(code(value)?)),
            "crash_signal" => self.crash = Some(Death::Signal(signal(value)?)),
            "network_version" => self.network_version = Some(value.to_owned()),
            "stream_version" => self.stream_version = Some(value.to_owned()),
            _ => return Err("for a switch the simulator knows (see --help)"),
        }
        Ok(())
    }
}

fn from_environment(
    environment: impl Iterator<Item = (OsString, OsString)>,
) -> Result<Vec<(String, String)>, Failure> {
    let mut requests = Vec::new();
    for (name, value) in environment {
        let Some(key) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)) else {
            continue;
        };
        let Some(value) = value.to_str() else {
            return Err(Failure::command_line(format!(
                "environment variable {PREFIX}{key} is not valid UTF-8"
            )));
        };
        requests.push((key.to_ascii_lowercase(), value.to_owned()));
    }
    Ok(requests)
}

fn from_token(session_token: Option<&str>) -> Result<Vec<(String, String)>, Failure> {
    let Some(requests) = session_token.and_then(|token| token.strip_prefix(TOKEN_PREFIX)) else {
        return Ok(Vec::new());
    };
    requests
        .split(',')
        .filter(|request| !request.is_empty())
        .map(|request| {
            let (key, value) = request.split_once('=').ok_or_else(|| {
                Failure::command_line(format!(
                    "'{request}' of the session token is not of the form key=value"
                ))
            })?;
            Ok((key.to_owned(), value.to_owned()))
        })
        .collect()
}

fn millis(value: &str) -> Result<Duration, &'static str> {
    let wanted = "a number of milliseconds below 2^32";
    let millis: u32 = value.parse().map_err(|_| wanted)?;
    Ok(Duration::from_millis(millis.into()))
}

fn code(value: &str) -> Result<u8, &'static str> {
    value.parse().map_err(|_| "an exit code from 0 to 255")
}

fn switch(value: &str) -> Result<bool, &'static str> {
    options::boolean(value).ok_or("a yes or no")
}

fn ratio(value: &str) -> Result<f64, &'static str> {
    let wanted = "a number from 0 to 1";
    let ratio: f64 = value.parse().map_err(|_| wanted)?;
    (0.0..=1.0).contains(&ratio).then_some(ratio).ok_or(wanted)
}

fn signal(value: &str) -> Result<Fatal, &'static str> {
    match value {
        "KILL" => Ok(Fatal::Kill),
        "SEGV" => Ok(Fatal::Segv),
        "ABRT" => Ok(Fatal::Abrt),
        _ => Err("KILL, SEGV or ABRT"),
    }
}

#[cfg(test)]
mod tests;
