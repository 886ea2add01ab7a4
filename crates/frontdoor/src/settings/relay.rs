//! The command line of `hatchery relay`: a front door that serves viewers alone.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use access::HostOptions;
use axum::http::Uri;
use model::{NodeId, timing};

use super::config::{Config, Surface};
use super::error::ConfigError;
use super::options::{Options, PlacementOption};
use super::viewers::OwnNode;
use super::{hoops, limits, lives, proxies, viewers, webhooks};

/// Settings of a relay as the command line and the environment give them.
#[derive(Debug, Clone, clap::Args)]
pub struct RelayOptions {
    /// Address that viewers are served on
    #[arg(long, env = "HATCHERY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8090")]
    pub listen: SocketAddr,

    /// Node that this relay is on: it serves the spawns of this node alone, to front doors and relays alone, which show a certificate
    /// of --tls-client-ca; the node's agent names it with --viewer-relay
    #[arg(long, env = "HATCHERY_NODE", value_name = "NAME", requires = "tls_client_ca")]
    pub node: Option<NodeId>,

    /// URL of the agent of --node, as its --advertise has it: no registry is needed then
    #[arg(long, env = "HATCHERY_AGENT", value_name = "URL", requires = "node")]
    pub agent: Option<String>,

    /// Address that metrics and probes are served on
    #[arg(long, env = "HATCHERY_ADMIN_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:9090")]
    pub admin_listen: SocketAddr,

    /// Under which names it may be called.
    #[command(flatten)]
    pub hosts: HostOptions,

    /// The load balancers before it.
    #[command(flatten)]
    pub proxies: proxies::ProxyOptions,

    /// How viewers reach their spawns.
    #[command(flatten)]
    pub viewers: viewers::ViewerOptions,

    /// How long handshakes may go on once shutdown has begun
    #[arg(long, env = "HATCHERY_SHUTDOWN_GRACE", value_name = "DURATION", default_value = "10s",
          value_parser = humantime::parse_duration)]
    pub shutdown_grace: Duration,

    /// Most connections at once; those that are not connected to a spawn make room for others
    #[arg(long, env = "HATCHERY_MAX_CONNECTIONS", value_name = "COUNT", default_value_t = 16_384)]
    pub max_connections: usize,

    /// Memory for connections that are not connected to a spawn, for example 64MiB; by default three eighths of the memory that
    /// this process may have, at most 512MiB
    #[arg(long, env = "HATCHERY_UNAUTHENTICATED_MEMORY", value_name = "BYTES", value_parser = model::parse_bytes)]
    pub unauthenticated_memory: Option<u64>,

    /// What viewers are shown.
    #[command(flatten)]
    pub tls: tls::Options,

    /// What agents are shown.
    #[command(flatten)]
    pub agent_identity: tls::AgentOptions,
}

impl RelayOptions {
    /// Checks every setting, before any port is bound.
    ///
    /// # Errors
    /// The first setting that will not do.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let mut hosts = self.hosts;
        let own_node = match self.node {
            Some(node) => {
                // Handshakes come as viewers made them, for whatever name they have called.
                hosts.allowed_host = vec!["*".to_owned()];
                check_agent(self.agent.as_deref())?;
                Some(OwnNode { node, agent: self.agent })
            }
            None => None,
        };
        let options = Options {
            listen: self.listen,
            admin_listen: self.admin_listen,
            hosts,
            proxies: self.proxies,
            viewers: self.viewers,
            shutdown_grace: self.shutdown_grace,
            max_connections: self.max_connections,
            tls: self.tls,
            agent_identity: self.agent_identity,
            // What follows is for callers that a relay does not serve.
            spawn_deadline: timing::SPAWN_DEADLINE,
            placement: PlacementOption::Spread,
            max_waiting: 0,
            cors_origin: Vec::new(),
            lives: lives::LifeOptions::default(),
            keep_ended: timing::KEEP_ENDED,
            live_ping_interval: timing::HEARTBEAT,
            live_buffer: 1,
            limits: limits::LimitOptions {
                max_live_per_caller: None,
                max_subscriptions_per_caller: NonZeroUsize::MIN,
                max_waiting_per_caller: None,
                max_calls_per_caller: None,
                max_calls_per_second: None,
                unauthenticated_memory: self.unauthenticated_memory,
            },
            access: access::Options::default(),
            hoops: hoops::HoopsOptions::default(),
            webhooks: webhooks::WebhookOptions::default(),
        };
        options.into_config_of(Surface::Relay, own_node.as_ref())
    }
}

fn check_agent(url: Option<&str>) -> Result<(), ConfigError> {
    let Some(url) = url else { return Ok(()) };
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("https"));
    if uri.is_some_and(|uri| uri.host().is_some_and(|host| !host.is_empty())) {
        return Ok(());
    }
    let wants = "a URL such as https://node-a.example:7070".into();
    Err(ConfigError { flag: "--agent", wants, found: format!("{url:?}") })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: RelayOptions,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(std::iter::once("relay").chain(arguments.iter().copied()));
        cli.map_err(|e| e.to_string())?.options.into_config().map_err(|e| e.to_string())
    }

    #[test]
    fn a_relay_needs_tls_but_no_keys_where_others_can_reach_it() {
        assert_eq!(config(&[]).unwrap().surface, Surface::Relay);
        let error = config(&["--listen", "0.0.0.0:443"]).unwrap_err();
        assert!(
            error.contains("--listen") && error.contains("--tls-cert") && !error.contains("api-keys"),
            "{error}"
        );
        let open = config(&["--listen", "0.0.0.0:443", "--insecure"]).unwrap();
        assert_eq!(open.tls.exposed, ["--listen"]);
    }

    #[test]
    fn the_relay_of_a_node_needs_every_certificate_and_a_url_of_its_agent_by_tls() {
        let error = config(&["--node", "node-a"]).unwrap_err();
        assert!(error.contains("--tls-client-ca"), "{error}");
        let error = config(&["--node", "node-a", "--tls-client-ca", "ca.pem"]).unwrap_err();
        assert!(error.contains("--tls-cert") && error.contains("--node"), "{error}");
        let error = config(&["--agent", "https://node-a:7070"]).unwrap_err();
        assert!(error.contains("--node"), "{error}");
        for url in ["http://node-a:7070", "node-a:7070", "https://", ""] {
            let flags = ["--node", "node-a", "--tls-client-ca", "ca.pem", "--agent", url];
            let error = config(&flags).unwrap_err();
            assert!(error.contains("--agent") && error.contains("https://node-a"), "{url}: {error}");
        }
    }

    #[test]
    fn the_name_in_the_public_url_is_the_relays_own() {
        let config = config(&["--public-url", "https://viewers.example.com"]).unwrap();
        assert!(config.hosts.knows("viewers.example.com") && !config.hosts.knows("other.example.com"));
    }
}
