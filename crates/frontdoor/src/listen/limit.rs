//! The limit of open files, and how many connections it allows. The soft limit is raised to the hard one where that is needed; where
//! it is too low, fewer connections are taken than `--max-connections` says, and the log says so.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::warn;

/// Descriptors that are no connections of callers: agents, the registry, files.
const BESIDES: usize = 2048;

/// Raises the limit of open files as far as this many connections need and it may be; how many of them it allows.
pub(crate) fn allow(connections: usize) -> usize {
    let wanted = connections + BESIDES;
    let limit = getrlimit(Resource::Nofile);
    let Some(current) = limit.current else { return connections };
    let goal = u64::try_from(wanted).unwrap_or(u64::MAX);
    let goal = limit.maximum.map_or(goal, |most| most.min(goal));
    let mut now = current;
    if current < goal && setrlimit(Resource::Nofile, Rlimit { current: Some(goal), ..limit }).is_ok() {
        now = goal;
    }
    let allowed = within(usize::try_from(now).unwrap_or(usize::MAX), connections);
    if allowed < connections {
        warn!(limit = now, wanted, connections = allowed, "the limit of open files is low");
    }
    allowed
}

/// How many of these connections there may be with so many descriptors: a quarter is for the rest when they are few.
fn within(descriptors: usize, connections: usize) -> usize {
    connections.min(descriptors.saturating_sub(BESIDES).max(descriptors / 4 * 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_descriptors_mean_fewer_connections() {
        for (descriptors, connections, allowed) in
            [(20_000, 16_384, 16_384), (10_000, 16_384, 7952), (1024, 16_384, 768), (1024, 100, 100)]
        {
            assert_eq!(within(descriptors, connections), allowed, "{descriptors} {connections}");
        }
    }
}
