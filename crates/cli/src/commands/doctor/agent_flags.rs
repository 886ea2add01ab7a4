//! The flags of `hatchery agent`, read by its own parser, and which of them stand on the command line.
//!
//! They mean nothing without `--agent`. The environment may hold them all the same, as it does on a node, so only those of the command
//! line are an error then.

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use crate::args::LogFlags;

/// The flags of an agent, but for those of its registry.
#[derive(Debug, Args)]
struct Flags {
    #[command(flatten)]
    options: ::agent::Options,
    /// Taken, so that the command line of an agent can be used as it is.
    #[command(flatten)]
    _log: LogFlags,
}

#[derive(Debug)]
pub(super) struct AgentFlags {
    pub(super) options: Box<::agent::Options>,
    /// The names of those that stand on the command line.
    pub(super) given: Vec<String>,
}

impl FromArgMatches for AgentFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let known = Flags::augment_args(Command::new(""));
        let given = known
            .get_arguments()
            .filter(|arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine));
        let given = given.filter_map(|arg| arg.get_long().map(str::to_owned)).collect();
        Ok(Self { options: Box::new(Flags::from_arg_matches(matches)?.options), given })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for AgentFlags {
    fn augment_args(command: Command) -> Command {
        Flags::augment_args(command)
    }

    fn augment_args_for_update(command: Command) -> Command {
        Flags::augment_args_for_update(command)
    }
}
