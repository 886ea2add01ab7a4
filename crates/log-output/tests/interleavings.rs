//! The buffer of the log in every order in which its threads can run, by loom.

/// What the buffer is built on: here the types of loom, which runs a model in all orders.
mod sync {
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
}

#[path = "../src/buffer.rs"]
mod buffer;

use std::time::Duration;

use loom::sync::Arc;
use loom::sync::atomic::{AtomicUsize, Ordering};
use loom::thread;

use self::buffer::Buffer;

const LONG: Duration = Duration::from_secs(3600);

#[test]
fn no_line_is_lost_or_written_twice_however_threads_take_turns() {
    loom::model(|| {
        let buffer = Arc::new(Buffer::new(100));
        let theirs = Arc::clone(&buffer);
        let other = thread::spawn(move || theirs.push(b"a\n", 1));
        let theirs = Arc::clone(&buffer);
        let writer = thread::spawn(move || {
            let (mut all, mut batch) = (Vec::new(), Vec::new());
            while all.len() < 4 {
                assert_eq!(theirs.take(&mut batch), 0);
                all.append(&mut batch);
                theirs.wrote();
            }
            all
        });
        assert!(buffer.push(b"b\n", 1));
        assert!(other.join().unwrap());
        let all = writer.join().unwrap();
        assert!(all == b"a\nb\n" || all == b"b\na\n", "{all:?}");
    });
}

#[test]
fn a_flush_returns_once_what_was_logged_before_it_is_written_and_always_returns() {
    loom::model(|| {
        let buffer = Arc::new(Buffer::new(100));
        let written = Arc::new(AtomicUsize::new(0));
        assert!(buffer.push(b"a\n", 1));
        let (theirs, count) = (Arc::clone(&buffer), Arc::clone(&written));
        let writer = thread::spawn(move || {
            let mut batch = Vec::new();
            while count.load(Ordering::SeqCst) < 4 {
                theirs.take(&mut batch);
                count.fetch_add(batch.len(), Ordering::SeqCst);
                batch.clear();
                theirs.wrote();
            }
        });
        let theirs = Arc::clone(&buffer);
        let other = thread::spawn(move || theirs.push(b"b\n", 1));
        assert!(buffer.flush_within(LONG));
        assert!(written.load(Ordering::SeqCst) >= 2, "the line before the flush is not written");
        assert!(other.join().unwrap());
        writer.join().unwrap();
    });
}

#[test]
fn every_dropped_line_is_reported_once() {
    loom::model(|| {
        let buffer = Arc::new(Buffer::new(2));
        assert!(buffer.push(b"a\n", 1));
        let theirs = Arc::clone(&buffer);
        let other = thread::spawn(move || u64::from(!theirs.push(b"b\n", 1)));
        let mut batch = Vec::new();
        let mut reported = buffer.take(&mut batch);
        let dropped = other.join().unwrap();
        // The buffer has its line, or is empty and takes another one.
        buffer.push(b"c\n", 0);
        batch.clear();
        reported += buffer.take(&mut batch);
        assert_eq!(reported, dropped);
    });
}
