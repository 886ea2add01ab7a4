//! The gRPC contract between front doors and agents: `proto/hatchery/v1/agent.proto` as generated code, and conversions to
//! the types of [`model`].
//!
//! The generated files are checked in, so a build needs neither `protoc` nor a code generator. `cargo test -p wire` fails
//! when they do not match the contract; `HATCHERY_REGENERATE=1 cargo test -p wire` rewrites them.
//!
//! Front doors and agents of two releases talk to each other during an upgrade. So numbers of fields are never reused, a
//! new field must have a meaning when it is absent, and unknown enum values are handled where they are read.
//!
//! # Examples
//!
//! A call as front doors make it: with a deadline, which travels to the agent, and with the request id. No agent listens
//! here.
//!
//! ```
//! use std::time::Duration;
//!
//! use tonic::transport::Endpoint;
//! use wire::v1::{self, node_agent_client::NodeAgentClient};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let channel = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let mut agent = NodeAgentClient::new(channel);
//!
//! let mut request = tonic::Request::new(v1::StopRequest {
//!     spawn_id: model::SpawnId::mint().to_string(),
//!     reason: String::new(),
//!     node: "node-a".to_owned(),
//! });
//! request.set_timeout(Duration::from_secs(5));
//! request.metadata_mut().insert(wire::REQUEST_ID, "request-1".parse()?);
//! let error = agent.stop(request).await.unwrap_err();
//! assert_eq!(error.code(), tonic::Code::Unavailable);
//! # Ok(())
//! # }
//! ```
//!
//! An agent serves what implements [`NodeAgent`](v1::node_agent_server::NodeAgent):
//!
//! ```
//! use tonic::transport::server::{Router, Server};
//! use wire::v1::node_agent_server::{NodeAgent, NodeAgentServer};
//!
//! fn router(agent: impl NodeAgent) -> Router {
//!     Server::builder().add_service(NodeAgentServer::new(agent))
//! }
//! ```

/// The messages and services of package `hatchery.v1`; the contract documents them.
#[allow(clippy::all, missing_docs, missing_debug_implementations, unreachable_pub)]
#[rustfmt::skip]
pub mod v1 {
    include!("gen/hatchery.v1.rs");
}

mod convert;

/// The contract as an encoded `FileDescriptorSet`, for the reflection service.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.bin");

/// The metadata key of the request id, which ties a request's log lines in front door and agent together.
pub const REQUEST_ID: &str = "x-request-id";

/// The metadata key of how far a request had come before its agent was called: [`model::Phases`] as JSON.
pub const PHASES: &str = "x-hatchery-phases";
