//! Figures in the Prometheus text format.

use std::collections::BTreeMap;

use crate::http::Client;

/// One scrape: each series with its value.
#[derive(Debug, Clone)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    /// Asks for `/metrics`.
    pub async fn of(admin: &Client) -> Self {
        let response = admin.get("/metrics").send().await;
        assert_eq!(response.status, 200, "{response:?}");
        Self::parse(&response.text())
    }

    /// Reads the text; a line that is neither a comment nor a series with a number is a defect.
    pub fn parse(text: &str) -> Self {
        let series = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
            // A label's value may hold spaces.
            let end = line.rfind('}').map_or(0, |brace| brace + 1);
            let space = line[end..].find(' ').unwrap_or_else(|| panic!("no value: {line}")) + end;
            let value = line[space..].split_whitespace().next().and_then(|v| v.parse().ok());
            (line[..space].to_owned(), value.unwrap_or_else(|| panic!("no number: {line}")))
        });
        Self(series.collect())
    }

    /// The value of a series by its whole name, labels included.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.0.get(series).copied()
    }

    /// The sum over all series of a metric.
    pub fn sum(&self, metric: &str) -> f64 {
        let of = |series: &str| {
            series == metric || series.strip_prefix(metric).is_some_and(|r| r.starts_with('{'))
        };
        self.0.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    /// The names of all metrics.
    pub fn names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.0.keys().map(|s| s.split('{').next().unwrap_or(s)).collect();
        names.dedup();
        names
    }
}
