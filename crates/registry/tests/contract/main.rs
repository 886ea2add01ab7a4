//! One contract, two backends: every test here runs against the embedded registry and against a real Redis, alone, behind
//! TLS and as a cluster; `following` has what only Redis can do to us.

#![expect(clippy::unwrap_used, reason = "a panic is how a test fails, helpers included")]

mod bounded;
mod crowded;
mod deliveries;
mod differential;
mod events;
mod explain;
mod farm_cause;
mod following;
mod forget;
mod health;
mod idempotency;
mod identity;
mod incarnation;
mod interleavings;
mod judging;
mod keepalive;
mod kept;
mod line;
mod lists;
mod machine;
mod moods;
mod nodes;
mod orders;
mod owners;
#[path = "../../../../tests/harness/ports.rs"]
#[expect(unreachable_pub, reason = "public in the harness, whose file it is")]
mod ports;
mod repair;
mod servers;
mod slots;
mod spawns;
mod streams;
mod supply;
mod support;
mod tags;
mod truth;
mod users;
mod writes;
