//! One module per command.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod completions;
pub(crate) mod cordon;
pub(crate) mod dev;
pub(crate) mod drain;
pub(crate) mod frontdoor;
pub(crate) mod key;
pub(crate) mod log;
pub(crate) mod nodes;
mod redraw;
pub(crate) mod relay;
mod role;
pub(crate) mod show;
pub(crate) mod soak;
pub(crate) mod spawn;
pub(crate) mod spawns;
pub(crate) mod stop;
pub(crate) mod token;
pub(crate) mod watch;

use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::args::{Before, Cli, ClientFlags, Command};
use crate::client::Client;
use crate::connector::Connector;
use crate::credential::{Credential, WHERE};
use crate::exit::Exit;
use crate::failure::{Failure, say};
use crate::logging;

/// How long an answer may take that needs no process to start.
const ANSWER: Duration = Duration::from_secs(10);

/// What a command that talks to a front door works with.
#[derive(Debug)]
pub(crate) struct Context {
    /// The front door.
    pub(crate) client: Client,
    /// Whether a program reads the output.
    pub(crate) json: bool,
}

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Exit {
    let before = cli.before;
    let role = |outcome: Result<Exit, Failure>| {
        let exit = outcome.unwrap_or_else(|failure| failure.report(false));
        logging::flush();
        exit
    };
    let talks = !matches!(
        cli.command,
        Command::Frontdoor(_)
            | Command::Agent(_)
            | Command::Dev(_)
            | Command::Key(_)
            | Command::Token(_)
            | Command::Certs(_)
            | Command::Completions(_)
    );
    if !talks && !before.is_empty() {
        let message = "--server, --json, --token-file and --ca go with commands that talk to a front door";
        return Failure::usage(message).report(false);
    }
    match cli.command {
        Command::Frontdoor(args) => role(frontdoor::run(*args)),
        Command::Relay(args) => role(relay::run(*args)),
        Command::Agent(args) => role(agent::run(*args)),
        Command::Dev(args) => role(dev::run(&args)),
        Command::Key(args) => role(key::run(args)),
        Command::Token(args) => role(token::run(args)),
        Command::Certs(args) => role(certs::run(&args)),
        Command::Completions(args) => role(completions::run(&args)),
        Command::Spawn(args) => {
            let timeout = args.spawn.timeout();
            ask(&before, &args.flags, timeout, async |context| spawn::run(context, &args).await)
        }
        Command::Spawns(args) => {
            ask(&before, &args.flags, ANSWER, async |context| spawns::run(context, &args).await)
        }
        Command::Show(args) => {
            ask(&before, &args.flags, ANSWER, async |context| show::run(context, &args).await)
        }
        Command::Log(args) => {
            ask(&before, &args.flags, ANSWER, async |context| log::run(context, &args).await)
        }
        Command::Stop(args) => {
            ask(&before, &args.flags, ANSWER, async |context| stop::run(context, &args).await)
        }
        Command::Nodes(args) => {
            ask(&before, &args.flags, ANSWER, async |context| nodes::run(context, &args).await)
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
        let client = client(before, flags, timeout)?;
        anonymous = !client.credential().is_some();
        block_on(Builder::new_current_thread(), command(&Context { client, json }))
    };
    match work() {
        Ok(exit) => exit,
        Err(failure) => {
            let exit = failure.report(json);
            if anonymous && matches!(&failure, Failure::Call(error) if error.is_unauthenticated()) {
                say(&format!("  note: {WHERE}"));
            }
            exit
        }
    }
}

/// What the flags and the environment say of the front door and of who calls.
fn client(before: &Before, flags: &ClientFlags, timeout: Duration) -> Result<Client, Failure> {
    let server = flags.server(before)?;
    let credential = Arc::new(Credential::find(flags.token_file(before))?);
    let connector = Connector::new(flags.ca(before))?;
    if credential.is_some() && server.is_exposed() {
        say(&format!(
            "warning: the token goes to {server} unencrypted; with https:// nobody reads it on the way"
        ));
    }
    Ok(Client::new(&server, connector, credential, flags.timeout.unwrap_or(timeout))?)
}

/// Threads for blocking work: reading of files that may be replaced, and names that are looked up.
const MAX_BLOCKING_THREADS: usize = 64;

/// A thread could not be made.
pub(crate) fn no_thread(error: &io::Error) -> Failure {
    Failure::failed(format!(
        "cannot start: this user, or the machine, is out of threads (see ulimit -u and pids.max): {error}"
    ))
}

/// Makes as many threads as a runtime begins with, which would panic if it did not get them.
///
/// # Errors
/// One could not be made.
fn threads_can_be_made() -> io::Result<()> {
    let count = thread::available_parallelism().map_or(1, usize::from) + 1;
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // They end with this guard.
        let _closed = gate.lock();
        for _ in 0..count {
            thread::Builder::new().spawn_scoped(scope, || drop(gate.lock()))?;
        }
        Ok(())
    })
}

/// Runs this on a runtime with timers and sockets. What is still running after it, such as the look-up of a name, is not
/// waited for.
pub(crate) fn block_on<T>(
    mut builder: Builder,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    threads_can_be_made().map_err(|error| no_thread(&error))?;
    // Without a thread for blocking work, and with none to be had, the runtime panics. One is made now, and threads stay.
    builder.enable_all().thread_keep_alive(Duration::MAX).max_blocking_threads(MAX_BLOCKING_THREADS);
    let runtime = builder.build().map_err(|e| Failure::failed(format!("cannot start a runtime: {e}")))?;
    drop(runtime.spawn_blocking(|| ()));
    let outcome = runtime.block_on(work);
    runtime.shutdown_background();
    outcome
}
