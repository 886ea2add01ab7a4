//! What other machines can reach must be kept: who calls has to say who he is, and nobody reads along.

use super::config::Tls;
use super::options::{ConfigError, Options};

/// Which ports other machines can reach.
#[derive(Debug)]
pub(crate) struct Exposure {
    pub(crate) admin_public: bool,
    /// Flags of those that are not kept as they should be.
    exposed: Vec<&'static str>,
}

impl Exposure {
    /// # Errors
    /// A port would be open to others, and nothing says that this is meant.
    pub(crate) fn of(options: &Options) -> Result<Self, ConfigError> {
        let mut exposed = Vec::new();
        let mut open = |flag, wants: &str, found: String| {
            exposed.push(flag);
            if options.tls.insecure {
                return Ok(());
            }
            let wants = format!("{wants} where other machines can reach it (or --insecure, to do without)");
            Err(ConfigError { flag, wants, found })
        };
        let secure = options.tls.tls_cert.is_some();
        let missing = match (options.access.is_configured(), secure) {
            (true, true) => None,
            (true, false) => Some("without TLS"),
            (false, true) => Some("without authentication"),
            (false, false) => Some("without either"),
        };
        if let (true, Some(missing)) = (tls::is_beyond_this_machine(options.listen), missing) {
            let wants = "authentication (--api-keys or --jwt-keys) and TLS (--tls-cert and --tls-key)";
            open("--listen", wants, format!("{} {missing}", options.listen))?;
        }
        let admin_public = tls::is_beyond_this_machine(options.admin_listen);
        if admin_public && !secure {
            let found = format!("{} without it", options.admin_listen);
            open("--admin-listen", "TLS (--tls-cert and --tls-key)", found)?;
        }
        Ok(Self { admin_public, exposed })
    }
}

/// Reads every certificate that a flag names.
pub(crate) fn certificates(options: &Options, exposure: Exposure) -> Result<Tls, ConfigError> {
    let identity = options.tls.identity();
    let server = |identity| tls::Server::open(identity, tls::Callers::Anyone, tls::HTTP1);
    let http = identity.clone().map(server).transpose()?;
    let admin = match (&identity, options.tls.client_ca()) {
        (Some(identity), Some(ca)) if exposure.admin_public => {
            Some(tls::Server::open(identity.clone(), tls::Callers::MayReadMetrics(ca), tls::HTTP1)?)
        }
        _ => http.clone().filter(|_| exposure.admin_public),
    };
    let agent_identity = options.agent_identity.identity();
    let agents = match options.tls.client_ca() {
        Some(ca) => {
            let Some(identity) = agent_identity.or(identity) else {
                return Err(ConfigError {
                    flag: "--tls-client-ca",
                    wants: "a certificate to show to agents (--agent-tls-cert or --tls-cert)".into(),
                    found: "none".into(),
                });
            };
            let identity = identity.stating(tls::Role::FrontDoor);
            Some(tls::Client::open(tls::Roots::File(ca), Some(identity), tls::HTTP2)?)
        }
        None if agent_identity.is_some() => {
            return Err(ConfigError {
                flag: "--agent-tls-cert",
                wants: "the CA of the agents that it is shown to (--tls-client-ca)".into(),
                found: "none".into(),
            });
        }
        None => None,
    };
    Ok(Tls { http, admin, agents, exposed: exposure.exposed })
}

impl From<tls::TlsError> for ConfigError {
    fn from(error: tls::TlsError) -> Self {
        Self { flag: error.flag, wants: error.wants.into_owned(), found: error.found }
    }
}
