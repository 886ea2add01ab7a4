//! Front doors as clients, operators and agents meet them: real sockets, the embedded registry, scripted agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fake_agent;
mod farm;
mod http;
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
mod reaching;
mod spawning;
mod surface;
