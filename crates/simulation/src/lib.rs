//! Time and randomness of a process, taken from a seed instead of from the kernel.
//!
//! Everything that a Rust program knows of time (`Instant`, `SystemTime`) and of chance (`RandomState` and so the order of a `HashMap`, the
//! branches of `tokio::select!`, the numbers of `uuid` and `fastrand`) comes from two functions of the C library: `clock_gettime` and
//! `getrandom`. A program that links this crate calls those of this file. Until [`begin`] they do what the library's do.
//!
//! Owns the state behind them, which is one for the process: a process runs one simulation. Nothing else may be asked of the kernel: time
//! from a system call, or threads that run beside the simulation, would make two runs of a seed differ.

use std::ffi::{c_int, c_long, c_uint, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Whether the simulation has begun.
static BEGUN: AtomicBool = AtomicBool::new(false);
/// Nanoseconds since the simulation began.
static ELAPSED: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds by which the clock that can be set was set.
static STEPPED: AtomicI64 = AtomicI64::new(0);
/// The state of the generator.
static ENTROPY: AtomicU64 = AtomicU64::new(0);

/// What the monotonic clocks show when a simulation begins: everything may look a day back.
const BEGAN: Duration = Duration::from_secs(1_000_000);
/// The date on which every simulation begins, in seconds since 1970.
const DATE: u64 = 1_800_000_000;
const NANOS: u64 = 1_000_000_000;

/// From here on time stands still until [`set_elapsed`], and all randomness comes from `seed`.
pub fn begin(seed: u64) {
    ENTROPY.store(seed, Ordering::SeqCst);
    BEGUN.store(true, Ordering::SeqCst);
}

/// So much time has passed since the simulation began. It never goes back.
pub fn set_elapsed(elapsed: Duration) {
    ELAPSED.fetch_max(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX), Ordering::SeqCst);
}

/// Sets the clock that can be set by so many milliseconds.
pub fn step_clock(millis: i64) {
    STEPPED.fetch_add(millis.saturating_mul(1_000_000), Ordering::SeqCst);
}

/// The next number of the generator (SplitMix64, Steele et al. 2014).
fn next() -> u64 {
    let state =
        ENTROPY.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn now(clock: libc::clockid_t) -> u64 {
    let elapsed = ELAPSED.load(Ordering::SeqCst);
    match clock {
        libc::CLOCK_REALTIME | libc::CLOCK_REALTIME_COARSE => {
            (DATE * NANOS + elapsed).saturating_add_signed(STEPPED.load(Ordering::SeqCst))
        }
        _ => BEGAN.as_secs() * NANOS + elapsed,
    }
}

/// Stands in for the C library's.
///
/// # Safety
/// As there: `time` is null or may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> c_int {
    if !BEGUN.load(Ordering::Relaxed) {
        // SAFETY: the arguments are passed on as they came.
        let done = unsafe { libc::syscall(libc::SYS_clock_gettime, c_long::from(clock), time) };
        return c_int::try_from(done).unwrap_or(-1);
    }
    let now = now(clock);
    // SAFETY: the caller may pass null or a place for the answer.
    if let Some(time) = unsafe { time.as_mut() } {
        time.tv_sec = libc::time_t::try_from(now / NANOS).unwrap_or(libc::time_t::MAX);
        time.tv_nsec = c_long::try_from(now % NANOS).unwrap_or(0);
    }
    0
}

/// Stands in for the C library's.
///
/// # Safety
/// As there: `buffer` is the beginning of `length` bytes that may be written to.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    if !BEGUN.load(Ordering::Relaxed) {
        // SAFETY: the arguments are passed on as they came.
        let done = unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) };
        return isize::try_from(done).unwrap_or(-1);
    }
    if length > 0 && !buffer.is_null() {
        // SAFETY: the caller passes that many bytes, and keeps them from others during the call.
        let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&next().to_le_bytes()[..chunk.len()]);
        }
    }
    isize::try_from(length).unwrap_or(isize::MAX)
}
