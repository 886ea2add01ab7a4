//! Front doors as clients, operators and agents meet them: real sockets, the embedded registry, scripted agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake_agent;
mod farm;
mod http;
#[path = "../../../../tests/harness/ports.rs"]
#[expect(unreachable_pub, dead_code, reason = "public in the harness, whose file it is, and used there")]
mod ports;
mod redis_server;
mod wait;

mod doing_without;
mod draining;
mod health;
mod idempotency;
mod leaving;
mod line;
mod moods;
mod operating;
mod outage;
mod progress;
mod reaching;
mod spawning;
mod surface;
