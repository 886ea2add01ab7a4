//! The flags that several commands share, and how their values are read.
//!
//! A command takes the groups that it needs and flattens them into its own flags. What is given twice, before the command and after it,
//! counts as it stands after it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use hyper::header::HeaderValue;
use model::api::SpawnRequest;
use model::tags::{Tag, collect_tags};
use model::{ExitReason, OrderKind, RendererType, SpawnState};

use crate::failure::Failure;
use crate::server::Server;

/// How long a request may wait in line at most.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Names the front door for every command that talks to one.
const SERVER_VARIABLE: &str = "HATCHERY_SERVER";
const DEFAULT_SERVER: &str = "http://127.0.0.1:8080";

/// Flags that may also stand before the command, if it is one that talks to a front door.
#[derive(Debug, Clone, Args)]
pub(crate) struct Before {
    /// The front door that the command talks to
    #[arg(long, value_name = "URL", help_heading = "Front door")]
    pub(crate) server: Option<Server>,
    /// Print the front door's JSON instead of a table
    #[arg(long, help_heading = "Front door")]
    pub(crate) json: bool,
    /// File with the API key or token to call with
    #[arg(long, value_name = "FILE", help_heading = "Front door")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificates of the CA to trust
    #[arg(long, value_name = "FILE", help_heading = "Front door")]
    pub(crate) ca: Option<PathBuf>,
}

impl Before {
    /// Whether none was given.
    pub(crate) fn is_empty(&self) -> bool {
        let Self { server, json, token_file, ca } = self;
        server.is_none() && !json && token_file.is_none() && ca.is_none()
    }
}

/// Flags of every command that talks to a front door.
#[derive(Debug, Clone, Args)]
pub(crate) struct ClientFlags {
    /// The front door to talk to [env: HATCHERY_SERVER] [default: http://127.0.0.1:8080]
    #[arg(long, value_name = "URL", help_heading = "Front door")]
    pub(crate) server: Option<Server>,
    /// Print the front door's JSON instead of a table
    #[arg(long, help_heading = "Front door")]
    pub(crate) json: bool,
    /// File whose first line is the API key or token to call with; read again when it changes [env: HATCHERY_TOKEN_FILE, or
    /// HATCHERY_TOKEN with the token itself]
    #[arg(long, value_name = "FILE", help_heading = "Front door")]
    pub(crate) token_file: Option<PathBuf>,
    /// File with the certificates (PEM) of the CA that front doors have theirs from [env: HATCHERY_CA] [default: the
    /// authorities this system trusts]
    #[arg(long, value_name = "FILE", help_heading = "Front door")]
    pub(crate) ca: Option<PathBuf>,
    /// Give up on an answer after this time [default: 10s, or as long as a spawn may take]
    #[arg(long, value_name = "DURATION", value_parser = time, help_heading = "Front door")]
    pub(crate) timeout: Option<Duration>,
}

impl ClientFlags {
    /// The front door to talk to: the flag after the command, the one before it, the environment, or the one that runs on
    /// this machine.
    pub(crate) fn server(&self, before: &Before) -> Result<Server, Failure> {
        if let Some(server) = self.server.as_ref().or(before.server.as_ref()) {
            return Ok(server.clone());
        }
        match std::env::var_os(SERVER_VARIABLE) {
            Some(text) if !text.is_empty() => text
                .to_string_lossy()
                .parse()
                .map_err(|why| Failure::usage(format!("invalid {SERVER_VARIABLE}: {why}"))),
            _ => DEFAULT_SERVER.parse().map_err(Failure::usage),
        }
    }

    /// The file with the API key or token, if a flag names one.
    pub(crate) fn token_file<'a>(&'a self, before: &'a Before) -> Option<&'a Path> {
        self.token_file.as_deref().or(before.token_file.as_deref())
    }

    /// The file with the CA, if a flag names one.
    pub(crate) fn ca<'a>(&'a self, before: &'a Before) -> Option<&'a Path> {
        self.ca.as_deref().or(before.ca.as_deref())
    }
}

/// Whether a flag or the environment names a front door.
pub(crate) fn names_server(flags: &ClientFlags, before: &Before) -> bool {
    let variable = || std::env::var_os(SERVER_VARIABLE).is_some_and(|text| !text.is_empty());
    flags.server.is_some() || before.server.is_some() || variable()
}

/// Where nodes, reservations and spawns are kept.
#[derive(Debug, Args)]
pub(crate) struct RegistryFlags {
    /// A URL of Redis.
    #[arg(
        long,
        help = "Where the farm's state is kept: redis://[user:password@]host[:port][/db], or with rediss://, \
                redis-sentinel://…/MASTER, redis-cluster://…",
        env = "HATCHERY_REGISTRY",
        default_value = "redis://127.0.0.1:6379",
        hide_env_values = true,
        value_name = "URL",
        help_heading = "Registry"
    )]
    pub(crate) registry: String,
    /// File with the password of Redis, which a URL on the command line would show to every user of this machine
    #[arg(long, env = "HATCHERY_REGISTRY_PASSWORD_FILE", value_name = "FILE", help_heading = "Registry")]
    pub(crate) registry_password_file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) farm: FarmFlag,
}

/// Which of the farms that share a registry.
#[derive(Debug, Args)]
pub(crate) struct FarmFlag {
    /// The farm's name; several farms can share one registry
    #[arg(
        long,
        env = "HATCHERY_FARM",
        default_value = "default",
        value_name = "NAME",
        help_heading = "Registry"
    )]
    pub(crate) farm: String,
}

/// What is logged, and how; always to standard error.
#[derive(Debug, Args)]
pub(crate) struct LogFlags {
    /// How log lines are written
    #[arg(
        long,
        env = "HATCHERY_LOG_FORMAT",
        value_enum,
        default_value = "text",
        value_name = "FORMAT",
        help_heading = "Logging"
    )]
    pub(crate) log_format: LogFormat,
    /// What is logged: a level, or a filter such as `warn,agent=debug`
    #[arg(
        long = "log",
        env = "HATCHERY_LOG",
        default_value = "info",
        value_name = "FILTER",
        help_heading = "Logging"
    )]
    pub(crate) filter: String,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What `POST /spawn` is asked for.
#[derive(Debug, Args)]
#[command(next_help_heading = "Spawn")]
pub(crate) struct SpawnFlags {
    /// Where the picture is rendered
    #[arg(long, value_name = "TYPE", value_parser = renderer())]
    pub(crate) renderer: Option<RendererType>,
    /// Model that overrides what the viewer asks for, relative to the node's model directories
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Option<String>,
    /// Pool the node must belong to
    #[arg(long, value_name = "NAME")]
    pub(crate) pool: Option<String>,
    /// Label the node must carry; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = label)]
    pub(crate) labels: Vec<String>,
    /// Tag to find the spawn by, your own text; may be repeated
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Tag>,
    /// Token the viewer must present to the spawned server
    #[arg(long, value_name = "TOKEN")]
    pub(crate) session_token: Option<String>,
    /// Wait in line this long when the farm is full, at most 60s [default: do not wait]
    #[arg(long, value_name = "DURATION", value_parser = wait)]
    pub(crate) wait: Option<Duration>,
    /// End the spawn this long after its start [default: what the operator allows]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) max_life: Option<Duration>,
}

impl SpawnFlags {
    /// The body of the request.
    pub(crate) fn request(&self) -> Result<SpawnRequest, Failure> {
        let labels = model::node::collect_labels(self.labels.iter().map(String::as_str))
            .map_err(|why| Failure::usage(format!("invalid --label: {why}")))?;
        let tags = collect_tags(self.tags.iter().cloned())
            .map_err(|why| Failure::usage(format!("invalid --tag: {why}")))?;
        Ok(SpawnRequest {
            renderer_type: self.renderer,
            model: self.model.clone(),
            session_token: self.session_token.clone(),
            pool: self.pool.clone(),
            labels: (!labels.is_empty()).then_some(labels),
            tags: (!tags.is_empty()).then_some(tags),
            wait_seconds: self.wait.map(|w| u32::try_from(w.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)),
            max_seconds: self
                .max_life
                .map(|life| u32::try_from(life.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)),
        })
    }

    /// How long an answer may take before something is wrong with the front door.
    pub(crate) fn timeout(&self) -> Duration {
        self.wait.unwrap_or_default() + model::timing::SPAWN_DEADLINE + Duration::from_secs(10)
    }
}

/// `30s`, `5m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("expected a duration such as 30s or 5m: {e}"))
}

/// A duration that is not zero.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be longer than 0s".to_owned()),
        time => Ok(time),
    }
}

fn wait(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        wait if wait > MAX_WAIT => Err("must be at most 60s".to_owned()),
        wait => Ok(wait),
    }
}

fn label(text: &str) -> Result<String, String> {
    model::node::parse_label(text).map(|_| text.to_owned())
}

pub(crate) fn renderer() -> impl TypedValueParser<Value = RendererType> {
    PossibleValuesParser::new(["csr", "ssr"]).try_map(|word| word.parse::<RendererType>())
}

/// A state by its word.
pub(crate) fn state() -> impl TypedValueParser<Value = SpawnState> {
    PossibleValuesParser::new(SpawnState::ALL.iter().map(|s| s.as_str()))
        .try_map(|word| word.parse::<SpawnState>())
}

/// An exit reason by its word.
pub(crate) fn reason() -> impl TypedValueParser<Value = ExitReason> {
    PossibleValuesParser::new(ExitReason::ALL.iter().map(|reason| reason.as_str()))
        .try_map(|word| word.parse::<ExitReason>())
}

/// An operator's order by its word.
pub(crate) fn order() -> impl TypedValueParser<Value = OrderKind> {
    PossibleValuesParser::new(OrderKind::ALL.iter().map(|order| order.as_str()))
        .try_map(|word| word.parse::<OrderKind>())
}

/// What may be an idempotency key.
pub(crate) fn idempotency_key(text: &str) -> Result<HeaderValue, String> {
    let good = (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    HeaderValue::from_str(text)
        .ok()
        .filter(|_| good)
        .ok_or_else(|| "must be 1 to 255 visible ASCII characters".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_become_the_body_and_a_wait_is_rounded_up_to_seconds() {
        let flags = SpawnFlags {
            renderer: None,
            model: None,
            pool: None,
            labels: vec!["a=1".into(), "b=".into()],
            tags: vec!["user=a,b=c".parse().unwrap()],
            session_token: None,
            wait: Some(Duration::from_millis(1500)),
            max_life: Some(Duration::from_millis(2001)),
        };
        let request = flags.request().unwrap();
        assert_eq!((request.wait_seconds, request.max_seconds), (Some(2), Some(3)));
        assert_eq!(request.labels.unwrap().len(), 2);
        assert_eq!(request.tags.unwrap()["user"], "a,b=c", "a comma belongs to the value");
    }
}
