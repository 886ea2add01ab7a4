//! Figures, and the table they end up in.

use std::fmt::Write as _;
use std::time::Duration;

/// What was measured, in the order it was measured.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: Vec<[String; 4]>,
}

impl Table {
    /// A row: what, the figure, what it is compared with, and the ratio or difference.
    #[expect(clippy::print_stderr, reason = "whoever waits for the table wants to see how far it is")]
    pub(crate) fn row(
        &mut self,
        what: impl Into<String>,
        figure: impl Into<String>,
        against: impl Into<String>,
        ratio: impl Into<String>,
    ) {
        let row = [what.into(), figure.into(), against.into(), ratio.into()];
        eprintln!("  {}: {} ({}) {}", row[0], row[1], row[2], row[3]);
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = String::from("| what | measured | against | result |\n| --- | --- | --- | --- |\n");
        for row in &self.rows {
            writeln!(text, "| {} |", row.join(" | ")).expect("a string takes everything");
        }
        text
    }
}

/// Durations of one kind.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sample(Vec<Duration>);

impl Sample {
    pub(crate) fn add(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which this share of the durations lies.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let last = sorted.len().saturating_sub(1);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "an index into a list of thousands"
        )]
        let index = (share * last as f64).round() as usize;
        sorted.get(index).copied().unwrap_or_default()
    }
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}

pub(crate) fn us(time: Duration) -> String {
    format!("{:.0} µs", time.as_secs_f64() * 1e6)
}
