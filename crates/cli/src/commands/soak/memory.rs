//! The memory of watched processes: before the load, after a tenth of it, and at its end.

use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::client::Client;
use crate::commands::bench::load::Bounds;
use crate::commands::bench::tally::SharedTally;
use crate::failure::Failure;
use crate::output::{Columns, bytes};

/// The metric that every role has.
const METRIC: &str = "process_resident_memory_bytes";
/// Between two looks at how far the load is.
const PAUSE: Duration = Duration::from_millis(20);

/// A process that is watched.
#[derive(Debug)]
pub(super) struct Watch {
    client: Client,
    first: u64,
    tenth: Option<u64>,
}

/// What was seen of it, in bytes.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Watched {
    url: String,
    first: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    at_tenth: Option<u64>,
    last: u64,
}

impl Watch {
    pub(super) async fn first(client: Client) -> Result<Self, Failure> {
        let first = resident(&client).await?;
        Ok(Self { client, first, tenth: None })
    }

    pub(super) async fn last(self) -> Result<Watched, Failure> {
        let last = resident(&self.client).await?;
        Ok(Watched { url: self.client.server().to_string(), first: self.first, at_tenth: self.tenth, last })
    }
}

async fn resident(client: &Client) -> Result<u64, Failure> {
    let text = client.metrics().await?;
    let text = String::from_utf8_lossy(&text);
    parse(&text).ok_or_else(|| {
        Failure::failed(format!("{} has no {METRIC}: is it an admin address?", client.server()))
    })
}

fn parse(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(METRIC)?.trim().parse().ok())
}

/// Looks once more when a tenth of the load is over: what a process needs to get going is not what it loses.
pub(super) async fn at_a_tenth(
    watched: &mut [Watch],
    bounds: Bounds,
    tally: SharedTally,
) -> Result<(), Failure> {
    if watched.is_empty() {
        return Ok(());
    }
    let start = Instant::now();
    let over = || {
        let by_count = bounds.count.is_some_and(|count| tally.lock().spawns.total() >= count.div_ceil(10));
        by_count || bounds.duration.is_some_and(|duration| start.elapsed() >= duration / 10)
    };
    while !over() {
        sleep(PAUSE).await;
    }
    for watch in watched {
        watch.tenth = Some(resident(&watch.client).await?);
    }
    Ok(())
}

pub(super) fn write(watched: &[Watched], out: &mut impl Write) -> io::Result<()> {
    if watched.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    let mut table = Columns::new(&["MEMORY OF", ">FIRST", ">AFTER A TENTH", ">LAST"]);
    for one in watched {
        let tenth = one.at_tenth.map_or_else(|| "-".to_owned(), bytes);
        table.row([one.url.as_str().into(), bytes(one.first).into(), tenth.into(), bytes(one.last).into()]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metric_is_found_among_others() {
        let text = "# HELP process_resident_memory_bytes Memory\n# TYPE process_resident_memory_bytes gauge\n\
            process_resident_memory_bytes 4096\nother 7\n# EOF\n";
        assert_eq!(parse(text), Some(4096));
        assert_eq!(parse("other 7\n"), None);
    }
}
