//! Looks at a node as an agent with these flags would find it, without starting or changing anything: `hatchery doctor --agent` asks.
//!
//! [`Subject::of`] makes the configuration as the agent does; a flag whose files cannot be used is a finding, and what can be looked at
//! without it is looked at all the same. [`Subject::checks`] are independent of each other and block: each belongs on a thread of its own,
//! under the caller's deadline, since a file may be on a share that hangs.

mod display;
mod files;
mod machine;
mod network;
mod ports;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use model::Finding;

use crate::config::{Config, ConfigError};
use crate::options::Options;

/// An agent that was not started.
#[derive(Debug)]
pub struct Subject {
    config: Arc<Config>,
    tls: tls::Options,
}

/// What looks at one thing, and what it found.
type Look = Box<dyn FnOnce(&Config) -> Vec<Finding> + Send>;

/// One look at the machine. It blocks.
pub struct Check {
    /// What is looked at, as [`Finding::check`] has it.
    pub name: &'static str,
    look: Box<dyn FnOnce() -> Vec<Finding> + Send>,
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Check {
    /// Carries the check out, once. It reads files and asks the kernel, and may block.
    #[must_use]
    pub fn look(self) -> Vec<Finding> {
        (self.look)()
    }
}

impl Subject {
    /// What an agent with these flags would be; `None` when too little of it is known. `secrets` are files that it keeps from its spawns
    /// beside those of its own flags, each with the flag that names it. Reads files, and so blocks.
    #[must_use]
    pub fn of(mut options: Options, secrets: Vec<(&'static str, PathBuf)>) -> (Vec<Finding>, Option<Self>) {
        let given = options.tls.clone();
        let mut findings: Vec<Finding> = Vec::new();
        let mut refused_before = false;
        // Each round takes away what cannot be used; there are four such things.
        for _ in 0..5 {
            let error = match options.clone().into_config() {
                Ok(mut config) => {
                    if !refused_before {
                        findings.push(Finding::ok("flags", "an agent takes these flags"));
                    }
                    config.secret_files.extend(secrets);
                    return (findings, Some(Self { config: Arc::new(config), tls: given }));
                }
                Err(error) => error,
            };
            refused_before = true;
            let goes_on = match error.flag {
                // What is wrong with certificates is found by the check of them, with what to do.
                flag if flag.starts_with("--tls") && options.tls.tls_cert.is_some() => {
                    options.tls = tls::Options { insecure: true, ..tls::Options::default() };
                    options.viewer_relay = None;
                    continue;
                }
                "--listen" | "--admin-listen" | "--liveliness-listen" | "--advertise"
                    if !options.tls.insecure =>
                {
                    options.tls.insecure = true;
                    true
                }
                "--executable" if !options.start_nothing => {
                    options.start_nothing = true;
                    true
                }
                "--spawn-user" if options.spawn_user.is_some() => {
                    options.spawn_user = None;
                    true
                }
                _ => false,
            };
            let finding = refused(&error);
            // What was taken away may not be what the flag was refused for: then it is refused again.
            if !findings.contains(&finding) {
                findings.push(finding);
            }
            if !goes_on {
                break;
            }
        }
        (findings, None)
    }

    /// All there is to look at. `registry_is_elsewhere`: whether the registry is on another machine, so that others must reach this one.
    #[must_use]
    pub fn checks(&self, registry_is_elsewhere: bool) -> Vec<Check> {
        let mut checks = Vec::new();
        let mut add = |name, look: Look| {
            let config = Arc::clone(&self.config);
            checks.push(Check { name, look: Box::new(move || look(&config)) });
        };
        add("executable", Box::new(files::executable));
        add("license", Box::new(files::license));
        for dir in self.config.model_dirs.clone() {
            add("model-dir", Box::new(move |config| files::model_dir(config, &dir)));
        }
        add("state-dir", Box::new(files::state_dir));
        add("ports", Box::new(ports::of_spawns));
        add("ephemeral-ports", Box::new(ports::not_ephemeral));
        add("listen", Box::new(ports::of_agent));
        add("cgroup", Box::new(machine::groups));
        add("pidfd", Box::new(machine::pidfd));
        add("descriptors", Box::new(machine::descriptors));
        add("separation", Box::new(machine::separation));
        add("gpus", Box::new(display::gpus));
        add("display", Box::new(display::display));
        add("advertise", Box::new(move |config| network::advertise(config, registry_is_elsewhere)));
        add("public-host", Box::new(move |config| network::public_host(config, registry_is_elsewhere)));
        let tls = self.tls.clone();
        add("tls", Box::new(move |config| network::certificate(config, &tls)));
        checks
    }
}

fn refused(error: &ConfigError) -> Finding {
    Finding::problem(
        "flags",
        error.to_string(),
        "the agent does not start with these flags",
        "change the flag, or its variable in the environment (`hatchery agent --help` has both)",
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use model::Level;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    fn subject(flags: &[&str]) -> (Vec<Finding>, Option<Subject>) {
        let executable = ["agent", "--executable", "/opt/sc", "--node", "n", "--state-dir", "/s"];
        let line = executable.iter().chain(flags).copied();
        let secret = ("--registry-password-file", PathBuf::from("/etc/password"));
        Subject::of(Line::parse_from(line).options, vec![secret])
    }

    #[test]
    fn flags_are_all_right_only_where_an_agent_takes_all_of_them() {
        let (findings, found) = subject(&[]);
        assert!(findings.len() == 1 && findings[0].level == Level::Ok, "{findings:?}");
        let secrets = found.unwrap().config.secret_files.clone();
        assert!(secrets.iter().any(|(flag, _)| *flag == "--registry-password-file"), "{secrets:?}");
        let dropped = ["--tls-cert", "/none.pem", "--tls-key", "/none.key", "--tls-client-ca", "/none.ca"];
        let (findings, found) = subject(&dropped);
        assert!(found.is_some() && findings.is_empty(), "the check of certificates says it: {findings:?}");
    }

    #[test]
    fn a_flag_that_is_refused_is_one_finding() {
        for flags in [&["--slots", "0"][..], &["--advertise", "nonsense"], &["--listen", "0.0.0.0:7070"]] {
            let (findings, _) = subject(flags);
            assert!(findings.len() == 1 && findings[0].level == Level::Problem, "{flags:?}: {findings:?}");
        }
    }
}
