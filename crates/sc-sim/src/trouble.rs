//! Carries out misbehaviour that needs the operating system. [`crate::misbehave`] parses what is asked for.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::io::{self, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Signal, getpid, kill_process};

use crate::exit_code::Exit;
use crate::log::Log;
use crate::misbehave::{Death, Fatal};

/// Installs a handler for SIGTERM that only sets a flag. Unlike an ignored signal, a handler is not inherited, so the
/// grandchild still ends when its group gets the signal.
pub(crate) fn ignore_term() -> io::Result<()> {
    signal_hook::flag::register(signal_hook::consts::SIGTERM, Arc::new(AtomicBool::new(false)))?;
    Ok(())
}

/// Starts a process that this one never waits for. It inherits no socket (std opens all of them close-on-exec) and no
/// output, so it outlives this process without holding anything but its place in the group.
pub(crate) fn fork_grandchild(log: &Log) -> io::Result<()> {
    let grandchild = Command::new("sleep")
        .arg("600")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    log.info(format_args!("grandchild pid: {}", grandchild.id()));
    Ok(())
}

/// Writes to stdout until the process ends or stdout is gone.
pub(crate) fn flood(bytes_per_sec: u64) -> io::Result<()> {
    const LINE: &[u8] =
        b"flood: the quick brown fox jumps over the lazy dog, again and again and again ...\n";
    let started = Instant::now();
    let write_on = move || {
        let mut written = 0_u64;
        loop {
            if bytes_per_sec > 0 {
                let due = started.elapsed().as_millis() * u128::from(bytes_per_sec) / 1000;
                if u128::from(written) >= due {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
            }
            if io::stdout().write_all(LINE).is_err() {
                // There may be room again.
                thread::sleep(Duration::from_millis(1));
                continue;
            }
            written += LINE.len() as u64;
        }
    };
    thread::Builder::new().name("flood".to_owned()).spawn(write_on)?;
    Ok(())
}

/// True with the given chance. The hasher's keys are random per process, which is all the randomness this needs.
pub(crate) fn strikes(ratio: f64) -> bool {
    let random = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits are what a double holds exactly")]
    let uniform = random as f64 / (1_u64 << 53) as f64;
    uniform < ratio
}

/// Ends the process at once. Returns only when it is to end by exit code.
pub(crate) fn crash(death: Death) -> Exit {
    let signal = match death {
        Death::Code(code) => return Exit::Other(code),
        Death::Signal(Fatal::Kill) => Signal::KILL,
        Death::Signal(Fatal::Segv) => Signal::SEGV,
        Death::Signal(Fatal::Abrt) => Signal::ABORT,
    };
    // Rust's own handler for SIGSEGV takes the first one for a chance to look for a stack overflow and puts the default
    // back, so the second is the one that kills.
    loop {
        if kill_process(getpid(), signal).is_err() {
            std::process::abort();
        }
    }
}
