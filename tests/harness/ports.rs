//! Ports that no other test uses: blocks of them, below those that the kernel hands out by itself.

use std::net::{Ipv4Addr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU16, Ordering};

/// Where blocks begin. Browsers refuse none of the ports from here on.
const FIRST: u16 = 20_000;
/// Ports of a block, the guarding one included.
const SIZE: u16 = 50;
/// How many blocks there are: up to 32749, just below the kernel's own range.
const COUNT: u16 = 255;

/// A block of ports. Whoever else asks for blocks, in this process or another, gets different ones while it lives.
#[derive(Debug)]
pub struct Block {
    first: u16,
    /// Listens on the block's first port, which is how the block is marked as taken.
    _taken: TcpListener,
}

impl Block {
    /// Takes the next block that is free.
    pub fn take() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        // Processes begin at different places, so that they seldom meet.
        let start = u16::try_from(std::process::id() % u32::from(COUNT)).unwrap_or(0);
        for _ in 0..COUNT {
            let index = (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
            let first = FIRST + index * SIZE;
            if let Ok(taken) = TcpListener::bind((Ipv4Addr::LOCALHOST, first)) {
                return Self { first, _taken: taken };
            }
        }
        panic!("all {COUNT} blocks of ports are taken");
    }

    /// The first `count` of its ports.
    pub fn range(&self, count: u16) -> RangeInclusive<u16> {
        assert!(count < SIZE, "a block has {} ports", SIZE - 1);
        self.first + 1..=self.first + count
    }

    /// One of its ports, from the far end.
    pub fn single(&self) -> u16 {
        self.first + SIZE - 1
    }
}
