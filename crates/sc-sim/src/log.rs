//! The server's own log: `<time>:<level>: <message>` to stdout and to a file, each with its own mask of categories.
//!
//! A log that cannot be written is not a reason to stop serving: stdout may be closed and disks fill up, so every
//! write error is dropped.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A category and, in the vendor's masks, its bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error = 1,
    Warn = 2,
    Info = 4,
    Debug = 8,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// A sum of [`Level`] bits; bits without a meaning are ignored, so `0xff` is everything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mask(pub(crate) u32);

impl Mask {
    fn has(self, level: Level) -> bool {
        self.0 & level as u32 != 0
    }
}

/// Where to log what.
#[derive(Clone, Debug)]
pub(crate) struct LogSettings {
    pub(crate) stdout: Mask,
    pub(crate) file: Option<PathBuf>,
    pub(crate) file_mask: Mask,
    pub(crate) delta: bool,
}

/// Shared by all threads; each line is one write, so lines do not mix.
#[derive(Debug)]
pub(crate) struct Log {
    started: Instant,
    delta: bool,
    stdout: Mask,
    file: Option<File>,
    file_mask: Mask,
}

impl Log {
    pub(crate) fn open(settings: &LogSettings, started: Instant) -> io::Result<Self> {
        let file = settings
            .file
            .as_ref()
            .map(|path| File::options().create(true).append(true).open(path))
            .transpose()?;
        Ok(Self {
            started,
            delta: settings.delta,
            stdout: settings.stdout,
            file,
            file_mask: settings.file_mask,
        })
    }

    pub(crate) fn error(&self, message: impl Display) {
        self.lines(Level::Error, &[message]);
    }

    pub(crate) fn warn(&self, message: impl Display) {
        self.lines(Level::Warn, &[message]);
    }

    pub(crate) fn info(&self, message: impl Display) {
        self.lines(Level::Info, &[message]);
    }

    pub(crate) fn debug(&self, message: impl Display) {
        self.lines(Level::Debug, &[message]);
    }

    /// Several lines at once cost one write, which matters while a client waits for the first `ready`.
    pub(crate) fn lines(&self, level: Level, messages: &[impl Display]) {
        let to_stdout = self.stdout.has(level);
        let file = self.file.as_ref().filter(|_| self.file_mask.has(level));
        if !to_stdout && file.is_none() {
            return;
        }
        let stamp = self.stamp();
        let word = level.word();
        let text: String = messages.iter().map(|message| format!("{stamp}:{word}: {message}\n")).collect();
        if to_stdout {
            io::stdout().write_all(text.as_bytes()).ok();
        }
        if let Some(mut file) = file {
            file.write_all(text.as_bytes()).ok();
        }
    }

    fn stamp(&self) -> String {
        if self.delta {
            return format!("{:.3}", self.started.elapsed().as_secs_f64());
        }
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        utc(since_epoch.as_secs(), since_epoch.subsec_millis())
    }
}

/// Seconds since 1970 as a date, by the usual arithmetic over 400-year eras that begin in March.
fn utc(seconds: u64, millis: u32) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::{Level, Mask, utc};

    #[test]
    fn a_stamp_is_the_date_in_utc() {
        let table = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 1, "2000-02-29T00:00:00.001Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59.000Z"),
            (1_767_225_600, 50, "2026-01-01T00:00:00.050Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ];
        for (seconds, millis, expected) in table {
            assert_eq!(utc(seconds, millis), expected);
        }
    }

    #[test]
    fn a_mask_is_a_sum_of_levels() {
        assert!(Mask(7).has(Level::Error) && Mask(7).has(Level::Warn) && Mask(7).has(Level::Info));
        assert!(!Mask(7).has(Level::Debug));
        assert!(Mask(0xff).has(Level::Debug));
        assert!(!Mask(0).has(Level::Error));
    }
}
