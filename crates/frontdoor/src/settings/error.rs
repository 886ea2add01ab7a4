//! Settings that are wrong: which flag, what it expects, what it got. The command line ends with code 2 before anything is opened.

use std::time::Duration;

use access::OpenError;

/// A wrong setting. The text names the flag, what it expects, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {flag}: expected {wants}, got {found}")]
pub struct ConfigError {
    /// The flag, with its dashes.
    pub flag: &'static str,
    /// What the flag expects, as a noun: "a duration from 1s to 1h".
    pub wants: String,
    /// What was given instead, or why it will not do.
    pub found: String,
}

impl From<tls::TlsError> for ConfigError {
    fn from(error: tls::TlsError) -> Self {
        Self { flag: error.flag, wants: error.wants.into_owned(), found: error.found }
    }
}

impl From<OpenError> for ConfigError {
    fn from(OpenError { flag, path, why }: OpenError) -> Self {
        Self { flag, wants: "a file of keys".into(), found: format!("{}: {why}", path.display()) }
    }
}

/// Refuses a duration that is not in these bounds.
pub(super) fn within(
    flag: &'static str,
    found: Duration,
    least: Duration,
    most: Duration,
) -> Result<(), ConfigError> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let [least, most, found] = [least, most, found].map(|d| humantime::format_duration(d).to_string());
    Err(ConfigError { flag, wants: format!("a duration from {least} to {most}"), found })
}
