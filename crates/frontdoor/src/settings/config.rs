//! Settings after every check. [`crate::Options::into_config`] makes a [`Config`] from the command line; tests make their own.

use std::net::SocketAddr;
use std::time::Duration;

use access::{Access, Hosts};
use model::Placement;
use traces::Tracer;

use super::limits::Limits;
use super::lives::Lives;
use super::origins::Origins;
use super::proxies::TrustedProxies;
use super::webhooks::WebhookSettings;
use super::{hoops, viewers};

/// Settings of one front door.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients and operators are served.
    pub listen: SocketAddr,
    /// Where metrics and probes are served.
    pub admin_listen: SocketAddr,
    /// The longest a caller waits once a slot was taken; all attempts on all nodes together.
    pub spawn_deadline: Duration,
    /// Which of the suitable nodes gets a spawn.
    pub placement: Placement,
    /// Most requests that wait in line here at once.
    pub max_waiting: usize,
    /// Pages that may call `/spawn` and its kin from a browser.
    pub origins: Origins,
    /// The names under which this front door may be called.
    pub hosts: Hosts,
    /// Load balancers that are believed when they say who a caller is.
    pub trusted_proxies: TrustedProxies,
    /// How long requests may go on once shutdown has begun.
    pub shutdown_grace: Duration,
    /// How long records of ended spawns and operators' orders can be read: the registry is opened with it.
    pub keep_ended: Duration,
    /// How often the live feed pings its subscribers.
    pub live_ping_interval: Duration,
    /// Messages a subscriber of the live feed may be behind.
    pub live_buffer: usize,
    /// How long spawns may live.
    pub lives: Lives,
    /// How viewers reach spawns through here.
    pub viewers: viewers::ViewerSettings,
    /// The listener that answers as the vendor's HOOPS Server does; `None`: there is none.
    pub hoops: Option<hoops::HoopsSettings>,
    /// Whether everything is served, or the relay of viewers alone.
    pub surface: Surface,
    /// The keys that admit callers; `None`: every caller is admitted without a credential.
    pub access: Option<Access>,
    /// Most connections of callers at once.
    pub max_connections: usize,
    /// Limits of one caller.
    pub limits: Limits,
    /// TLS of both ports and of calls to agents.
    pub tls: Tls,
    /// Whether other machines can reach the admin port.
    pub admin_public: bool,
    /// Where events are posted to; `None`: nowhere.
    pub webhooks: Option<WebhookSettings>,
    /// What records traces, if they are recorded.
    pub tracer: Tracer,
}

/// What a front door serves on its port for callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// The API, the pages, the live feed, the relay of viewers and the probes.
    Whole,
    /// The way of viewers to their spawns, and the probes.
    Relay,
}

/// TLS of a front door; by default there is none.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// For callers; at the relay of a node, for front doors and relays, which must show a certificate of the farm.
    pub http: Option<tls::Server>,
    /// For the admin port.
    pub admin: Option<tls::Server>,
    /// For agents, which must show a certificate of the farm. `None`: calls to agents are in the clear.
    pub agents: Option<tls::Client>,
    /// For relays of nodes, which must show the certificate of the node's relay. `None`: they cannot be reached.
    pub relays: Option<tls::Client>,
    /// Flags of ports that other machines can reach without protection: the operator said `--insecure`.
    pub exposed: Vec<&'static str>,
}
