//! `hatchery certs`: a CA of the farm's own, and certificates of it that state the role of their holder.

mod authority;
mod subject;
mod write;

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use self::authority::Authority;
use self::subject::{Subject, agent, front_door, metrics_reader, redis, relay};
use crate::exit::Exit;
use crate::failure::Failure;

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

/// Makes certificates for front doors, agents, relays and metrics readers, and a CA when the directory has none. What is there
/// stays, unless --renew says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --agent node-a=10.0.0.7\n  \
    hatchery certs new --dir /etc/hatchery/tls --agent node-b --agent node-c\n  \
    hatchery certs new --metrics prometheus\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --renew --days 90\n\n\
    A certificate states the role of its holder: spiffe://hatchery/frontdoor,\n\
    spiffe://hatchery/agent/NODE, spiffe://hatchery/relay/NODE, spiffe://hatchery/metrics or\n\
    spiffe://hatchery/redis. One that was made before\n\
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
    /// Relay by the name of its node (--node), and the host names and addresses that the agent's --viewer-relay may have besides; its
    /// files are NODE.relay.pem and NODE.relay.key; may be repeated
    #[arg(long = "relay", value_name = "NODE[=HOST,IP…]", value_parser = relay)]
    relays: Vec<Subject>,
    /// Metrics reader, such as Prometheus, by any name: its certificate reads metrics and nothing else; may be repeated
    #[arg(long = "metrics", value_name = "NAME", value_parser = metrics_reader)]
    metrics: Vec<Subject>,
    /// Redis server by its host name, and other names and addresses it is reached by; may be repeated
    #[arg(long = "redis", value_name = "NAME[=HOST,IP…]", value_parser = redis)]
    redis: Vec<Subject>,
    /// How long certificates are valid
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make new keys and certificates, for the names and addresses given now and no others; the CA stays
    #[arg(long)]
    renew: bool,
}

impl NewArgs {
    fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.frontdoors.iter().chain(&self.agents).chain(&self.relays).chain(&self.metrics).chain(&self.redis)
    }
}

pub(crate) fn run(args: &CertsArgs) -> Result<Exit, Failure> {
    let CertsCommand::New(args) = &args.command;
    let names: Vec<&str> = args.subjects().map(|s| s.file.as_str()).collect();
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
    report(args, &mut out)?;
    out.flush()?;
    Ok(Exit::Done)
}

/// How the roles are started with what there is now.
fn report(args: &NewArgs, out: &mut impl Write) -> io::Result<()> {
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
    for Subject { name, file, .. } in &args.relays {
        let (certificate, key) = (path(format!("{file}.pem")), path(format!("{file}.key")));
        writeln!(
            out,
            "\nrelay of {name}:\n  hatchery relay --node {name} --tls-cert {certificate} --tls-key {key} --tls-client-ca {ca}"
        )?;
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
        let flags = "--frontdoor, --agent, --relay, --metrics and --redis";
        return writeln!(
            out,
            "\nName front doors, agents, relays, metrics readers and Redis servers with {flags}."
        );
    }
    writeln!(out, "\nClients of these front doors:\n  hatchery nodes --ca {ca}")
}
