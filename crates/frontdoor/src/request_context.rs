//! What ties everything that is done for one request together: its id, and its place in a trace.

use std::ops::Deref;

use axum::http::{Extensions, HeaderMap};
use model::{Phases, RequestId};
use tokio::time::Instant;
use tonic::metadata::{AsciiMetadataValue, MetadataMap};
use traces::{Context, TRACEPARENT, TRACESTATE, Trace};

/// See the module's documentation. Where only the id is wanted, it stands for it.
#[derive(Debug, Clone)]
pub(crate) struct RequestContext {
    pub(crate) id: RequestId,
    pub(crate) trace: Trace,
    /// When the front door began to read it.
    pub(crate) began: Instant,
}

impl RequestContext {
    /// The one that the observer gave the request.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get().cloned().unwrap_or_else(|| RequestId::mint().into())
    }
}

/// A request without a trace.
impl From<RequestId> for RequestContext {
    fn from(id: RequestId) -> Self {
        Self { id, trace: Trace::default(), began: Instant::now() }
    }
}

impl Deref for RequestContext {
    type Target = RequestId;

    fn deref(&self) -> &RequestId {
        &self.id
    }
}

/// The caller's place in a trace, if it sent one that is well-formed.
pub(crate) fn caller(headers: &HeaderMap) -> Option<Context> {
    let values = |name| headers.get_all(name).iter().map(|value| value.as_bytes());
    Context::read(values(TRACEPARENT), values(TRACESTATE))
}

/// Carries to an agent how far the request had come.
pub(crate) fn report(phases: &Phases, metadata: &mut MetadataMap) {
    let json = serde_json::to_string(phases).unwrap_or_default();
    if let Ok(json) = AsciiMetadataValue::try_from(json) {
        metadata.insert(wire::PHASES, json);
    }
}

/// Names the place in the trace to a called process.
pub(crate) fn pass_on(trace: &Trace, metadata: &mut MetadataMap) {
    let Some(context) = trace.context() else { return };
    if let Ok(parent) = AsciiMetadataValue::try_from(context.to_string()) {
        metadata.insert(TRACEPARENT, parent);
    }
    if let Some(Ok(state)) = context.state().map(AsciiMetadataValue::try_from) {
        metadata.insert(TRACESTATE, state);
    }
}
