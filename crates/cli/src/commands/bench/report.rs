//! The result of a run, as text and as JSON. Latencies are in microseconds.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::{self, Write};
use std::time::Duration;

use serde::Serialize;

use super::load::Shape;
use super::tally::{Calls, READY, Tally};
use crate::output::{Columns, Facts};
use crate::server::Server;

/// The fields of the JSON, for `--help`.
macro_rules! json_help {
    () => {
        "With --json the result is one object:\n  \
         server            the front door's URL\n  \
         mode              \"closed\" or \"open\"\n  \
         concurrency       closed: spawns at once\n  \
         ratePerSecond     open: arrivals per second\n  \
         elapsedSeconds    from the first request to the last answer\n  \
         interrupted       whether a signal ended it early\n  \
         asked             spawn requests that were sent\n  \
         ready             those that were answered with a spawn\n  \
         missed            open: arrivals not sent, too many were in flight\n  \
         readyPerSecond    ready by elapsedSeconds\n  \
         outcomes          requests by outcome: ready, a problem code, unreachable,\n                    \
                           connection-lost, timed-out, unexpected-answer\n  \
         spawnMicros       latency of ready spawns: count, min, mean, p50, p90, p99, p999, max\n  \
         stopOutcomes      stop requests by outcome: stopped, had-ended, or as above\n  \
         stopMicros        latency of the stops that were accepted, as spawnMicros"
    };
}
pub(crate) use json_help;

/// The result of a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    server: String,
    mode: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    concurrency: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_second: Option<f64>,
    elapsed_seconds: f64,
    interrupted: bool,
    asked: u64,
    ready: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    missed: Option<u64>,
    ready_per_second: f64,
    outcomes: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spawn_micros: Option<Latency>,
    stop_outcomes: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_micros: Option<Latency>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct Latency {
    count: u64,
    min: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

impl Latency {
    fn of(calls: &Calls) -> Option<Self> {
        let micros = &calls.micros;
        (!micros.is_empty()).then(|| Self {
            count: micros.len(),
            min: micros.min(),
            mean: (micros.mean() * 10.0).round() / 10.0,
            p50: micros.value_at_quantile(0.5),
            p90: micros.value_at_quantile(0.9),
            p99: micros.value_at_quantile(0.99),
            p999: micros.value_at_quantile(0.999),
            max: micros.max(),
        })
    }
}

impl Report {
    pub(crate) fn new(
        server: &Server,
        shape: Shape,
        elapsed: Duration,
        interrupted: bool,
        tally: &Tally,
    ) -> Self {
        let ready = tally.spawns.of(READY);
        let elapsed_seconds = elapsed.as_secs_f64();
        let (mode, concurrency, rate_per_second) = match shape {
            Shape::Closed { concurrency } => ("closed", Some(concurrency), None),
            Shape::Open { rate, .. } => ("open", None, Some(rate)),
        };
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let ready_per_second = (ready as f64 / elapsed_seconds.max(1e-6) * 100.0).round() / 100.0;
        Self {
            server: server.to_string(),
            mode,
            concurrency,
            rate_per_second,
            elapsed_seconds,
            interrupted,
            asked: tally.spawns.total(),
            ready,
            missed: rate_per_second.map(|_| tally.missed),
            ready_per_second,
            outcomes: tally.spawns.outcomes.clone(),
            spawn_micros: Latency::of(&tally.spawns),
            stop_outcomes: tally.stops.outcomes.clone(),
            stop_micros: Latency::of(&tally.stops),
        }
    }

    pub(crate) fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let mut facts = Facts::default();
        facts.add("server", &self.server);
        facts.maybe("closed loop", self.concurrency.map(|c| format!("{c} at once")));
        facts.maybe("open loop", self.rate_per_second.map(|r| format!("{r} per second")));
        facts.add("took", &format!("{:.2} s", self.elapsed_seconds));
        facts.add("ready", &format!("{} of {} asked for", self.ready, self.asked));
        facts.maybe("missed", self.missed.filter(|m| *m > 0));
        facts.add("per second", &format!("{:.1} ready", self.ready_per_second));
        facts.write(out)?;
        for (what, outcomes) in [("OUTCOME", &self.outcomes), ("STOP OUTCOME", &self.stop_outcomes)] {
            if outcomes.is_empty() {
                continue;
            }
            writeln!(out)?;
            let mut table = Columns::new(&[what, ">COUNT"]);
            for (outcome, count) in outcomes {
                table.row([Cow::Borrowed(*outcome), count.to_string().into()]);
            }
            table.write(out)?;
        }
        let latencies = [("spawn", self.spawn_micros), ("stop", self.stop_micros)];
        if latencies.iter().any(|(_, latency)| latency.is_some()) {
            writeln!(out)?;
            let mut table =
                Columns::new(&["LATENCY", ">MIN", ">MEAN", ">P50", ">P90", ">P99", ">P99.9", ">MAX"]);
            for (what, latency) in latencies {
                let Some(l) = latency else { continue };
                let mut row: Vec<Cow<'_, str>> = vec![what.into(), millis(l.min)];
                row.push(format!("{:.3} ms", l.mean / 1000.0).into());
                row.extend([l.p50, l.p90, l.p99, l.p999, l.max].map(millis));
                table.row(row);
            }
            table.write(out)?;
        }
        Ok(())
    }
}

fn millis(micros: u64) -> Cow<'static, str> {
    format!("{}.{:03} ms", micros / 1000, micros % 1000).into()
}
