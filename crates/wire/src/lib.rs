//! The gRPC contract between front doors and agents: what `proto/hatchery/v1/agent.proto` says, as generated code.
//!
//! The generated files are checked in, so that a build needs neither `protoc` nor a code generator. `cargo test -p wire`
//! fails when they do not match the contract; `HATCHERY_REGENERATE=1 cargo test -p wire` rewrites them.

/// `hatchery.v1`.
#[allow(clippy::all, missing_docs, missing_debug_implementations, unreachable_pub)]
#[rustfmt::skip]
pub mod v1 {
    include!("gen/hatchery.v1.rs");
}

mod convert;

/// The contract in binary form, for the reflection service.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.bin");

/// Metadata key that carries the request id from the front door to the agent's and the spawn's log.
pub const REQUEST_ID: &str = "x-request-id";
