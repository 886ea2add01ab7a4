//! What an agent of a farm is to be.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use crate::program::{Program, Release};

/// What an agent is to be.
#[derive(Debug, Clone)]
pub struct AgentPlan {
    pub(crate) slots: u16,
    pub(crate) ports: Option<u16>,
    pub(crate) port_range: Option<RangeInclusive<u16>>,
    pub(crate) args: Vec<String>,
    pub(crate) executable: Option<PathBuf>,
    pub(crate) program: Program,
}

impl AgentPlan {
    /// With so many slots.
    pub fn slots(slots: u16) -> Self {
        Self {
            slots,
            ports: None,
            port_range: None,
            args: Vec::new(),
            executable: None,
            program: Program::default(),
        }
    }

    /// With so many ports; else there are twice as many as slots.
    #[must_use]
    pub fn ports(mut self, count: u16) -> Self {
        self.ports = Some(count);
        self
    }

    /// With these ports, which the caller sees to being free.
    #[must_use]
    pub fn port_range(mut self, ports: RangeInclusive<u16>) -> Self {
        self.port_range = Some(ports);
        self
    }

    /// With these arguments more.
    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// With this variable in the environment of its spawns.
    #[must_use]
    pub fn env(self, name: &str, value: &str) -> Self {
        self.args(&["--env", &format!("{name}={value}")])
    }

    /// With a clock that is wrong by so many seconds.
    #[must_use]
    pub fn clock(mut self, seconds: i64) -> Self {
        self.program.clock = seconds;
        self
    }

    /// As this release of the program.
    #[must_use]
    pub fn release(mut self, release: Release) -> Self {
        self.program.release = release;
        self
    }

    /// Started by this program, with its arguments.
    #[must_use]
    pub fn under(mut self, words: &[&str]) -> Self {
        self.program.under = words.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    /// With another executable than the simulator.
    #[must_use]
    pub fn executable(mut self, file: impl Into<PathBuf>) -> Self {
        self.executable = Some(file.into());
        self
    }
}
