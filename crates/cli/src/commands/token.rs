//! `hatchery token`: makes JSON web tokens, for scripts and for trying things out.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use access::Scope;
use access::jwt::NewToken;
use clap::{Args, Subcommand};

use crate::args::time;
use crate::exit::Exit;
use crate::failure::Failure;

/// Makes JSON web tokens for callers of a front door. An identity provider does the same for people.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery token new --key-file jwt.secret --subject ci --scope spawn --for 5m\n\n\
    `openssl rand -hex 32 > jwt.secret` makes a secret; a front door takes tokens that are\n\
    signed with it with --jwt-keys and the same file.")]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a token, signed with HS256, and print it
    New(NewArgs),
}

/// Makes a token, signed with HS256, and prints it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery token new --key-file jwt.secret\n  \
    hatchery token new --key-file jwt.secret --subject ci --scope spawn,read --for 1h --audience hatchery")]
struct NewArgs {
    /// File with the secret, at least 32 bytes
    #[arg(long, value_name = "FILE")]
    key_file: PathBuf,
    /// Subject (`sub`) of the token; what is spawned with it belongs to jwt:NAME
    #[arg(long, value_name = "NAME", default_value = "cli")]
    subject: String,
    /// Scopes: spawn, read, operate; repeat it or separate with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "spawn")]
    scope: Vec<Scope>,
    /// How long the token is valid
    #[arg(long = "for", value_name = "DURATION", default_value = "5m", value_parser = time)]
    lifetime: Duration,
    /// Audience (`aud`) it names
    #[arg(long, value_name = "TEXT")]
    audience: Option<String>,
    /// Issuer (`iss`) it names
    #[arg(long, value_name = "TEXT")]
    issuer: Option<String>,
    /// Most spawns that the subject may start in a minute [default: what the front door says]
    #[arg(long, value_name = "COUNT")]
    spawns_per_minute: Option<NonZeroU32>,
    /// Most spawns that the subject may have at once [default: what the front door says]
    #[arg(long, value_name = "COUNT")]
    concurrent_spawns: Option<NonZeroU32>,
}

pub(crate) fn run(args: TokenArgs) -> Result<Exit, Failure> {
    let Verb::New(args) = args.verb;
    let mut token = NewToken::new(&args.subject, args.scope.into_iter().collect(), args.lifetime);
    (token.audience, token.issuer) = (args.audience, args.issuer);
    (token.spawns_per_minute, token.concurrent_spawns) = (args.spawns_per_minute, args.concurrent_spawns);
    let token = token.sign(&args.key_file).map_err(|why| match why {
        access::jwt::SignError::Subject => Failure::usage(format!("invalid --subject: {why}")),
        access::jwt::SignError::Key(_) => {
            Failure::usage(format!("invalid --key-file {}: {why}", args.key_file.display()))
        }
    })?;
    let mut out = io::stdout().lock();
    writeln!(out, "{token}").and_then(|()| out.flush())?;
    Ok(Exit::Done)
}
