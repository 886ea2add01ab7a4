//! Deterministic simulation of a farm: the real front doors, agents and embedded registry, in one thread, under virtual time, on a network and
//! machines that fail by a seed.
//!
//! `tests/simulate` runs it; see `docs/internals/simulation.md`. Each seed has a process of its own, because a simulation takes over the
//! process's clock and randomness.

mod at_rest;
mod callers;
mod defects;
mod ended_calls;
mod events;
mod farm;
mod faults;
mod http;
mod keys;
mod machine;
mod network;
mod promises;
mod registry_way;
mod run;
mod seeds;
mod server;
mod steps;
mod stoppers;
mod subscriber;
mod trouble;

use std::process::ExitCode;

/// Seeds that are run where nothing is said, as with all other tests.
const FEW: u64 = 12;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)?.parse::<u64>().ok()
    };
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    if let Some(seed) = number("--seed") {
        return run::run(seed, !has("--quiet"));
    }
    // Cargo asks every test for its list.
    if has("--list") {
        return ExitCode::SUCCESS;
    }
    let seeds = (number("--from").unwrap_or(0), number("--seeds").unwrap_or(FEW));
    seeds::run(seeds, has("--until-found"))
}
