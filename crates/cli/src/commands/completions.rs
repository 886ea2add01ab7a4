//! `hatchery completions`: writes the script by which a shell completes commands and flags. It is made from the command line's own
//! definition.

use std::io::{self, Write};

use clap::{Args, Command};
use clap_complete::Shell;

use crate::exit::Exit;
use crate::failure::Failure;

/// Prints a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    hatchery completions bash > /etc/bash_completion.d/hatchery\n  \
    hatchery completions zsh > ~/.zfunc/_hatchery\n  \
    hatchery completions fish > ~/.config/fish/completions/hatchery.fish")]
pub(crate) struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script for `line`, the whole command line.
pub(crate) fn run(args: &CompletionsArgs, line: &mut Command) -> Result<Exit, Failure> {
    // Into memory first: the generator panics when its output goes away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, line, "hatchery", &mut script);
    let mut out = io::stdout().lock();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Done)
}
