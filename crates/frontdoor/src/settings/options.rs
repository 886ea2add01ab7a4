//! The command line of `hatchery frontdoor`, and how it becomes a configuration. Each group of flags is checked where it is defined;
//! here is what takes two of them to judge.

use std::net::SocketAddr;
use std::time::Duration;

use access::host::{ALLOWED_HOST, HostError};
use access::{Access, HostOptions, Hosts};

use model::{Placement, timing};

use super::config::{Config, Surface};
use super::error::{ConfigError, within};
use super::exposure::{Exposure, certificates};
use super::origins::origins;
use super::viewers::OwnNode;
use super::{hoops, limits, lives, proxies, viewers, webhooks};

/// Settings of a front door as the command line and the environment give them.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Address that clients and operators are served on
    #[arg(long, env = "HATCHERY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Address that metrics and probes are served on
    #[arg(long, env = "HATCHERY_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9080")]
    pub admin_listen: SocketAddr,

    /// The longest a caller waits once a slot was taken, all attempts together
    #[arg(long, env = "HATCHERY_SPAWN_DEADLINE", value_name = "DURATION", default_value = "45s",
          value_parser = humantime::parse_duration)]
    pub spawn_deadline: Duration,

    /// Which of the suitable nodes gets a spawn: the least loaded, or the fullest that has room
    #[arg(long, env = "HATCHERY_PLACEMENT", default_value = "spread")]
    pub placement: PlacementOption,

    /// Most requests that wait in line here at once
    #[arg(
        long,
        env = "HATCHERY_MAX_WAITING",
        value_name = "COUNT",
        allow_negative_numbers = true,
        default_value_t = 1000
    )]
    pub max_waiting: usize,

    /// Origin whose pages may spawn from a browser; repeat it or separate with commas, `*` for all [default: all with --api-keys or
    /// --jwt-keys, those on this machine without]
    #[arg(long, env = "HATCHERY_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub cors_origin: Vec<String>,

    /// The load balancers before it.
    #[command(flatten)]
    pub proxies: proxies::ProxyOptions,

    /// The host names it may be called by.
    #[command(flatten)]
    pub hosts: HostOptions,

    /// How long requests may go on once shutdown has begun
    #[arg(long, env = "HATCHERY_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s",
          value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// How long records of ended spawns and operators' orders can be read, within a bound of count and bytes; of several front doors the
    /// longest counts
    #[arg(long, env = "HATCHERY_KEEP_ENDED", value_name = "DURATION", default_value = "24h",
          value_parser = humantime::parse_duration)]
    pub keep_ended: Duration,

    /// How often the live feed pings its subscribers
    #[arg(long, env = "HATCHERY_LIVE_PING_INTERVAL", value_name = "DURATION", default_value = "30s",
          value_parser = humantime::parse_duration)]
    pub live_ping_interval: Duration,

    /// Messages a subscriber of the live feed may be behind before it is sent away
    #[arg(long, env = "HATCHERY_LIVE_BUFFER", value_name = "MESSAGES", default_value_t = 1024)]
    pub live_buffer: usize,

    /// Most connections of callers at once; the longest idle make room for others
    #[arg(
        long,
        env = "HATCHERY_MAX_CONNECTIONS",
        value_name = "COUNT",
        default_value_t = 16_384,
        hide = true
    )]
    pub max_connections: usize,

    /// How viewers reach their spawns.
    #[command(flatten)]
    pub viewers: viewers::ViewerOptions,

    /// How long spawns may live.
    #[command(flatten)]
    pub lives: lives::LifeOptions,

    /// Limits of one caller.
    #[command(flatten)]
    pub limits: limits::LimitOptions,

    /// Which callers are admitted.
    #[command(flatten)]
    pub access: access::Options,

    /// The certificate that callers see.
    #[command(flatten)]
    pub tls: tls::Options,

    /// The certificate that agents see.
    #[command(flatten)]
    pub agent_identity: tls::AgentOptions,

    /// The listener that answers as the vendor's server does.
    #[command(flatten)]
    pub hoops: hoops::HoopsOptions,

    /// Where events are posted to.
    #[command(flatten)]
    pub webhooks: webhooks::WebhookOptions,
}

/// The values of `--placement`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PlacementOption {
    /// The least loaded node.
    Spread,
    /// The fullest node that has room.
    Pack,
}

impl From<PlacementOption> for Placement {
    fn from(option: PlacementOption) -> Self {
        match option {
            PlacementOption::Spread => Self::Spread,
            PlacementOption::Pack => Self::Pack,
        }
    }
}

impl Options {
    /// Checks every setting, before any port is bound.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        self.into_config_of(Surface::Whole, None)
    }

    /// The same for a front door that serves no more than this.
    pub(super) fn into_config_of(
        self,
        surface: Surface,
        own_node: Option<&OwnNode>,
    ) -> Result<Config, ConfigError> {
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(ConfigError {
                flag: "--admin-listen",
                wants: "another address than --listen".into(),
                found: self.admin_listen.to_string(),
            });
        }
        within("--spawn-deadline", self.spawn_deadline, Duration::from_millis(1), MAX_DEADLINE)?;
        within("--shutdown-grace", self.shutdown_grace, Duration::ZERO, Duration::from_secs(3600))?;
        within("--keep-ended", self.keep_ended, timing::MIN_KEEP_ENDED, timing::MAX_KEEP_ENDED)?;
        within(
            "--live-ping-interval",
            self.live_ping_interval,
            Duration::from_millis(1),
            Duration::from_secs(3600),
        )?;
        let viewers = &self.viewers;
        within(
            "--relay-ping-interval",
            viewers.relay_ping_interval,
            Duration::from_millis(1),
            Duration::from_secs(3600),
        )?;
        within("--relay-drain", viewers.relay_drain, Duration::ZERO, MAX_RELAY_DRAIN)?;
        counted("--max-waiting", self.max_waiting, 0, 100_000)?;
        counted("--live-buffer", self.live_buffer, 1, 1_000_000)?;
        counted("--max-connections", self.max_connections, 1, 1_000_000)?;
        let limits =
            self.limits.resolve(self.max_connections, self.max_waiting, self.access.is_configured())?;
        let mut exposure =
            Exposure::of(self.listen, self.admin_listen, &self.tls, self.access.is_configured(), surface)?;
        if let Some(listen) = self.hoops.hoops_listen {
            exposure.add_hoops(listen, &self.tls, self.hoops.names_owner())?;
        }
        let mut hosts = hosts(&self.hosts)?;
        if let Some(host) = viewers.public_url.as_ref().and_then(viewers::PublicUrl::host) {
            hosts.add(&host);
        }
        let access = access(&self.access, self.hoops.names_owner())?;
        let owned = self.hoops.names_owner();
        let hoops = self.hoops.resolve(hoops::Around {
            ports: [("--listen", self.listen), ("--admin-listen", self.admin_listen)],
            has_public_url: viewers.public_url.is_some(),
            access: access.as_ref(),
            limits: self.access.limits(),
            // The vendor's own default is all pages. Without an owner nothing but this machine bounds what a page does, so it must be on this
            // machine as well.
            origins: origins(&self.cors_origin, owned)?,
        })?;
        Ok(Config {
            tracer: traces::Tracer::off(),
            webhooks: self.webhooks.resolve()?,
            listen: self.listen,
            admin_listen: self.admin_listen,
            spawn_deadline: self.spawn_deadline,
            placement: self.placement.into(),
            max_waiting: self.max_waiting,
            origins: origins(&self.cors_origin, self.access.is_configured())?,
            hosts,
            trusted_proxies: self.proxies.resolve()?,
            viewers: viewers::ViewerSettings {
                public_url: viewers.public_url.clone(),
                ping_interval: viewers.relay_ping_interval,
                drain: viewers.relay_drain,
                own_node: own_node.cloned(),
            },
            lives: self.lives.resolve()?,
            surface,
            shutdown_grace: self.shutdown_grace,
            keep_ended: self.keep_ended,
            live_ping_interval: self.live_ping_interval,
            live_buffer: self.live_buffer,
            access,
            hoops,
            max_connections: self.max_connections,
            limits,
            admin_public: exposure.admin_public,
            tls: certificates(&self.tls, &self.agent_identity, exposure, surface, own_node)?,
        })
    }
}

/// The keys that admit callers. Limits are limits of owners, so they need keys, or the name of an owner.
fn access(options: &access::Options, owner_is_named: bool) -> Result<Option<Access>, ConfigError> {
    let limits = [
        ("--spawns-per-minute", options.spawns_per_minute),
        ("--concurrent-spawns", options.concurrent_spawns),
    ];
    for (flag, limit) in limits {
        if let Some(limit) = limit.filter(|_| !options.is_configured() && !owner_is_named) {
            let wants = "--api-keys or --jwt-keys beside it, as limits are those of callers".into();
            return Err(ConfigError { flag, wants, found: format!("{limit} alone") });
        }
    }
    Ok(Access::open(options)?)
}

/// A caller that waits as long as its reservation is good for would be answered with a slot that is taken back.
const MAX_DEADLINE: Duration = timing::RESERVATION.saturating_sub(Duration::from_secs(1));

/// A process that was asked to leave is not forgotten for longer.
const MAX_RELAY_DRAIN: Duration = Duration::from_secs(7 * 24 * 3600);

fn counted(flag: &'static str, found: usize, least: usize, most: usize) -> Result<(), ConfigError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    Err(ConfigError { flag, wants: format!("a number from {least} to {most}"), found: found.to_string() })
}

fn hosts(options: &HostOptions) -> Result<Hosts, ConfigError> {
    Hosts::of(options).map_err(|HostError(found)| ConfigError {
        flag: ALLOWED_HOST,
        wants: "a host name without scheme and port, such as farm.example.com, or `*`".into(),
        found: format!("{found:?}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::super::origins::Origins;
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(std::iter::once("frontdoor").chain(arguments.iter().copied()))
            .map_err(|e| e.to_string())?;
        cli.options.into_config().map_err(|e| e.to_string())
    }

    #[test]
    fn defaults_are_those_of_the_documentation() {
        let config = config(&[]).unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.admin_listen.to_string(), "127.0.0.1:9080");
        assert_eq!(config.spawn_deadline, timing::SPAWN_DEADLINE);
        assert_eq!(config.placement, Placement::Spread);
        assert_eq!((config.max_waiting, config.shutdown_grace), (1000, Duration::from_secs(10)));
        assert_eq!(config.origins, Origins::Local);
        assert_eq!(config.live_ping_interval, Duration::from_secs(30));
        assert_eq!(config.keep_ended, timing::KEEP_ENDED);
    }

    #[test]
    fn a_wrong_setting_is_refused_and_its_flag_is_named() {
        for (arguments, flag) in [
            (&["--listen", "nowhere"][..], "--listen"),
            (&["--listen", "127.0.0.1:1", "--admin-listen", "127.0.0.1:1"], "--admin-listen"),
            (&["--spawn-deadline", "soon"], "--spawn-deadline"),
            (&["--spawn-deadline", "0s"], "--spawn-deadline"),
            (&["--spawn-deadline", "60s"], "--spawn-deadline"),
            (&["--placement", "random"], "--placement"),
            (&["--max-waiting", "many"], "--max-waiting"),
            (&["--max-waiting", "100001"], "--max-waiting"),
            (&["--max-waiting", "-1"], "--max-waiting"),
            (&["--cors-origin", "example.com"], "--cors-origin"),
            (&["--cors-origin", "https://example.com/"], "--cors-origin"),
            (&["--cors-origin", "https://Example.com"], "--cors-origin"),
            (&["--allowed-host", "https://example.com"], "--allowed-host"),
            (&["--allowed-host", "example.com:8080"], "--allowed-host"),
            (&["--shutdown-grace", "2h"], "--shutdown-grace"),
            (&["--keep-ended", "59s"], "--keep-ended"),
            (&["--keep-ended", "31d"], "--keep-ended"),
            (&["--keep-ended", "long"], "--keep-ended"),
            (&["--live-ping-interval", "0s"], "--live-ping-interval"),
            (&["--live-buffer", "0"], "--live-buffer"),
            (&["--public-url", "farm.example.com"], "--public-url"),
            (&["--relay-ping-interval", "0s"], "--relay-ping-interval"),
            (&["--relay-drain", "8d"], "--relay-drain"),
            (&["--api-keys", "/nowhere/keys"], "--api-keys"),
            (&["--jwt-keys", "/nowhere/keys"], "--jwt-keys"),
            (&["--jwt-issuer", "us"], "--jwt-keys"),
            (&["--spawns-per-minute", "60"], "--spawns-per-minute"),
            (&["--concurrent-spawns", "0"], "--concurrent-spawns"),
            (&["--max-connections", "0"], "--max-connections"),
            (&["--max-live-per-caller", "0"], "--max-live-per-caller"),
            (&["--max-calls-per-second", "many"], "--max-calls-per-second"),
            (&["--unauthenticated-memory", "1KiB"], "--unauthenticated-memory"),
            (&["--webhook", "https://a"], "--webhook-secret-file"),
            (
                &["--webhook", "https://a", "--webhook-secret-file", "/nowhere/secret"],
                "--webhook-secret-file",
            ),
        ] {
            let text = config(arguments).unwrap_err();
            assert!(text.contains(flag), "{arguments:?}: {text}");
        }
    }

    #[test]
    fn origins_come_repeated_or_with_commas() {
        let config =
            config(&["--cors-origin", "https://a.example,http://b:81", "--cors-origin", "https://c"]);
        let Origins::Only(list) = config.unwrap().origins else { panic!("three origins were given") };
        assert_eq!(list, ["https://a.example", "http://b:81", "https://c"]);
    }

    #[test]
    fn every_flag_is_also_an_environment_variable() {
        for argument in Cli::command().get_arguments().filter(|a| a.get_id() != "help") {
            let flag = argument.get_long().unwrap();
            let variable = format!("HATCHERY_{}", flag.to_uppercase().replace('-', "_"));
            assert_eq!(argument.get_env().and_then(|e| e.to_str()), Some(variable.as_str()), "{flag}");
        }
    }
}
