//! `hatchery certs`: a CA of the farm's own, and what its front doors and agents show each other.

mod authority;
mod write;

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::failure::Failure;
use authority::{Authority, Purpose};

/// What is made of the farm's own certificates.
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --agent node-a=10.0.0.7\n  \
    hatchery certs new --dir /etc/hatchery/tls --agent node-b --agent node-c\n  \
    hatchery certs new --frontdoor door.example --renew --days 90"
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

/// Makes certificates for front doors and agents, and a CA when the directory has none. What is there stays, unless
/// --renew says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery certs new --frontdoor door.example=10.0.0.2 --agent node-a=10.0.0.7\n  \
    hatchery certs new --dir /etc/hatchery/tls --agent node-b --agent node-c\n  \
    hatchery certs new --frontdoor door.example --renew --days 90\n\n\
    The CA's key (ca.key) is needed to make certificates and for nothing else: keep it\n\
    away from the farm's machines. Roles that run take up new certificates by themselves.")]
struct NewArgs {
    /// Directory of the certificates
    #[arg(long, value_name = "DIR", default_value = "certs")]
    dir: PathBuf,
    /// Front door by its host name, and other names and addresses it is reached by; may be repeated
    #[arg(long = "frontdoor", value_name = "NAME[=HOST,IP…]", value_parser = subject)]
    frontdoors: Vec<Subject>,
    /// Agent by its host name, and other names and addresses that its --advertise may have; may be repeated
    #[arg(long = "agent", value_name = "NAME[=HOST,IP…]", value_parser = subject)]
    agents: Vec<Subject>,
    /// How long certificates are good
    #[arg(long, value_name = "DAYS", default_value_t = 397, value_parser = clap::value_parser!(u32).range(1..=3650))]
    days: u32,
    /// Make new keys and certificates for these names; the CA stays
    #[arg(long)]
    renew: bool,
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Names its files as well.
    pub(crate) name: String,
    /// All that it is reached by, its name first.
    pub(crate) hosts: Vec<String>,
}

/// `NAME` or `NAME=HOST,IP`.
fn subject(text: &str) -> Result<Subject, String> {
    let (name, more) = text.split_once('=').unwrap_or((text, ""));
    if name == "ca" {
        return Err("ca is the CA's name".to_owned());
    }
    let more = more.split(',').filter(|host| !host.is_empty());
    let hosts: Vec<String> = std::iter::once(name).chain(more).map(str::to_owned).collect();
    for (at, host) in hosts.iter().enumerate() {
        let address = at > 0 && host.parse::<IpAddr>().is_ok();
        if !address && !is_host(host) {
            return Err(format!("{host:?} is no host name{}", if at > 0 { " or address" } else { "" }));
        }
    }
    Ok(Subject { name: name.to_owned(), hosts })
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
    let names: Vec<&str> = args.frontdoors.iter().chain(&args.agents).map(|s| s.name.as_str()).collect();
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
    for (subjects, purpose) in [(&args.frontdoors, Purpose::FrontDoor), (&args.agents, Purpose::Agent)] {
        for subject in subjects {
            authority.certify(subject, purpose, args.days, args.renew, &mut out)?;
        }
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
    if args.frontdoors.is_empty() && args.agents.is_empty() {
        return writeln!(out, "\nName front doors and agents with --frontdoor and --agent.");
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
        let made = |text| subject(text).map(|s| s.hosts.join(" "));
        assert_eq!(made("node-a"), Ok("node-a".into()));
        assert_eq!(made("node-a=10.0.0.7,a.example,::1"), Ok("node-a 10.0.0.7 a.example ::1".into()));
        for wrong in ["", "ca", "a/b", "../x", "a b", "10.0.0.7=/", "-a", "a..b", "a=b c"] {
            assert!(made(wrong).is_err(), "{wrong:?}");
        }
    }
}
