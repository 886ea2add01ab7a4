//! Many seeds: each in a process of its own, as many at once as there are processors.

use std::process::{Command, ExitCode, Output};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// A run takes a fraction of a second. One in which virtual time stands still would never end.
const MAX_SECONDS: &str = "120";
/// Of so many seeds one is run twice, and must come to the same steps.
const TWICE_EVERY: u64 = 20;

/// Runs `count` seeds from `first` on, or until one breaks a promise, and says which of them did.
pub(crate) fn run((first, count): (u64, u64), until_found: bool) -> ExitCode {
    let began = Instant::now();
    let next = AtomicU64::new(first);
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let is_enough =
                        || until_found && !failed.lock().unwrap_or_else(PoisonError::into_inner).is_empty();
                    if seed >= first.saturating_add(count) || is_enough() {
                        return;
                    }
                    if let Err(why) = check(seed) {
                        println!("{why}");
                        failed.lock().unwrap_or_else(PoisonError::into_inner).push((seed, why));
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort();
    let seeds: Vec<String> = failed.iter().map(|(seed, _)| seed.to_string()).collect();
    println!(
        "simulate: {count} seeds, {} failed{}{} ({:.0} s)",
        failed.len(),
        if failed.is_empty() { "" } else { ": " },
        seeds.join(" "),
        began.elapsed().as_secs_f64()
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn check(seed: u64) -> Result<(), String> {
    let output = child(seed)?;
    if !output.status.success() {
        return Err(format!("{}seed {seed}: failed ({})", text(&output), output.status));
    }
    if seed.is_multiple_of(TWICE_EVERY) {
        let again = child(seed)?;
        if text(&again) != text(&output) {
            return Err(format!("seed {seed} is not the same twice: {}{}", text(&output), text(&again)));
        }
    }
    Ok(())
}

fn child(seed: u64) -> Result<Output, String> {
    let program = std::env::current_exe().map_err(|error| format!("where this program is: {error}"))?;
    let mut command = Command::new("timeout");
    command.args([MAX_SECONDS, &program.to_string_lossy(), "--quiet", "--seed", &seed.to_string()]);
    let output = command.output();
    output.map_err(|error| format!("failed to run seed {seed}: {error}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}
