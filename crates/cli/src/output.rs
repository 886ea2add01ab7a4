//! What people read: tables, ages, and text that cannot take over a terminal.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::io::{self, Write};
use std::time::Duration;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use model::Timestamp;
use model::text::is_deceptive;

/// A table without lines: a row of headings, and columns two spaces apart.
#[derive(Debug)]
pub(crate) struct Columns(Table);

impl Columns {
    /// With these headings; one that starts with `>` is a column of numbers.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headings.iter().map(|h| h.trim_start_matches('>')));
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self(table)
    }

    pub(crate) fn row<'a>(&mut self, cells: impl IntoIterator<Item = Cow<'a, str>>) {
        self.0.add_row(cells.into_iter().map(|text| Cell::new(printable(&text))));
    }

    /// Writes it, without spaces at the end of lines.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for line in self.0.lines() {
            writeln!(out, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// A list of `name  value` lines; values that are absent leave theirs out.
#[derive(Debug, Default)]
pub(crate) struct Facts(Vec<(&'static str, String)>);

impl Facts {
    pub(crate) fn add(&mut self, name: &'static str, value: &impl Display) {
        self.0.push((name, value.to_string()));
    }

    /// Adds a line if there is something to say.
    pub(crate) fn maybe(&mut self, name: &'static str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.add(name, &value);
        }
    }

    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        let width = self.0.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        for (name, value) in &self.0 {
            writeln!(out, "{name:width$}  {}", printable(value))?;
        }
        Ok(())
    }
}

/// The same JSON with what could steer a terminal as `\u` escapes. Control characters below DEL are so in any JSON.
pub(crate) fn harmless_json(json: &[u8]) -> Cow<'_, [u8]> {
    let Ok(text) = std::str::from_utf8(json) else { return Cow::Borrowed(json) };
    let steers = |c: char| c >= '\u{7f}' && is_deceptive(c);
    if !text.contains(steers) {
        return Cow::Borrowed(json);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if steers(c) {
            write!(shown, "\\u{:04x}", u32::from(c)).ok();
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown.into_bytes())
}

/// Writes what a program reads: the JSON as it came, see [`harmless_json`], and a line end.
pub(crate) fn write_json(out: &mut impl Write, json: &[u8]) -> io::Result<()> {
    out.write_all(&harmless_json(json))?;
    if json.last() != Some(&b'\n') {
        out.write_all(b"\n")?;
    }
    out.flush()
}

/// A length of time in at most two units: `3m12s`.
pub(crate) fn short(time: Duration) -> String {
    let s = time.as_secs();
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        _ => format!("{}d{:02}h", s / 86_400, s / 3600 % 24),
    }
}

/// How long ago that was, by this machine's clock.
pub(crate) fn age(at: Timestamp) -> String {
    short(Timestamp::now().since(at))
}

/// A point in time with its distance from now: `2026-01-31T12:00:00.000Z (3m12s ago)`, or `(in 3m12s)`.
pub(crate) fn when(at: Timestamp) -> String {
    let now = Timestamp::now();
    if at > now { format!("{at} (in {})", short(at.since(now))) } else { format!("{at} ({} ago)", age(at)) }
}

/// `a=1,b=2`, or `-`.
pub(crate) fn labels(labels: &BTreeMap<String, String>) -> String {
    let mut text = String::new();
    for (key, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        write!(text, "{key}={value}").ok();
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

/// `12 full, 3 without the label sdk that is asked for`: why nodes cannot take a spawn, the most first.
pub(crate) fn counts(reasons: &BTreeMap<String, u32>) -> String {
    let mut reasons: Vec<_> = reasons.iter().collect();
    reasons.sort_by_key(|(_, count)| Reverse(**count));
    let reasons: Vec<String> =
        reasons.into_iter().map(|(reason, count)| format!("{count} {}", such(reason))).collect();
    reasons.join(", ")
}

/// What nodes are that are counted under this word of the front door. A later front door may have others.
fn such(reason: &str) -> Cow<'_, str> {
    if let Some(label) = reason.strip_prefix("label ") {
        return Cow::Owned(format!("without the label {label} that is asked for"));
    }
    Cow::Borrowed(match reason {
        "gpu full" => "with every GPU full",
        "renderer" => "without the renderer",
        "pool" => "in another pool",
        "dedicated" => "dedicated to another pool",
        "in line" => "with slots that are promised to callers in line",
        "quota" => "with room that the caller's quota leaves unused",
        "no port" => "without a free port",
        "memory" => "short of memory",
        "cannot start" => "that cannot start a server",
        "failed" => "where it failed",
        "refused" => "that refused it",
        other => other,
    })
}

/// `1 spawn`, `2 spawns`.
pub(crate) fn count(number: impl Into<Number>, what: &str) -> String {
    match number.into() {
        Number(1) => format!("1 {what}"),
        Number(number) => format!("{number} {what}s"),
    }
}

/// A number of things.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number(u64);

impl From<usize> for Number {
    fn from(number: usize) -> Self {
        Self(u64::try_from(number).unwrap_or(u64::MAX))
    }
}

impl From<u32> for Number {
    fn from(number: u32) -> Self {
        Self(number.into())
    }
}

impl From<u64> for Number {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

/// Bytes for people: `3.2 GiB`.
#[expect(clippy::cast_precision_loss, reason = "one digit after the point is all that is shown")]
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// The text with control characters shown instead of obeyed; what a spawned process wrote must not drive a terminal.
pub(crate) fn printable(text: &str) -> Cow<'_, str> {
    let harmless = |c: char| !is_deceptive(c) || c == '\t';
    if text.chars().all(harmless) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if harmless(c) {
            shown.push(c);
        } else {
            write!(shown, "{}", c.escape_default()).ok();
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_and_not_done() {
        for (text, shown) in [
            ("plain\ttext, 漢字", "plain\ttext, 漢字"),
            ("a\u{1b}[2Jb", "a\\u{1b}[2Jb"),
            ("a\u{9b}2Jb\r", "a\\u{9b}2Jb\\r"),
            ("gpj.\u{202e}exe\u{2066}", "gpj.\\u{202e}exe\\u{2066}"),
        ] {
            assert_eq!(printable(text), shown, "{text:?}");
        }
    }

    #[test]
    fn json_says_the_same_without_what_steers_a_terminal() {
        let value = serde_json::json!({ "line": "a\u{202e}b\u{9b}2J\u{7f}\u{1b}c é漢\n" });
        let (mut out, text) = (Vec::new(), value.to_string());
        write_json(&mut out, text.as_bytes()).unwrap();
        let shown = String::from_utf8(out).unwrap();
        let line = "{\"line\":\"a\\u202eb\\u009b2J\\u007f\\u001bc é漢\\n\"}\n";
        assert_eq!(shown, line);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
        assert_eq!(&*harmless_json(b"{\n  \"a\": 1\n}"), b"{\n  \"a\": 1\n}");
    }

    #[test]
    fn ages_have_two_units_at_the_most() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (192, "3m12s"),
            (3600, "1h00m"),
            (7500, "2h05m"),
            (86_400, "1d00h"),
            (1_000_000, "11d13h"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
        assert_eq!(age(Timestamp::from_millis(u64::MAX)), "0s", "a clock that is ahead is not an error");
    }

    #[test]
    fn tables_have_no_lines_and_no_spaces_at_the_end() {
        let mut table = Columns::new(&["ID", ">COUNT"]);
        table.row(["long-name".into(), "7".into()]);
        table.row(["x\u{1b}[31m".into(), "123456".into()]);
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text.lines().collect::<Vec<_>>(),
            ["ID            COUNT", "long-name         7", "x\\u{1b}[31m  123456"],
        );
    }

    #[test]
    fn counts_have_the_most_first() {
        let reasons = [("cordoned", 1), ("full", 12), ("label sdk", 3), ("of later", 2), ("pool", 1)];
        let reasons = reasons.map(|(reason, count)| (reason.to_owned(), count)).into();
        let words =
            "12 full, 3 without the label sdk that is asked for, 2 of later, 1 cordoned, 1 in another pool";
        assert_eq!(counts(&reasons), words);
    }

    #[test]
    fn sizes_are_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
    }
}
