//! The flags of the listener that answers as the vendor's HOOPS Server does.

use std::net::SocketAddr;
use std::path::PathBuf;

use access::{Access, CallerLimits};
use model::Owner;

use super::error::ConfigError;
use super::origins::Origins;

/// Paths below which consumers expect the spawn that has a port.
const PREFIXES: [&str; 3] = ["wsproxy", "ws", "streaming"];
/// First parts of paths that lead elsewhere.
const RESERVED: [&str; 3] = ["api", "service", "s"];
/// Characters of a prefix.
const MAX_PREFIX: usize = 64;

/// What the command line says of it.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "HOOPS Server drop-in")]
#[group(id = "hoops")]
pub struct HoopsOptions {
    /// Address to answer on as the vendor's HOOPS Server does (`POST /service`, WebSocket proxy); its own is port 11182
    #[arg(long, env = "HATCHERY_HOOPS_LISTEN", value_name = "ADDR")]
    pub hoops_listen: Option<SocketAddr>,

    /// URL in its answers: through the relay, the node's own, or the bare port for consumers that keep nothing else [default: relay
    /// with --public-url, else direct]
    #[arg(long, env = "HATCHERY_HOOPS_ENDPOINT", value_name = "FORM")]
    pub hoops_endpoint: Option<HoopsEndpoint>,

    /// With `--hoops-endpoint port`: path below which a port leads to its spawn; repeat it or separate with commas [default: wsproxy,
    /// ws, streaming]
    #[arg(long, env = "HATCHERY_HOOPS_PORT_PREFIX", value_name = "NAME", value_delimiter = ',')]
    pub hoops_port_prefix: Vec<String>,

    /// Directory whose files it serves, such as the vendor's web viewer
    #[arg(long, env = "HATCHERY_HOOPS_FILES", value_name = "DIR")]
    pub hoops_files: Option<PathBuf>,

    /// Owner of what it spawns, and whose limits count: the id or name of an API key, or any other name
    #[arg(long, env = "HATCHERY_HOOPS_OWNER", value_name = "NAME")]
    pub hoops_owner: Option<String>,
}

/// The URL in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum HoopsEndpoint {
    /// The spawn's URL below `--public-url`.
    Relay,
    /// The spawn's own, as its agent says.
    Direct,
    /// Host and port of the spawn; the listener leads from the port to the spawn.
    Port,
}

impl HoopsEndpoint {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Relay => "relay",
            Self::Direct => "direct",
            Self::Port => "port",
        }
    }
}

/// How the listener answers.
#[derive(Debug, Clone, PartialEq)]
pub struct HoopsSettings {
    /// Address of the listener (`--hoops-listen`).
    pub listen: SocketAddr,
    /// The URL in its answers.
    pub endpoint: HoopsEndpoint,
    /// First parts of paths whose second part is a port; in lower case.
    pub port_prefixes: Vec<String>,
    /// The directory whose files it serves.
    pub files: Option<PathBuf>,
    /// The owner of what it spawns.
    pub owner: Option<Owner>,
    /// The owner's limits where no key says more.
    pub limits: CallerLimits,
    /// Pages that may call it from a browser.
    pub origins: Origins,
}

impl HoopsOptions {
    /// Whether an owner is named, so that limits of owners count even where no caller has a key.
    pub(super) fn names_owner(&self) -> bool {
        self.hoops_owner.is_some()
    }

    /// Checks the flags; `None` without `--hoops-listen`.
    ///
    /// # Errors
    /// The first setting that is wrong.
    pub(super) fn resolve(self, around: Around<'_>) -> Result<Option<HoopsSettings>, ConfigError> {
        let Some(listen) = self.hoops_listen else {
            self.refuse_alone()?;
            return Ok(None);
        };
        for (flag, other) in around.ports {
            if listen == other && listen.port() != 0 {
                let wants = format!("another address than {flag}");
                return Err(ConfigError { flag: "--hoops-listen", wants, found: listen.to_string() });
            }
        }
        let default = if around.has_public_url { HoopsEndpoint::Relay } else { HoopsEndpoint::Direct };
        let endpoint = self.hoops_endpoint.unwrap_or(default);
        if endpoint == HoopsEndpoint::Relay && !around.has_public_url {
            return Err(ConfigError {
                flag: "--hoops-endpoint",
                wants: "--public-url beside `relay`".into(),
                found: "`relay` without it".into(),
            });
        }
        if let Some(files) = self.hoops_files.as_ref().filter(|files| !files.is_dir()) {
            return Err(ConfigError {
                flag: "--hoops-files",
                wants: "a directory".into(),
                found: files.display().to_string(),
            });
        }
        let owner = self.hoops_owner.map(|name| owner(&name, &around)).transpose()?;
        Ok(Some(HoopsSettings {
            listen,
            endpoint,
            port_prefixes: prefixes(&self.hoops_port_prefix)?,
            files: self.hoops_files,
            owner,
            limits: around.limits,
            origins: around.origins,
        }))
    }

    /// A flag that counts for nothing is a mistake.
    fn refuse_alone(&self) -> Result<(), ConfigError> {
        let endpoint = self.hoops_endpoint.map(|endpoint| endpoint.as_str().to_owned());
        let prefixes = (!self.hoops_port_prefix.is_empty()).then(|| self.hoops_port_prefix.join(","));
        let files = self.hoops_files.as_ref().map(|files| files.display().to_string());
        for (flag, given) in [
            ("--hoops-endpoint", endpoint),
            ("--hoops-port-prefix", prefixes),
            ("--hoops-files", files),
            ("--hoops-owner", self.hoops_owner.clone()),
        ] {
            if let Some(given) = given {
                let wants = "--hoops-listen beside it".into();
                return Err(ConfigError { flag, wants, found: format!("{given:?} alone") });
            }
        }
        Ok(())
    }
}

/// The other settings that these depend on.
#[derive(Debug)]
pub(super) struct Around<'a> {
    /// The other ports of the process, with their flags.
    pub(super) ports: [(&'static str, SocketAddr); 2],
    pub(super) has_public_url: bool,
    pub(super) access: Option<&'a Access>,
    pub(super) limits: CallerLimits,
    pub(super) origins: Origins,
}

/// The owner of this name: that of the API key with this id or name, if there is one.
fn owner(name: &str, around: &Around<'_>) -> Result<Owner, ConfigError> {
    if let Some(owner) = around.access.and_then(|access| access.owner_named(name)) {
        return Ok(owner);
    }
    if around.access.is_some() && around.limits == CallerLimits::default() {
        tracing::warn!(
            owner = name,
            "--hoops-owner is neither the id nor the name of an API key, and neither --concurrent-spawns nor --spawns-per-minute limits it: \
             every caller that reaches --hoops-listen may fill the farm"
        );
    }
    name.parse().map_err(|error| ConfigError {
        flag: "--hoops-owner",
        wants: "1 to 255 visible ASCII characters".into(),
        found: format!("{name:?}, which {error}"),
    })
}

fn prefixes(given: &[String]) -> Result<Vec<String>, ConfigError> {
    if given.is_empty() {
        return Ok(PREFIXES.map(ToOwned::to_owned).to_vec());
    }
    given.iter().map(|text| prefix(text)).collect()
}

fn prefix(text: &str) -> Result<String, ConfigError> {
    let name = text.trim_matches('/').to_ascii_lowercase();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let good = (1..=MAX_PREFIX).contains(&name.len()) && name.chars().all(is_plain);
    if good && !RESERVED.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(ConfigError {
        flag: "--hoops-port-prefix",
        wants: format!(
            "one part of a path of letters, digits, `-` and `_`, such as wsproxy, and none of {}",
            RESERVED.join(", ")
        ),
        found: format!("{text:?}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::config::Config;
    use super::super::options::Options as FrontDoorOptions;
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: FrontDoorOptions,
    }

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let cli = Cli::try_parse_from(std::iter::once("frontdoor").chain(arguments.iter().copied()));
        cli.map_err(|e| e.to_string())?.options.into_config().map_err(|e| e.to_string())
    }

    fn hoops(arguments: &[&str]) -> HoopsSettings {
        let listen = ["--hoops-listen", "127.0.0.1:11182"];
        config(&[&listen[..], arguments].concat()).unwrap().hoops.unwrap()
    }

    #[test]
    fn without_an_address_nothing_answers_as_the_vendors_server_does() {
        assert_eq!(config(&[]).unwrap().hoops, None);
        for (flag, value) in [
            ("--hoops-endpoint", "port"),
            ("--hoops-port-prefix", "ws"),
            ("--hoops-files", "."),
            ("--hoops-owner", "web"),
        ] {
            let error = config(&[flag, value]).unwrap_err();
            assert!(error.contains(flag) && error.contains("--hoops-listen"), "{error}");
        }
    }

    #[test]
    fn the_endpoint_is_the_relays_where_there_is_one() {
        assert_eq!(hoops(&[]).endpoint, HoopsEndpoint::Direct);
        let public = ["--public-url", "https://farm.example.com"];
        assert_eq!(hoops(&public).endpoint, HoopsEndpoint::Relay);
        assert_eq!(
            hoops(&[&public[..], &["--hoops-endpoint", "port"]].concat()).endpoint,
            HoopsEndpoint::Port
        );
        let error = config(&["--hoops-listen", "127.0.0.1:1", "--hoops-endpoint", "relay"]).unwrap_err();
        assert!(error.contains("--hoops-endpoint") && error.contains("--public-url"), "{error}");
    }

    #[test]
    fn prefixes_come_repeated_or_with_commas_and_lead_nowhere_else() {
        assert_eq!(hoops(&[]).port_prefixes, ["wsproxy", "ws", "streaming"]);
        let given = ["--hoops-port-prefix", "Viewers,/wss/", "--hoops-port-prefix", "a_b-1"];
        assert_eq!(hoops(&given).port_prefixes, ["viewers", "wss", "a_b-1"]);
        for wrong in ["", "a/b", "api", "S", "service", "a b", "%77s", "é"] {
            let error = config(&["--hoops-listen", "127.0.0.1:1", "--hoops-port-prefix", wrong]);
            let error = error.unwrap_err();
            assert!(error.contains("--hoops-port-prefix"), "{wrong}: {error}");
        }
    }

    #[test]
    fn it_stays_on_this_machine_unless_its_spawns_have_an_owner() {
        let error = config(&["--hoops-listen", "0.0.0.0:11182"]).unwrap_err();
        assert!(error.contains("--hoops-listen") && error.contains("--hoops-owner"), "{error}");
        let owned = config(&["--hoops-listen", "0.0.0.0:11182", "--hoops-owner", "web"]).unwrap();
        assert!(owned.tls.exposed.is_empty());
        assert_eq!(owned.hoops.unwrap().owner.unwrap().as_str(), "web");
        let open = config(&["--hoops-listen", "0.0.0.0:11182", "--insecure"]).unwrap();
        assert_eq!(open.tls.exposed, ["--hoops-listen"]);
    }

    #[test]
    fn limits_of_an_owner_need_no_keys() {
        let limits = hoops(&["--hoops-owner", "web", "--concurrent-spawns", "3"]).limits;
        assert_eq!(limits.concurrent.unwrap().get(), 3);
        for (arguments, flag) in [
            (&["--hoops-owner", "two words"][..], "--hoops-owner"),
            (&["--hoops-files", "/nowhere/at/all"], "--hoops-files"),
            (&["--listen", "127.0.0.1:11182"], "--hoops-listen"),
            (&["--admin-listen", "127.0.0.1:11182"], "--hoops-listen"),
            (&["--hoops-endpoint", "both"], "--hoops-endpoint"),
        ] {
            let all = [&["--hoops-listen", "127.0.0.1:11182"][..], arguments].concat();
            let error = config(&all).unwrap_err();
            assert!(error.contains(flag), "{arguments:?}: {error}");
        }
    }
}
