//! Traces: from the caller's `traceparent` to the agent, recorded as OpenTelemetry spans and exported by OTLP.
//!
//! A request's [`Trace`] says where in which trace it stands. It travels with the request id, through the front door and by gRPC to the
//! agent, also where nothing is recorded: log lines and records of spawns name the caller's trace. A [`Span`] is a part of a request
//! that is measured.
//!
//! - [`context`] reads and writes the headers of W3C Trace Context.
//! - [`settings`] reads the standard `OTEL_*` variables. A value that is not understood is an error that names its variable.
//! - [`sampler`] decides once for each request whether its spans are recorded.
//! - [`attribute`] has the names of what spans say.
//! - [`span`] has the spans, `export` brings them to a collector: `grpc` and `http` are the two protocols.
//!
//! Invariants: off by default, and then a request costs nothing here. A request that is not sampled costs one random number. A
//! collector that is slow or away delays nothing: finished spans wait in a bounded queue, and one that finds no room is dropped and
//! counted.
//!
//! Failure: spans that the collector does not accept are counted and lost. Nothing here fails a request.
//!
//! ```
//! use traces::{Context, Tracer};
//!
//! let caller = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
//! let caller = Context::read([caller.as_bytes()].into_iter(), std::iter::empty());
//! // Off: nothing is recorded, and the caller's trace is passed on.
//! let trace = Tracer::off().serve(caller, || "POST /spawn".to_owned());
//! assert!(!trace.is_recorded());
//! let reserve = trace.child("reserve");
//! assert_eq!(reserve.id().unwrap().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
//! reserve.end();
//! ```

pub mod attribute;
pub mod context;
mod export;
mod grpc;
mod http;
mod metrics;
mod pairs;
mod room;
pub mod sampler;
pub mod settings;
pub mod span;
mod start_error;
mod sync;
mod tracer;

pub use context::{Context, TRACEPARENT, TRACESTATE};
pub use export::{Lost, exported_spans, lost_spans};
pub use metrics::{Exemplar, TraceMetrics, for_scraper};
pub use settings::{Settings, SettingsError};
pub use span::{Kind, Span, Trace};
pub use start_error::StartError;
pub use tracer::Tracer;
