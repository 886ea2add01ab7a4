//! The findings of `hatchery doctor`, for people (a table with advice) and for programs (JSON). A problem, and no warning, makes the
//! exit code 1.

use std::io::{self, Write};

use model::{Finding, Level};
use serde_json::json;

use crate::failure::Readers;
use crate::output::{count, printable, write_json};

/// Writes them to standard output; `quiet`: those alone that are not well.
pub(super) fn write(findings: &[Finding], readers: Readers, quiet: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let shown: Vec<&Finding> =
        findings.iter().filter(|finding| !quiet || finding.level != Level::Ok).collect();
    let of = |level: Level| findings.iter().filter(|finding| finding.level == level).count();
    let (problems, warnings, good) = (of(Level::Problem), of(Level::Warning), of(Level::Ok));
    if readers == Readers::Programs {
        let report = json!({"problems": problems, "warnings": warnings, "ok": good, "findings": shown});
        return write_json(&mut out, report.to_string().as_bytes());
    }
    text(&shown, &mut out)?;
    let summary = [count(problems, "problem"), count(warnings, "warning"), format!("{good} ok")];
    writeln!(out, "{}", summary.join(", "))?;
    out.flush()
}

fn text(findings: &[&Finding], out: &mut impl Write) -> io::Result<()> {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    for finding in findings {
        let (level, check) = (finding.level.as_str(), finding.check);
        writeln!(out, "{level:7}  {check:width$}  {}", printable(&finding.found))?;
        for (name, words) in [("why", &finding.why), ("do", &finding.advice)] {
            if let Some(words) = words {
                writeln!(out, "{:7}  {:width$}  {name:>3}: {}", "", "", printable(words))?;
            }
        }
    }
    if !findings.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_a_line_with_why_and_what_to_do_below_it() {
        let findings = [
            Finding::ok("ports", "all free"),
            Finding::problem("license", "it is\u{1b}[2J empty", "every spawn fails", "write it again"),
        ];
        let mut out = Vec::new();
        text(&findings.iter().collect::<Vec<_>>(), &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "ok       ports    all free\n\
             problem  license  it is\\u{1b}[2J empty\n                  \
             why: every spawn fails\n                   do: write it again\n\n",
        );
    }
}
