//! The limits of one caller, and of all callers without a credential together: flags and defaults.
//!
//! A caller is the name in its credential; where credentials are not required, it is the address of its connection. An address is
//! often a proxy's, so limits of calls apply to addresses only where a flag sets them.

use std::num::{NonZeroU32, NonZeroUsize};

use super::error::ConfigError;

/// Default of live connections of one caller, unless the connection limit is low.
const LIVE: usize = 1000;
/// Default of calls at once, likewise.
const CALLS: usize = 2000;
/// Calls a second: far beyond what a page, a backend or a dashboard needs, and little for a front door.
const CALLS_PER_SECOND: u32 = 500;
/// Least memory for connections without a credential: below it callers could not authenticate.
const MIN_MEMORY: u64 = 1 << 20;

/// Flags that limit what one caller takes at a front door.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Limits of one caller")]
#[group(id = "limits")]
pub struct LimitOptions {
    /// Most live connections of one caller; by default a quarter of all places, at most 1000
    #[arg(long, env = "HATCHERY_MAX_LIVE_PER_CALLER", value_name = "COUNT")]
    pub max_live_per_caller: Option<NonZeroUsize>,

    /// Most subscriptions of one caller on all its live connections
    #[arg(
        long,
        env = "HATCHERY_MAX_SUBSCRIPTIONS_PER_CALLER",
        value_name = "COUNT",
        default_value = "10000"
    )]
    pub max_subscriptions_per_caller: NonZeroUsize,

    /// Most requests of one caller that wait in line here; by default half of --max-waiting
    #[arg(long, env = "HATCHERY_MAX_WAITING_PER_CALLER", value_name = "COUNT")]
    pub max_waiting_per_caller: Option<NonZeroUsize>,

    /// Most calls of one caller under way at once; by default a quarter of all places, at most 2000
    #[arg(long, env = "HATCHERY_MAX_CALLS_PER_CALLER", value_name = "COUNT")]
    pub max_calls_per_caller: Option<NonZeroUsize>,

    /// Most calls a second of one caller, and twice as many at once; by default 500
    #[arg(long, env = "HATCHERY_MAX_CALLS_PER_SECOND", value_name = "COUNT")]
    pub max_calls_per_second: Option<NonZeroU32>,

    /// Memory for connections that have shown no credential, for example 64MiB; by default three eighths of the memory that
    /// this process may have, at most 512MiB
    #[arg(long, env = "HATCHERY_UNAUTHENTICATED_MEMORY", value_name = "BYTES", value_parser = model::parse_bytes)]
    pub unauthenticated_memory: Option<u64>,
}

/// Limits of one caller, and of all callers without a credential together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Most connections to the live feed at once.
    pub live: usize,
    /// Subscriptions on all of them.
    pub subscriptions: usize,
    /// Requests that wait in line.
    pub waiting: usize,
    /// Calls under way at once, and connections that count as this caller's.
    pub calls: usize,
    /// Calls a second; without a number, as many as come.
    pub calls_per_second: Option<NonZeroU32>,
    /// Bytes for connections without a credential.
    pub unauthenticated_memory: usize,
}

impl LimitOptions {
    /// The limits with this many `connections` and places in line (`waiting`). `named`: credentials are required.
    ///
    /// # Errors
    /// A wrong setting.
    pub(crate) fn resolve(
        &self,
        connections: usize,
        waiting: usize,
        named: bool,
    ) -> Result<Limits, ConfigError> {
        let memory = self.unauthenticated_memory.unwrap_or_else(|| part_of(machine::memory::allowed()));
        if memory < MIN_MEMORY {
            return Err(ConfigError {
                flag: "--unauthenticated-memory",
                wants: "at least 1MiB".into(),
                found: memory.to_string(),
            });
        }
        let quarter = |most: usize| (connections / 4).clamp(1, most);
        let given = |flag: Option<NonZeroUsize>, default: usize| flag.map_or(default, NonZeroUsize::get);
        let (live, line, calls, pace) = if named {
            (quarter(LIVE), waiting.div_ceil(2), quarter(CALLS), NonZeroU32::new(CALLS_PER_SECOND))
        } else {
            // Half of the places are left for requests.
            ((connections / 2).max(1), waiting, usize::MAX, None)
        };
        Ok(Limits {
            live: given(self.max_live_per_caller, live),
            subscriptions: self.max_subscriptions_per_caller.get(),
            waiting: given(self.max_waiting_per_caller, line),
            calls: given(self.max_calls_per_caller, calls),
            calls_per_second: self.max_calls_per_second.or(pace),
            unauthenticated_memory: usize::try_from(memory).unwrap_or(usize::MAX),
        })
    }
}

impl Default for Limits {
    /// The defaults where credentials are not required.
    fn default() -> Self {
        Self {
            live: 500,
            subscriptions: 10_000,
            waiting: 1000,
            calls: usize::MAX,
            calls_per_second: None,
            unauthenticated_memory: 96 << 20,
        }
    }
}

/// The part of the process's memory that connections without a credential may use.
fn part_of(allowed: Option<u64>) -> u64 {
    const MIN: u64 = 16 << 20;
    const MAX: u64 = 512 << 20;
    allowed.map_or(MIN * 6, |bytes| (bytes / 8 * 3).clamp(MIN, MAX))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: LimitOptions,
    }

    fn limits(arguments: &[&str], connections: usize, named: bool) -> Result<Limits, String> {
        let cli = Cli::try_parse_from(std::iter::once("x").chain(arguments.iter().copied()))
            .map_err(|e| e.to_string())?;
        cli.options.resolve(connections, 1000, named).map_err(|e| e.to_string())
    }

    #[test]
    fn one_caller_cannot_have_all_places_by_default() {
        let of = |connections, named| limits(&[], connections, named).unwrap();
        let large = of(16_384, true);
        assert_eq!((large.live, large.waiting, large.calls), (1000, 500, 2000));
        assert_eq!((large.calls_per_second, large.subscriptions), (NonZeroU32::new(500), 10_000));
        assert_eq!((of(100, true).live, of(100, true).calls, of(1, true).live), (25, 25, 1));
        // An address may be a proxy's.
        let unnamed = of(100, false);
        assert_eq!((unnamed.live, unnamed.waiting, unnamed.calls_per_second), (50, 1000, None));
    }

    #[test]
    fn unknown_connections_get_a_part_of_the_memory_there_is() {
        let part = |mib: u64| part_of(Some(mib << 20)) >> 20;
        assert_eq!((part(256), part(1024), part(64 * 1024), part(8)), (96, 384, 512, 16));
        assert_eq!(part_of(None) >> 20, 96);
    }

    #[test]
    fn what_is_set_holds_for_everybody() {
        let flags = [
            "--max-live-per-caller=1",
            "--max-waiting-per-caller=2",
            "--max-calls-per-caller=3",
            "--max-calls-per-second=4",
            "--unauthenticated-memory=8MiB",
        ];
        for named in [false, true] {
            let limits = limits(&flags, 100, named).unwrap();
            assert_eq!((limits.live, limits.waiting, limits.calls), (1, 2, 3));
            assert_eq!(
                (limits.calls_per_second, limits.unauthenticated_memory),
                (NonZeroU32::new(4), 8 << 20)
            );
        }
        for wrong in
            ["--max-calls-per-second=0", "--unauthenticated-memory=1KiB", "--unauthenticated-memory=x"]
        {
            let (flag, _) = wrong.split_once('=').unwrap();
            assert!(limits(&[wrong], 100, true).unwrap_err().contains(flag), "{wrong}");
        }
    }
}
