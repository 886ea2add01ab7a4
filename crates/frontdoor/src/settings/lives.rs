//! How long spawns may live, and how long their viewers may say nothing.

use std::time::Duration;

use super::error::{ConfigError, within};

/// The shortest and the longest life of a spawn.
pub(crate) const MIN_LIFE: Duration = Duration::from_secs(1);
/// See [`MIN_LIFE`]: 365 days.
pub(crate) const MAX_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

/// What the command line says of them.
#[derive(Debug, Clone, Default, clap::Args)]
#[group(id = "lives")]
pub struct LifeOptions {
    /// Longest life of a spawn, from its start; also what it gets without maxSeconds. Unlimited by default
    #[arg(long, env = "HATCHERY_MAX_LIFE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub max_life: Option<Duration>,

    /// How long a viewer may send nothing before its spawn is ended. Unlimited by default
    #[arg(long, env = "HATCHERY_MAX_IDLE", value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub max_idle: Option<Duration>,
}

/// The limits of every spawn that is started through here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lives {
    /// The longest life, from the start; also what a spawn gets whose caller says nothing.
    pub max_life: Option<Duration>,
    /// How long a viewer may send nothing.
    pub max_idle: Option<Duration>,
}

impl LifeOptions {
    pub(super) fn resolve(&self) -> Result<Lives, ConfigError> {
        for (flag, value) in [("--max-life", self.max_life), ("--max-idle", self.max_idle)] {
            if let Some(value) = value {
                within(flag, value, MIN_LIFE, MAX_LIFE)?;
            }
        }
        Ok(Lives { max_life: self.max_life, max_idle: self.max_idle })
    }
}

impl Lives {
    /// The life of a spawn whose caller wants this much.
    ///
    /// # Errors
    /// More than is allowed; what is wrong with it.
    pub(crate) fn of(&self, wanted: Option<Duration>) -> Result<Option<Duration>, String> {
        match (wanted, self.max_life) {
            (Some(wanted), Some(most)) if wanted > most => {
                Err(format!("must be at most {}, the operator's --max-life", most.as_secs()))
            }
            (wanted, most) => Ok(wanted.or(most)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operators_limit_is_the_default_and_the_cap() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let lives = |max_life| Lives { max_life, max_idle: None };
        for (wanted, most, life) in [
            (None, None, Ok(None)),
            (seconds(5), None, Ok(seconds(5))),
            (None, seconds(9), Ok(seconds(9))),
            (seconds(5), seconds(9), Ok(seconds(5))),
            (seconds(9), seconds(9), Ok(seconds(9))),
        ] {
            assert_eq!(lives(most).of(wanted), life, "{wanted:?} {most:?}");
        }
        let refused = lives(seconds(9)).of(seconds(10)).unwrap_err();
        assert!(refused.contains("at most 9") && refused.contains("--max-life"), "{refused}");
    }
}
