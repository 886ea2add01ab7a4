//! The `hatchery` command: every role, every operator's verb, and the load generator.
//!
//! From the top layer to the lowest; a module names only those below it:
//!
//! | layer | modules |
//! | --- | --- |
//! | what is asked for | [`dispatch`] runs what [`command_line`] understood |
//! | commands | [`commands`]: one module per command |
//! | what commands work with | [`context`]; [`listing`] (forms of a list); [`spawn_ids`] (short ids); [`pages`] of spawns and [`node_pages`]; [`retry`] (calls that were too many a second); [`client`] (typed calls) and [`feed`] (the live feed) through [`connector`], with a [`credential`] |
//! | the process | [`logging`], [`runtime`], [`signals`], [`notify_socket`] (the service manager) |
//! | words of the command line | [`args`] (flags that several commands share), [`filter`] (which spawns are meant) |
//! | results for people and scripts | [`failure`], [`call_error`], [`output`], [`yaml`], [`standard_error`], [`exit`] |
//! | what is named | [`server`] (the address of a front door), [`spawn_events`] (a spawn's stages, as a front door streams them) |
//!
//! A command returns its exit code or a [`failure::Failure`]; nothing else ends the process. Only [`credential`] reads a token, and nothing
//! prints one.

mod args;
mod call_error;
mod client;
mod command_line;
mod commands;
mod connector;
mod context;
mod credential;
mod dispatch;
mod exit;
mod failure;
mod feed;
mod filter;
mod listing;
mod logging;
mod node_pages;
mod notify_socket;
mod output;
mod pages;
mod retry;
mod runtime;
mod server;
mod signals;
mod spawn_events;
mod spawn_ids;
mod standard_error;
mod yaml;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut words = std::env::args_os();
    let name = words.next();
    if let Some(simulator) = commands::dev::simulator_named(name.as_deref()) {
        return simulator(words);
    }
    if name.is_some_and(|name| name == agent::LAUNCHER) {
        return agent::launch(words);
    }
    match command_line::parse() {
        Ok(cli) => dispatch::run(cli).into(),
        Err(error) => {
            // Help and version are answers, not errors; clap knows where each goes.
            error.print().ok();
            if command_line::names_token_itself(&error) {
                standard_error::say(command_line::NO_TOKEN_FLAG);
            }
            if error.use_stderr() { exit::Exit::Usage.into() } else { exit::Exit::Done.into() }
        }
    }
}
