//! `hatchery key set`: changes scopes, limits, name or expiry of a key. The credential stays good, and no one has to be given a new
//! one.

use std::io::{self, Write};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use access::Scope;
use access::api_key::KeyId;
use access::key_file;
use clap::Args;
use model::Timestamp;

use super::words::{name, unknown, wrong};
use crate::args::time;
use crate::exit::Exit;
use crate::failure::Failure;

/// Changes a key: its name, scopes, limits or expiry. Its holder keeps the credential, and what is not named stays. Front
/// doors take it in within two seconds; calls that are under way end as they began.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery key set k7qm2x9d4t1z --name web --file /etc/hatchery/keys\n  \
    hatchery key set k7qm2x9d4t1z --spawns-per-minute 600 --concurrent-spawns none --file keys\n  \
    hatchery key set k7qm2x9d4t1z --scope operate,spawn --expires 90d --file keys\n\n\
    A limit that is lower than what its holder has ends nothing; no more is started.")]
pub(super) struct SetArgs {
    /// The key's id, as `hatchery key list` shows it
    #[arg(value_name = "ID")]
    id: KeyId,
    #[command(flatten)]
    changes: Changes,
    /// The file of keys
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
}

/// What is changed: one of these at least.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct Changes {
    /// Name of the key, for people; `none` takes it away
    #[arg(long, value_name = "NAME", value_parser = changed_name)]
    name: Option<Setting<String>>,
    /// Scopes in place of those it has: spawn, read, operate, metrics; repeat it or separate with commas
    #[arg(long, value_name = "SCOPE", value_delimiter = ',')]
    scope: Vec<Scope>,
    /// Most spawns started in a minute; `none` for what the front door says
    #[arg(long, value_name = "COUNT")]
    spawns_per_minute: Option<Setting<NonZeroU32>>,
    /// Most spawns at once; `none` for what the front door says
    #[arg(long, value_name = "COUNT")]
    concurrent_spawns: Option<Setting<NonZeroU32>>,
    /// Expiry of the key from now, as in 90d; `none` for never
    #[arg(long, value_name = "DURATION", value_parser = changed_expiry)]
    expires: Option<Setting<Duration>>,
}

/// A new value, or none any more.
#[derive(Debug, Clone)]
struct Setting<T>(Option<T>);

impl<T> Setting<T> {
    fn read(text: &str, value: impl FnOnce(&str) -> Result<T, String>) -> Result<Self, String> {
        if text == "none" { Ok(Self(None)) } else { value(text).map(|value| Self(Some(value))) }
    }
}

impl FromStr for Setting<NonZeroU32> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::read(text, |text| {
            text.parse().map_err(|_| "must be none, or a whole number from 1 on".to_owned())
        })
    }
}

fn changed_name(text: &str) -> Result<Setting<String>, String> {
    Setting::read(text, name)
}

fn changed_expiry(text: &str) -> Result<Setting<Duration>, String> {
    Setting::read(text, time)
}

pub(super) fn run(args: SetArgs) -> Result<Exit, Failure> {
    let SetArgs { id, changes, file } = args;
    let changed = key_file::change(&file, &id, |key| {
        if let Some(name) = changes.name {
            key.name = name.0;
        }
        if !changes.scope.is_empty() {
            key.scopes = changes.scope.into_iter().collect();
        }
        if let Some(limit) = changes.spawns_per_minute {
            key.spawns_per_minute = limit.0;
        }
        if let Some(limit) = changes.concurrent_spawns {
            key.concurrent_spawns = limit.0;
        }
        if let Some(expires) = changes.expires {
            key.expires_at = expires.0.map(|time| Timestamp::now().after(time));
        }
    });
    match changed.map_err(|error| wrong(&file, &error))? {
        Some(key) => {
            writeln!(io::stdout().lock(), "{}  changed", key.id)?;
            Ok(Exit::Done)
        }
        None => Err(unknown(&id, &file)),
    }
}
