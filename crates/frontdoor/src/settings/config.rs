//! What a front door is told, checked and typed. [`crate::Options`] makes one from the command line.

use std::net::SocketAddr;
use std::time::Duration;

use access::{Access, Hosts};
use axum::http::HeaderValue;
use model::Placement;

use super::limits::Limits;

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
    /// How long requests may go on once shutdown has begun.
    pub shutdown_grace: Duration,
    /// How often the live feed pings its subscribers.
    pub live_ping_interval: Duration,
    /// Messages a subscriber of the live feed may be behind.
    pub live_buffer: usize,
    /// Who is let in; everybody when there is nothing.
    pub access: Option<Access>,
    /// Most connections of callers at once.
    pub max_connections: usize,
    /// How much of it one caller may take.
    pub limits: Limits,
    /// How connections are kept from others' eyes and hands.
    pub tls: Tls,
    /// Whether other machines can reach the admin port.
    pub admin_public: bool,
}

/// TLS of a front door; by default there is none.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// For callers.
    pub http: Option<tls::Server>,
    /// For the admin port.
    pub admin: Option<tls::Server>,
    /// For agents, who must be those of the farm. Without it they are talked to in the clear.
    pub agents: Option<tls::Client>,
    /// Flags of ports that others can reach and are not kept as they should be: the operator wants it so.
    pub exposed: Vec<&'static str>,
}

/// Pages that may call from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// All of them.
    Any,
    /// Those on this machine, under whatever local name and port.
    Local,
    /// Those of these origins, each `scheme://host[:port]`.
    Only(Vec<HeaderValue>),
}
