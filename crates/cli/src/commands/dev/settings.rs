//! The configuration of each part of the farm, made from the flags and checked before anything starts.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use clap::Parser;
use model::Timing;
use registry::Registry;
use tempfile::TempDir;

use super::args::DevArgs;
use super::stand_in;
use crate::commands::role;
use crate::failure::Failure;

/// The ports that all nodes share.
const FIRST_PORT: u16 = 55_000;
const PORTS: u16 = 1000;
/// Where metrics are, unless something else is there.
const ADMIN: SocketAddr = loopback(9080);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Everything that was decided before anything is started.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) door: ::frontdoor::Config,
    pub(crate) agents: Vec<::agent::Config>,
    /// Where the farm's state is kept.
    pub(crate) registry: Registry,
    /// What is started for a spawn.
    pub(crate) executable: PathBuf,
    /// Whether that is the simulated server.
    pub(crate) simulated: bool,
    /// Logs, state and links; gone when this is dropped.
    _scratch: TempDir,
}

impl Settings {
    /// Checks everything, and prepares the scratch directory.
    pub(crate) fn prepare(args: &DevArgs) -> Result<Self, Failure> {
        let share = PORTS / args.nodes;
        if args.slots > u32::from(share) {
            return Err(Failure::usage(format!(
                "invalid --slots: expected at most {share} with {} nodes, which share {PORTS} ports, got {}",
                args.nodes, args.slots
            )));
        }
        if tls::is_beyond_this_machine(args.listen) && !args.insecure {
            return Err(Failure::usage(format!(
                "invalid --listen: it needs --insecure where other machines can reach it, as they can {}",
                args.listen
            )));
        }
        let door = door(args)?;
        let timing = Timing { history: args.keep_ended, ..Timing::FARM };
        let registry =
            Registry::open(&args.registry, &args.farm.farm, timing).map_err(|e| role::wrong(&e))?;
        let scratch = tempfile::Builder::new()
            .prefix("hatchery-dev-")
            .tempdir()
            .map_err(|e| Failure::failed(format!("cannot make a scratch directory: {e}")))?;
        let simulated = args.executable.is_none();
        let executable = match &args.executable {
            Some(file) => existing("--executable", file)?,
            None => stand_in::find(scratch.path())
                .map_err(|e| Failure::failed(format!("cannot find the simulated server: {e}")))?,
        };
        let license = match &args.license_file {
            Some(file) => existing("--license-file", file)?,
            None => {
                let file = scratch.path().join("license");
                fs::write(&file, "simulated\n")
                    .map_err(|e| Failure::failed(format!("cannot write {}: {e}", file.display())))?;
                file
            }
        };
        let model_dirs =
            args.model_dirs.iter().map(|dir| existing("--model-dir", dir)).collect::<Result<Vec<_>, _>>()?;
        let agents = (0..args.nodes)
            .map(|index| {
                let name = node_name(index);
                let node = name.parse().map_err(|e| role::wrong(&e))?;
                let first = FIRST_PORT + index * share;
                let launcher = ::agent::Launcher::Executable(executable.clone());
                let defaults = ::agent::Config::new(node, launcher, scratch.path().join(&name));
                let config = ::agent::Config {
                    listen: loopback(0),
                    admin_listen: loopback(0),
                    liveliness_listen: loopback(0),
                    model_dirs: model_dirs.clone(),
                    license_file: Some(license.clone()),
                    ports: first..=first + (share - 1),
                    slots: args.slots,
                    starts: args.starts.unwrap_or(defaults.starts),
                    warm: args.warm.iter().copied().collect(),
                    warm_age: args.warm_age,
                    env: args.env.clone(),
                    args: args.args.clone(),
                    ready_timeout: args.ready_timeout,
                    keep_ended: args.keep_ended,
                    on_shutdown: ::agent::OnShutdown::Kill,
                    trusts_spawns: true,
                    ..defaults
                };
                config.check().map_err(|e| role::wrong(&e))?;
                Ok(config)
            })
            .collect::<Result<Vec<_>, Failure>>()?;
        Ok(Self { door, agents, registry, executable, simulated, _scratch: scratch })
    }
}

/// `node-a`, `node-b`, …
fn node_name(index: u16) -> String {
    let letter = ('a'..='z').nth(usize::from(index)).unwrap_or('z');
    format!("node-{letter}")
}

/// The defaults of `hatchery frontdoor` and its environment, with these addresses.
fn door(args: &DevArgs) -> Result<::frontdoor::Config, Failure> {
    /// As much of the command line as a front door's options need.
    #[derive(Parser)]
    struct Door {
        #[command(flatten)]
        options: ::frontdoor::Options,
    }
    let (listen, insecure) = (args.listen, args.insecure);
    let admin = if listen.port() == ADMIN.port() { loopback(0) } else { ADMIN };
    let (listen, admin) = (listen.to_string(), admin.to_string());
    let keep_ended = humantime::format_duration(args.keep_ended).to_string();
    let line = ["frontdoor", "--listen", &listen, "--admin-listen", &admin, "--keep-ended", &keep_ended];
    let line = line.into_iter().chain(insecure.then_some("--insecure"));
    let door = Door::try_parse_from(line).map_err(|e| Failure::usage(e.to_string()))?;
    let mut config = door.options.into_config().map_err(|e| role::wrong(&e))?;
    // Viewers come through the front door, as on a farm that has one port, and go with everything else.
    config.viewers.public_url.get_or_insert(::frontdoor::PublicUrl::Listener);
    config.viewers.drain = Duration::ZERO;
    Ok(config)
}

fn existing(flag: &str, path: &Path) -> Result<PathBuf, Failure> {
    let wrong = |why: String| Failure::usage(format!("invalid {flag} {}: {why}", path.display()));
    let path = absolute(path).map_err(|e| wrong(e.to_string()))?;
    fs::metadata(&path).map_err(|e| wrong(e.to_string()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_named_by_letters() {
        assert_eq!([0, 1, 25].map(node_name), ["node-a", "node-b", "node-z"]);
    }
}
