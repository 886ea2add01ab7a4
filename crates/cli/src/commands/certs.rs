//! `hatchery certs`: a CA of the farm's own, and certificates of it that state the role of their holder.

mod authority;
mod write;

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use model::NodeId;
use tls::Role;

use crate::exit::Exit;
use crate::failure::Failure;
use authority::Authority;

/// What is made of the farm's own certificates.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --agent node-a=10.0.0.7\n  \
    hatchery certs new --dir /etc/hatchery/tls --agent node-b --agent node-c\n  \
    hatchery certs new --metrics prometheus\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --renew --days 90"
)]
pub(crate) struct CertsArgs {
    #[command(subcommand)]
    command: CertsCommand,
}

#[derive(Debug, Subcommand)]
enum CertsCommand {
    /// Make a CA, if there is none, and certificates of it
    New(NewArgs),
}

/// Makes certificates for front doors, agents and metrics readers, and a CA when the directory has none. What is there
/// stays, unless --renew says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --agent node-a=10.0.0.7\n  \
    hatchery certs new --dir /etc/hatchery/tls --agent node-b --agent node-c\n  \
    hatchery certs new --metrics prometheus\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --renew --days 90\n\n\
    A certificate states the role of its holder: spiffe://hatchery/frontdoor,\n\
    spiffe://hatchery/agent/NODE, spiffe://hatchery/metrics or spiffe://hatchery/redis. One that was made before\n\
    certificates stated roles is replaced with --renew.\n\n\
    The CA's key (ca.key) is needed to make certificates and for nothing else: keep it\n\
    away from the farm's machines. Roles that run take up new certificates by themselves.")]
struct NewArgs {
    /// Directory of the certificates
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Front door by its host name, and other names and addresses it is reached by; may be repeated
    #[arg(long = "frontdoor", value_name = "NAME[=HOST,IP…]", value_parser = front_door)]
    frontdoors: Vec<Subject>,
    /// Agent by the name of its node (--node), and the host names and addresses that its --advertise may have besides; may
    /// be repeated
    #[arg(long = "agent", value_name = "NODE[=HOST,IP…]", value_parser = agent)]
    agents: Vec<Subject>,
    /// Metrics reader, such as Prometheus, by any name: its certificate reads metrics and nothing else; may be repeated
    #[arg(long = "metrics", value_name = "NAME", value_parser = metrics_reader)]
    metrics: Vec<Subject>,
    /// Redis server by its host name, and other names and addresses it is reached by; may be repeated
    #[arg(long = "redis", value_name = "NAME[=HOST,IP…]", value_parser = redis)]
    redis: Vec<Subject>,
    /// How long certificates are good
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make new keys and certificates, for the names and addresses given now and no others; the CA stays
    #[arg(long)]
    renew: bool,
}

impl NewArgs {
    fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.frontdoors.iter().chain(&self.agents).chain(&self.metrics).chain(&self.redis)
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Names its files as well.
    pub(crate) name: String,
    /// What it is in the farm.
    pub(crate) role: Role,
    /// All that it is reached by.
    pub(crate) hosts: Vec<String>,
}

/// `NAME` or `NAME=HOST,IP`.
fn front_door(text: &str) -> Result<Subject, String> {
    server(text, Role::FrontDoor)
}

fn redis(text: &str) -> Result<Subject, String> {
    server(text, Role::Redis)
}

fn server(text: &str, role: Role) -> Result<Subject, String> {
    let (name, more) = split(text)?;
    if !is_host(name) {
        return Err(format!("expected a host name, got {name:?}"));
    }
    let hosts = [vec![name.to_owned()], hosts(more)?].concat();
    Ok(Subject { name: name.to_owned(), role, hosts })
}

/// `NODE` or `NODE=HOST,IP`. The name of a node need not be a host name.
fn agent(text: &str) -> Result<Subject, String> {
    let (name, more) = split(text)?;
    let node: NodeId = name.parse().map_err(|e| format!("the name of a node {e}"))?;
    let mut hosts = hosts(more)?;
    if is_host(name) {
        hosts.insert(0, name.to_owned());
    }
    if hosts.is_empty() {
        return Err(format!("{name:?} is no host name: add the host of --advertise, as in {name}=HOST"));
    }
    Ok(Subject { name: name.to_owned(), role: Role::Agent(node), hosts })
}

fn metrics_reader(text: &str) -> Result<Subject, String> {
    let (name, _) = split(text)?;
    if !is_host(name) || text.contains('=') {
        return Err(format!("expected a name of letters, digits, '.', '_' and '-', got {text:?}"));
    }
    Ok(Subject { name: name.to_owned(), role: Role::Metrics, hosts: Vec::new() })
}

/// The name, which names files as well, and the hosts.
fn split(text: &str) -> Result<(&str, &str), String> {
    let (name, more) = text.split_once('=').unwrap_or((text, ""));
    match name {
        "ca" => Err("ca is the CA's name".to_owned()),
        _ => Ok((name, more)),
    }
}

fn hosts(text: &str) -> Result<Vec<String>, String> {
    let one = |host: &str| match host.parse::<IpAddr>().is_ok() || is_host(host) {
        true => Ok(host.to_owned()),
        false => Err(format!("expected a host name or address, got {host:?}")),
    };
    text.split(',').filter(|host| !host.is_empty()).map(one).collect()
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Does it.
pub(crate) fn run(args: &CertsArgs) -> Result<Exit, Failure> {
    let CertsCommand::New(args) = &args.command;
    let names: Vec<&str> = args.subjects().map(|s| s.name.as_str()).collect();
    if let Some(twice) =
        names.iter().enumerate().find_map(|(at, name)| names[..at].contains(name).then_some(name))
    {
        return Err(Failure::usage(format!(
            "{twice} is named twice: every certificate has a file of its own"
        )));
    }
    fs::create_dir_all(&args.dir)
        .map_err(|e| Failure::failed(format!("--dir {} cannot be made: {e}", args.dir.display())))?;
    let mut out = io::stdout().lock();
    let authority = Authority::open_or_make(&args.dir, &mut out)?;
    for subject in args.subjects() {
        authority.certify(subject, args.days, args.renew, &mut out)?;
    }
    tell(args, &mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// How the roles are started with what there is now.
fn tell(args: &NewArgs, out: &mut impl Write) -> io::Result<()> {
    let path = |file: String| args.dir.join(file).display().to_string();
    let ca = path("ca.pem".to_owned());
    for (role, subjects) in [("frontdoor", &args.frontdoors), ("agent", &args.agents)] {
        for Subject { name, .. } in subjects {
            let (certificate, key) = (path(format!("{name}.pem")), path(format!("{name}.key")));
            writeln!(
                out,
                "\n{role} {name}:\n  hatchery {role} --tls-cert {certificate} --tls-key {key} --tls-client-ca {ca}"
            )?;
        }
    }
    for Subject { name, .. } in &args.metrics {
        let (certificate, key) = (path(format!("{name}.pem")), path(format!("{name}.key")));
        writeln!(
            out,
            "\nmetrics reader {name}, in Prometheus' tls_config:\n  ca_file: {ca}\n  cert_file: {certificate}\n  key_file: {key}"
        )?;
    }
    for Subject { name, .. } in &args.redis {
        let (certificate, key) = (path(format!("{name}.pem")), path(format!("{name}.key")));
        writeln!(
            out,
            "\nRedis {name}:\n  redis-server --port 0 --tls-port 6379 --tls-auth-clients no --tls-cert-file {certificate} \
             --tls-key-file {key} --tls-ca-cert-file {ca}"
        )?;
    }
    if args.subjects().next().is_none() {
        let flags = "--frontdoor, --agent, --metrics and --redis";
        return writeln!(out, "\nName front doors, agents, metrics readers and Redis servers with {flags}.");
    }
    writeln!(out, "\nClients of these front doors:\n  hatchery nodes --ca {ca}")
}

/// What a file is, in an error.
fn at(path: &Path, why: impl std::fmt::Display) -> Failure {
    Failure::failed(format!("{}: {why}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_its_name_and_all_it_is_reached_by() {
        let made = |made: Result<Subject, String>| made.map(|s| s.hosts.join(" "));
        for parse in [front_door, agent] {
            assert_eq!(made(parse("node-a")), Ok("node-a".into()));
            let more = made(parse("node-a=10.0.0.7,a.example,::1"));
            assert_eq!(more, Ok("node-a 10.0.0.7 a.example ::1".into()));
            for wrong in
                ["", "ca", "a/b", "../x", "a b", "10.0.0.7=/", ".", "..", "..=h", "-a", "a..b", "a=b c"]
            {
                assert!(parse(wrong).is_err(), "{wrong:?}");
            }
        }
        assert_eq!(made(metrics_reader("prometheus")), Ok(String::new()));
        for wrong in ["", "ca", "a/b", "a=10.0.0.7", "a=", "..", "*"] {
            assert!(metrics_reader(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_agent_is_named_as_its_node_which_need_not_be_a_host() {
        for (text, hosts) in [("-a.b_=host", "host"), ("a..b=10.0.0.7", "10.0.0.7"), ("A_1=h", "A_1 h")] {
            let made = agent(text).unwrap();
            let (node, _) = text.split_once('=').unwrap();
            assert_eq!(made.role.to_string(), format!("spiffe://hatchery/agent/{node}"));
            assert_eq!(made.hosts.join(" "), hosts, "{text}");
        }
        let long = format!("{}.example", "n".repeat(63));
        assert!(agent(&long).unwrap_err().contains("at most 63"), "no node has this name");
        assert!(front_door(&long).is_ok());
    }
}
