//! The `hatchery` command: every role, every operator's verb, and the load generator.
//!
//! Reading order: [`args`] (what there is), [`commands`] (one module per command), [`client`] (typed calls to a front
//! door, through [`connector`] and with a [`credential`]), [`feed`] (what it tells as it happens), [`output`] and [`failure`] (what people and programs are told), [`exit`] (what scripts are told).

mod args;
mod client;
mod commands;
mod connector;
mod credential;
mod exit;
mod failure;
mod feed;
mod logging;
mod output;
mod server;
mod signals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next();
    if let Some(simulator) = commands::dev::simulator_named(name.as_deref()) {
        return simulator(words);
    }
    if name.is_some_and(|name| name == agent::LAUNCHER) {
        return agent::launch(words);
    }
    match args::Cli::try_parse() {
        Ok(cli) => commands::run(cli).into(),
        Err(error) => {
            // Help and version are answers, not errors; clap knows where each goes.
            error.print().ok();
            if args::names_token_itself(&error) {
                failure::say(args::NO_TOKEN_FLAG);
            }
            if error.use_stderr() { exit::Exit::Usage.into() } else { exit::Exit::Done.into() }
        }
    }
}
