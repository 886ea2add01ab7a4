//! `hatchery key`: makes, lists, changes and revokes API keys. Works on the key file alone, under its lock; front doors read the file
//! again by themselves.

mod set;
mod words;

use std::borrow::Cow;
use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use access::Scope;
use access::api_key::{ApiKey, KeyId, NewKey};
use access::key_file::{self, ApiKeys};
use clap::{Args, Subcommand};
use model::Timestamp;

use self::words::{name, unknown, wrong};
use crate::args::time;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Columns;
use crate::standard_error::say;

/// Makes, lists, changes and revokes the API keys that callers of a front door show.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery key new --name web --scope spawn --spawns-per-minute 60 --file /etc/hatchery/keys\n  \
    hatchery key list --file /etc/hatchery/keys\n  \
    hatchery key set k7qm2x9d4t1z --concurrent-spawns 50 --file /etc/hatchery/keys\n  \
    hatchery key revoke k7qm2x9d4t1z --file /etc/hatchery/keys\n\n\
    The file is what a front door reads with --api-keys; it takes in a change within\n\
    two seconds.")]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a key and print the credential, which is never shown again
    New(NewArgs),
    /// List the keys of a file
    List(ListArgs),
    /// Change the name, scopes, limits or expiry of a key
    Set(set::SetArgs),
    /// Take a key out of a file
    Revoke(RevokeArgs),
}

/// Makes a key and prints the credential, which is never shown again: front doors keep no more than its hash.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery key new --name web --scope spawn --file /etc/hatchery/keys\n  \
    hatchery key new --name operators --scope operate,spawn --expires 90d --file keys > operator.key\n  \
    hatchery key new --scope read\n\n\
    Without --file, the line to add to the file of a front door goes to standard error.")]
struct NewArgs {
    /// Name of the key, for people
    #[arg(long, value_name = "NAME", value_parser = name)]
    name: Option<String>,
    /// Scopes: spawn, read, operate, metrics; repeat it or separate with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',', default_value = "spawn")]
    scope: Vec<Scope>,
    /// Most spawns started in a minute [default: what the front door says]
    #[arg(long, value_name = "COUNT")]
    spawns_per_minute: Option<NonZeroU32>,
    /// Most spawns at once [default: what the front door says]
    #[arg(long, value_name = "COUNT")]
    concurrent_spawns: Option<NonZeroU32>,
    /// Expiry of the key from now, as in 90d [default: never]
    #[arg(long, value_name = "DURATION", value_parser = time)]
    expires: Option<Duration>,
    /// File to add it to; made if there is none
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Lists the keys of a file, as they stand in it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery key list --file /etc/hatchery/keys")]
struct ListArgs {
    /// The file of keys
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// Takes a key out of a file. It is refused within two seconds; the spawns of its owner stay.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery key revoke k7qm2x9d4t1z --file /etc/hatchery/keys")]
struct RevokeArgs {
    /// The key's id, as `hatchery key list` shows it
    #[arg(value_name = "ID")]
    id: KeyId,
    /// The file of keys
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

pub(crate) fn run(args: KeyArgs) -> Result<Exit, Failure> {
    match args.verb {
        Verb::New(args) => new(args),
        Verb::List(args) => list(&args.file),
        Verb::Set(args) => set::run(args),
        Verb::Revoke(args) => revoke(&args.id, &args.file),
    }
}

fn new(args: NewArgs) -> Result<Exit, Failure> {
    let (key, credential) = ApiKey::generate(NewKey {
        name: args.name,
        scopes: args.scope.into_iter().collect(),
        spawns_per_minute: args.spawns_per_minute,
        concurrent_spawns: args.concurrent_spawns,
        expires_at: args.expires.map(|time| Timestamp::now().after(time)),
    })
    .map_err(|error| Failure::failed(error.to_string()))?;
    if let Some(file) = &args.file {
        key_file::append(file, &key).map_err(|error| wrong(file, &error))?;
    }
    let mut out = io::stdout().lock();
    writeln!(out, "{}", credential.expose()).and_then(|()| out.flush())?;
    match &args.file {
        Some(file) => {
            say(&format!("key {} is in {}; its credential is shown this once", key.id, file.display()))
        }
        None => {
            say("add this line to the file of --api-keys; the credential is shown this once:");
            say(&key.line());
        }
    }
    Ok(Exit::Done)
}

fn list(file: &Path) -> Result<Exit, Failure> {
    let keys = ApiKeys::read(file).map_err(|error| wrong(file, &error))?;
    let mut table = Columns::new(&["ID", "NAME", "SCOPES", ">PER MINUTE", ">AT ONCE", "CREATED", "EXPIRES"]);
    let count = |limit: Option<NonZeroU32>| limit.map_or(Cow::from("-"), |limit| limit.to_string().into());
    let moment = |at: Option<Timestamp>| at.map_or(Cow::from("-"), |at| at.to_string().into());
    for key in keys.iter() {
        let expired = key.expires_at.is_some_and(|end| end <= Timestamp::now());
        table.row([
            key.id.as_str().into(),
            key.name.as_deref().unwrap_or("-").into(),
            key.scopes.to_string().replace(' ', ",").into(),
            count(key.spawns_per_minute),
            count(key.concurrent_spawns),
            moment(key.created_at),
            if expired { "expired".into() } else { moment(key.expires_at) },
        ]);
    }
    table.write(&mut io::stdout().lock())?;
    Ok(Exit::Done)
}

fn revoke(id: &KeyId, file: &Path) -> Result<Exit, Failure> {
    match key_file::revoke(file, id).map_err(|error| wrong(file, &error))? {
        Some(key) => {
            writeln!(io::stdout().lock(), "{}  revoked", key.id)?;
            Ok(Exit::Done)
        }
        None => Err(unknown(id, file)),
    }
}
