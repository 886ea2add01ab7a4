//! From the command line to the command: what it works with, and what the process exits with.

use std::time::Duration;

use clap::CommandFactory;
use tokio::runtime::Builder;

use crate::args::{Before, ClientFlags};
use crate::command_line::{Cli, Command};
use crate::commands::{
    agent, audit, bench, certs, completions, cordon, dev, doctor, drain, explain, forget, frontdoor, key,
    log, nodes, relay, show, soak, spawn, spawns, stop, token, waiting, watch,
};
use crate::context::{ANSWER, Context};
use crate::credential::WHERE;
use crate::exit::Exit;
use crate::failure::{Failure, Readers};
use crate::runtime::block_on;
use crate::standard_error::{self, say};

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Exit {
    let before = cli.before;
    let role = |outcome: Result<Exit, Failure>| {
        let exit = outcome.unwrap_or_else(|failure| failure.report(Readers::People));
        standard_error::flush();
        exit
    };
    let talks = !matches!(
        cli.command,
        Command::Frontdoor(_)
            | Command::Relay(_)
            | Command::Agent(_)
            | Command::Dev(_)
            | Command::Key(_)
            | Command::Token(_)
            | Command::Certs(_)
            | Command::Completions(_)
    );
    if !talks && !before.is_empty() {
        let message = "--server, --json, --token-file and --ca go with commands that talk to a front door";
        return Failure::usage(message).report(Readers::People);
    }
    match cli.command {
        Command::Frontdoor(args) => role(frontdoor::run(*args)),
        Command::Relay(args) => role(relay::run(*args)),
        Command::Agent(args) => role(agent::run(*args)),
        Command::Dev(args) => role(dev::run(&args)),
        Command::Key(args) => role(key::run(args)),
        Command::Token(args) => role(token::run(args)),
        Command::Certs(args) => role(certs::run(&args)),
        Command::Completions(args) => role(completions::run(&args, &mut Cli::command())),
        Command::Doctor(args) => {
            let json = args.flags.json || before.json;
            doctor::run(&before, *args).unwrap_or_else(|failure| failure.report(Readers::of(json)))
        }
        Command::Spawn(args) => {
            let timeout = args.spawn.timeout();
            ask(&before, &args.flags, timeout, async |context| spawn::run(context, &args).await)
        }
        Command::Explain(args) => {
            ask(&before, &args.flags, ANSWER, async |context| explain::run(context, &args).await)
        }
        Command::Spawns(mut args) => {
            args.flags.json |= args.is_json();
            ask(&before, &args.flags, ANSWER, async |context| spawns::run(context, &args).await)
        }
        Command::Show(mut args) => {
            args.flags.json |= args.is_json();
            ask(&before, &args.flags, ANSWER, async |context| show::run(context, &args).await)
        }
        Command::Log(args) => {
            ask(&before, &args.flags, ANSWER, async |context| log::run(context, &args).await)
        }
        Command::Stop(args) => {
            ask(&before, &args.flags, ANSWER, async |context| stop::run(context, &args).await)
        }
        Command::Nodes(mut args) => {
            args.flags.json |= args.is_json();
            ask(&before, &args.flags, ANSWER, async |context| nodes::run(context, &args).await)
        }
        Command::Waiting(mut args) => {
            args.flags.json |= args.is_json();
            ask(&before, &args.flags, ANSWER, async |context| waiting::run(context, &args).await)
        }
        Command::Audit(mut args) => {
            args.flags.json |= args.is_json();
            ask(&before, &args.flags, ANSWER, async |context| audit::run(context, &args).await)
        }
        Command::Watch(args) => {
            ask(&before, &args.flags, ANSWER, async |context| watch::run(context, &args).await)
        }
        Command::Cordon(args) => {
            ask(&before, &args.flags, ANSWER, async |context| cordon::run(context, &args).await)
        }
        Command::Uncordon(args) => {
            ask(&before, &args.flags, ANSWER, async |context| cordon::undo(context, &args).await)
        }
        Command::Drain(args) => {
            ask(&before, &args.flags, ANSWER, async |context| drain::run(context, &args).await)
        }
        Command::Forget(args) => {
            ask(&before, &args.flags, ANSWER, async |context| forget::run(context, &args).await)
        }
        Command::Soak(args) => {
            let timeout = args.spawn.timeout();
            ask(&before, &args.flags, timeout, async |context| soak::run(context, &args).await)
        }
        Command::Bench(args) => {
            let timeout = args.spawn.timeout();
            ask(&before, &args.flags, timeout, async |context| bench::run(context, &args).await)
        }
    }
}

/// Runs a command that talks to a front door; one thread is enough for it.
fn ask(
    before: &Before,
    flags: &ClientFlags,
    timeout: Duration,
    command: impl AsyncFnOnce(&Context) -> Result<Exit, Failure>,
) -> Exit {
    let json = flags.json || before.json;
    let mut anonymous = false;
    let work = || {
        let context = Context::new(before, flags, timeout)?;
        anonymous = !context.client.credential().is_some();
        block_on(Builder::new_current_thread(), command(&context))
    };
    match work() {
        Ok(exit) => exit,
        Err(failure) => {
            let exit = failure.report(Readers::of(json));
            if anonymous && matches!(&failure, Failure::Call(error) if error.is_unauthenticated()) {
                say(&format!("  note: {WHERE}"));
            }
            exit
        }
    }
}
