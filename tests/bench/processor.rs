//! Processor time that processes have taken, by their threads (`/proc/PID/task/*/stat`, in hundredths of a second).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::Context as _;

use crate::table::{Table, us};

/// Of a thread's line in `stat`, after its name in parentheses: hundredths of a second in the program and in the kernel.
const IN_PROGRAM: usize = 11;
const IN_KERNEL: usize = 12;
const HUNDREDTH: Duration = Duration::from_millis(10);

/// Time in the program and in the kernel.
type Times = [Duration; 2];

/// By a process's role and the name of its threads, without a number at its end.
#[derive(Debug, Default)]
pub(crate) struct Processor(BTreeMap<String, Times>);

impl Processor {
    /// What these processes have taken so far. Several of one role are added up.
    pub(crate) fn of<'a>(processes: impl IntoIterator<Item = (&'a str, u32)>) -> anyhow::Result<Self> {
        let mut taken = BTreeMap::<String, Times>::new();
        for (role, pid) in processes {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                // It may have ended.
                let Ok(stat) = fs::read_to_string(thread?.path().join("stat")) else { continue };
                let (name, fields) = stat.rsplit_once(')').context("a name")?;
                let (_, name) = name.split_once('(').context("a name")?;
                let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
                let fields: Vec<&str> = fields.split_whitespace().collect();
                let times = taken.entry(format!("{role}, {name}")).or_default();
                for (time, at) in times.iter_mut().zip([IN_PROGRAM, IN_KERNEL]) {
                    *time += HUNDREDTH * fields.get(at).context("a time")?.parse::<u32>()?;
                }
            }
        }
        Ok(Self(taken))
    }

    /// Adds what was taken between two looks.
    pub(crate) fn add(&mut self, before: &Self, after: &Self) {
        for (name, times) in &after.0 {
            let was = before.0.get(name).copied().unwrap_or_default();
            let sum = self.0.entry(name.clone()).or_default();
            for ((sum, time), was) in sum.iter_mut().zip(times).zip(was) {
                *sum += time.saturating_sub(was);
            }
        }
    }

    /// A row for each that took a microsecond of each of so many.
    pub(crate) fn rows(&self, what: &str, count: u32, table: &mut Table) {
        for (name, times) in &self.0 {
            let [program, kernel] = times.map(|time| time / count);
            if program + kernel >= Duration::from_micros(1) {
                table.row(
                    format!("{what}: {name}"),
                    us(program + kernel),
                    format!("{} in the program, {} in the kernel", us(program), us(kernel)),
                    "",
                );
            }
        }
    }
}
