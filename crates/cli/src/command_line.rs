//! The whole command line: every command, and what is said of one that cannot be understood.

use std::ffi::OsStr;

use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::args::Before;
use crate::commands::{
    agent, audit, bench, certs, completions, cordon, dev, doctor, drain, explain, forget, frontdoor, key,
    log, nodes, relay, show, soak, spawn, spawns, stop, token, waiting, watch,
};

/// The note under the error for a token on the command line.
pub(crate) const NO_TOKEN_FLAG: &str = "  note: there is no --token on purpose: every user of this machine could read it in the \
    list of processes; use --token-file FILE, HATCHERY_TOKEN_FILE or HATCHERY_TOKEN";

/// A farm of stream cache servers behind one POST /spawn.
#[derive(Debug, Parser)]
#[command(
    name = "hatchery",
    version,
    arg_required_else_help = true,
    subcommand_required = true,
    max_term_width = 110,
    after_help = "Examples:\n  \
        hatchery dev\n  \
        hatchery spawn --renderer ssr --label sdk=2025.1\n  \
        hatchery nodes\n  \
        hatchery --server http://door:8080 drain node-a --deadline 30m --wait\n\n\
        Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 not found,\n\
        4 refused or no capacity, 5 timed out."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) before: Before,
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Every command.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a front door: the HTTP service that clients and operators talk to
    Frontdoor(Box<frontdoor::FrontdoorArgs>),
    /// Run a relay: the way of viewers to their spawns, and nothing else
    Relay(Box<relay::RelayArgs>),
    /// Run an agent: it supervises the stream cache servers of this machine
    Agent(Box<agent::AgentArgs>),
    /// Run a whole farm in this process, with a simulated server unless --executable is given
    Dev(Box<dev::DevArgs>),
    /// Start a stream cache server and print where its viewer connects
    Spawn(spawn::SpawnArgs),
    /// Say where a spawn would be placed and why, and why not elsewhere
    Explain(explain::ExplainArgs),
    /// List spawns, those that run first
    #[command(visible_aliases = ["ls", "ps"])]
    Spawns(spawns::SpawnsArgs),
    /// Show one spawn with its history
    #[command(visible_alias = "describe")]
    Show(show::ShowArgs),
    /// Print the last lines a spawn wrote
    #[command(visible_alias = "logs")]
    Log(log::LogArgs),
    /// Stop spawns
    Stop(stop::StopArgs),
    /// List nodes, or show one
    Nodes(nodes::NodesArgs),
    /// List who waits in line, and for what
    Waiting(waiting::WaitingArgs),
    /// List what operators ordered
    Audit(audit::AuditArgs),
    /// Print what happens on the farm, as it happens
    Watch(watch::WatchArgs),
    /// Close a node to new spawns; those that run stay
    Cordon(cordon::CordonArgs),
    /// Open a node to new spawns again; undoes a drain, too
    Uncordon(cordon::UncordonArgs),
    /// Empty a node: nothing new starts there, and what runs ends by itself or at a deadline
    Drain(drain::DrainArgs),
    /// Remove a node that will not come back
    Forget(forget::ForgetArgs),
    /// Look for what is wrong with a farm, its registry, or a node, and say what to do about it
    Doctor(Box<doctor::DoctorArgs>),
    /// Put load on a farm and measure how long its answers take
    Bench(bench::BenchArgs),
    /// Start and stop spawns again and again, and check that nothing is left of them
    Soak(soak::SoakArgs),
    /// Make, list and revoke API keys
    Key(key::KeyArgs),
    /// Make JSON web tokens, for scripts and trying things out
    Token(token::TokenArgs),
    /// Make the certificates that front doors and agents show each other
    Certs(certs::CertsArgs),
    /// Print a completion script for a shell
    Completions(completions::CompletionsArgs),
}

/// Understands this process's command line and environment. A variable that is empty counts as one that is not set: that is how shells,
/// Compose files and unit files leave one out.
///
/// # Errors
/// It cannot be understood; or help or a version was asked for.
pub(crate) fn parse() -> Result<Cli, clap::Error> {
    let mut command = without_empty_variables(Cli::command());
    let matches = command.try_get_matches_from_mut(std::env::args_os())?;
    Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command))
}

fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = command.mut_args(|arg| match arg.get_env() {
        Some(name) if is_empty(name) => arg.env(None::<&'static str>),
        _ => arg,
    });
    command.mut_subcommands(without_empty_variables)
}

/// Whether what is wrong with the command line is a token on it.
pub(crate) fn names_token_itself(error: &clap::Error) -> bool {
    matches!(error.get(ContextKind::InvalidArg), Some(ContextValue::String(flag)) if flag == "--token")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The commands, each with its name.
    fn commands() -> Vec<clap::Command> {
        let mut cli = Cli::command();
        cli.build();
        cli.get_subcommands().filter(|c| c.get_name() != "help").cloned().collect()
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_examples_that_parse() {
        for mut command in commands() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            let (_, examples) = help.split_once("Examples:").unwrap_or_else(|| panic!("{name} has none"));
            // A long one goes on in the next line, as in a shell.
            let examples = examples.replace("\\\n", " ");
            let examples: Vec<&str> =
                examples.lines().map(str::trim).filter(|l| l.starts_with("hatchery ")).collect();
            assert!(!examples.is_empty(), "{name}");
            for example in examples {
                let line = example.split(['|', '>', '#']).next().unwrap_or_default();
                // Quoted for the shell, which takes the quotes away.
                let words = line.split_whitespace().map(|word| word.trim_matches('\''));
                let parsed = Cli::try_parse_from(words);
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
                assert!(line.contains(&name), "{example} is no example of {name}");
            }
        }
    }

    #[test]
    fn every_flag_of_a_role_is_an_environment_variable_too() {
        for command in commands() {
            if !["frontdoor", "relay", "agent", "dev"].contains(&command.get_name()) {
                continue;
            }
            for arg in command.get_arguments() {
                let Some(long) = arg.get_long().filter(|l| !["help", "version"].contains(l)) else {
                    continue;
                };
                let wanted = format!("HATCHERY_{}", long.to_uppercase().replace('-', "_"));
                let env = arg.get_env().map(|e| e.to_string_lossy().into_owned());
                assert_eq!(env.as_deref(), Some(wanted.as_str()), "{} --{long}", command.get_name());
            }
        }
    }

    #[test]
    fn a_token_on_the_command_line_is_refused_without_repeating_it() {
        for line in [
            &["hatchery", "spawn", "--token", "hush"][..],
            &["hatchery", "nodes", "--token=hush"],
            &["hatchery", "--token", "hush", "spawn"],
        ] {
            let error = Cli::try_parse_from(line).unwrap_err();
            assert!(names_token_itself(&error), "{line:?}: {error:?}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        let other = Cli::try_parse_from(["hatchery", "spawn", "--tokens", "x"]).unwrap_err();
        assert!(!names_token_itself(&other));
    }

    #[test]
    fn flags_of_the_connection_may_stand_before_the_command_and_those_after_it_win() {
        let line = ["hatchery", "--ca", "a", "--token-file", "b", "show", "x", "--ca", "c"];
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Show(args) = &cli.command else { panic!("{cli:?}") };
        assert_eq!(args.flags.ca(&cli.before), Some(Path::new("c")));
        assert_eq!(args.flags.token_file(&cli.before), Some(Path::new("b")));
        assert!(!cli.before.is_empty());
    }
}
