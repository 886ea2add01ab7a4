//! Where a request stands in a trace, and the parts of it that are measured.
//!
//! A [`Trace`] is passed along with a request, and cheap to clone. Without a caller's trace and without recording it is empty. A [`Span`] is
//! a part: it ends when it is dropped, and one that nothing was said of was cut short, since the caller has left or the role ends.
//!
//! Where nothing is recorded, a child has its parent's place and nothing is computed: names of attributes are static, and their values
//! are turned into text only for a span that is recorded.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use model::TraceId;
use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceState};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use tokio::time::Instant;

use crate::context::Context;
use crate::export::Pipeline;

/// What a span is towards other processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Work of this process alone.
    Internal,
    /// A call that this process answers.
    Server,
    /// A call that another process answers.
    Client,
}

/// See the module's documentation.
#[derive(Debug, Clone, Default)]
pub struct Trace {
    /// The span that children and called processes have as their parent.
    context: Option<Context>,
    recording: Option<Recording>,
}

#[derive(Debug, Clone)]
enum Recording {
    /// The place is another process's span.
    Remote(Arc<Pipeline>),
    /// The place is a span of this process.
    Own(Arc<Open>),
}

impl Recording {
    fn pipeline(&self) -> &Arc<Pipeline> {
        match self {
            Self::Remote(pipeline) => pipeline,
            Self::Own(open) => &open.pipeline,
        }
    }
}

/// A span that is recorded. It is exported once, at its end.
struct Open {
    /// `None`: it has ended. Held for a moment.
    data: Mutex<Option<SpanData>>,
    began: Instant,
    pipeline: Arc<Pipeline>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}

impl Open {
    fn data(&self) -> MutexGuard<'_, Option<SpanData>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self) {
        let data = self.data().take();
        if let Some(mut data) = data {
            // By the clock that cannot be set.
            data.end_time = data.start_time + self.began.elapsed();
            self.pipeline.finished(data);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end();
    }
}

impl Trace {
    /// The place of another process's span, whose children here are recorded where there is a pipeline.
    pub(crate) fn at(context: Context, pipeline: Option<Arc<Pipeline>>) -> Self {
        Self { context: Some(context), recording: pipeline.map(Recording::Remote) }
    }

    /// The first span of a trace.
    pub(crate) fn root(trace: TraceId, name: String, pipeline: &Arc<Pipeline>) -> Self {
        Self::open(pipeline, trace, None, name.into(), Kind::Server)
    }

    fn open(
        pipeline: &Arc<Pipeline>,
        trace: TraceId,
        parent: Option<&Context>,
        name: Cow<'static, str>,
        kind: Kind,
    ) -> Self {
        let span = fastrand::u64(1..);
        let context = parent.map_or_else(|| Context::root(trace, span), |parent| parent.child(span));
        let data = SpanData {
            span_context: exported(&context),
            parent_span_id: parent.map_or(SpanId::INVALID, |parent| parent.span.into()),
            parent_span_is_remote: false,
            span_kind: match kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Server => SpanKind::Server,
                Kind::Client => SpanKind::Client,
            },
            name,
            start_time: SystemTime::now(),
            end_time: SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: Status::Unset,
            instrumentation_scope: pipeline.scope(),
        };
        let open =
            Open { data: Mutex::new(Some(data)), began: Instant::now(), pipeline: Arc::clone(pipeline) };
        Self { context: Some(context), recording: Some(Recording::Own(Arc::new(open))) }
    }

    /// The trace's id, where there is a trace.
    #[must_use]
    pub fn id(&self) -> Option<TraceId> {
        self.context.as_ref().map(|context| context.trace)
    }

    /// What a called process gets as `traceparent` and `tracestate`.
    #[must_use]
    pub fn context(&self) -> Option<&Context> {
        self.context.as_ref()
    }

    /// Whether spans are recorded here.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// Begins a part that is work of this process alone.
    pub fn child(&self, name: &'static str) -> Span {
        self.child_of_kind(name, Kind::Internal)
    }

    /// Begins a part of this kind; it ends when the span is ended or dropped.
    pub fn child_of_kind(&self, name: &'static str, kind: Kind) -> Span {
        let trace = match (&self.recording, &self.context) {
            (Some(recording), Some(context)) => self.opened(recording, context, name.into(), kind),
            _ => self.clone(),
        };
        Span::of(trace)
    }

    /// Begins a part that answers the call of another process.
    pub(crate) fn served(&self, name: String) -> Self {
        match (&self.recording, &self.context) {
            (Some(recording), Some(context)) => self.opened(recording, context, name.into(), Kind::Server),
            _ => self.clone(),
        }
    }

    fn opened(&self, recording: &Recording, parent: &Context, name: Cow<'static, str>, kind: Kind) -> Self {
        let child = Self::open(recording.pipeline(), parent.trace, Some(parent), name, kind);
        if let Recording::Remote(_) = recording {
            child.change(|data| data.parent_span_is_remote = true);
        }
        child
    }

    fn change(&self, change: impl FnOnce(&mut SpanData)) {
        if let Some(Recording::Own(open)) = &self.recording
            && let Some(data) = &mut *open.data()
        {
            change(data);
        }
    }

    /// Sets an attribute of the span.
    pub fn note(&self, key: &'static str, value: impl fmt::Display) {
        self.change(|data| set(data, key, value.to_string().into()));
    }

    /// Sets an attribute of the span that is a number.
    pub fn count(&self, key: &'static str, value: impl TryInto<i64>) {
        self.change(|data| set(data, key, value.try_into().unwrap_or(i64::MAX).into()));
    }

    /// The span's work has failed. `kind` is a word that does not change, `why` is for people.
    pub fn fail(&self, kind: &str, why: impl fmt::Display) {
        self.change(|data| {
            set(data, "error.type", kind.to_owned().into());
            data.status = Status::error(why.to_string());
        });
    }

    /// Whether [`Self::fail`] was called of the span, while it is recorded.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        let mut failed = false;
        self.change(|data| failed = matches!(data.status, Status::Error { .. }));
        failed
    }

    /// The same place, for the task that carries the request on after [`Span::leave`].
    pub fn hold(&self) -> Span {
        Span::of(self.clone())
    }

    /// Ends the span, if it has not ended. Its children go on.
    pub fn end(&self) {
        if let Some(Recording::Own(open)) = &self.recording {
            open.end();
        }
    }
}

fn set(data: &mut SpanData, key: &'static str, value: Value) {
    match data.attributes.iter_mut().find(|known| known.key.as_str() == key) {
        Some(known) => known.value = value,
        None => data.attributes.push(KeyValue::new(key, value)),
    }
}

fn exported(context: &Context) -> SpanContext {
    // It was checked when it was read.
    let state = context.state().map(|state| state.parse().unwrap_or_default());
    SpanContext::new(
        context.trace.number().get().into(),
        context.span.into(),
        TraceFlags::new(context.flags),
        false,
        state.unwrap_or(TraceState::NONE),
    )
}

/// A part of a request. See the module's documentation.
#[derive(Debug)]
#[must_use = "a span that is dropped at once measures nothing"]
pub struct Span {
    trace: Trace,
    ended: bool,
}

impl Span {
    /// The place in the trace that this part is, for its own parts and for called processes.
    #[must_use]
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(crate) fn of(trace: Trace) -> Self {
        Self { trace, ended: false }
    }

    /// The part goes on until [`Trace::end`] is called of a clone of its place, at the latest until the last clone is gone.
    pub fn leave(mut self) {
        self.ended = true;
    }

    /// The part is over.
    pub fn end(mut self) {
        self.over();
    }

    /// The part is over and has failed. `kind` is a word that does not change, `why` is for people.
    pub fn end_failed(mut self, kind: &str, why: impl fmt::Display) {
        self.trace.fail(kind, why);
        self.over();
    }

    /// The part is not exported after all. Parts below it that have ended are.
    pub fn discard(mut self) {
        self.ended = true;
        if let Some(Recording::Own(open)) = &self.trace.recording {
            open.data().take();
        }
    }

    fn over(&mut self) {
        self.ended = true;
        self.trace.end();
    }
}

impl Deref for Span {
    type Target = Trace;

    fn deref(&self) -> &Trace {
        &self.trace
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if !self.ended {
            self.trace.fail("cancelled", "it was cut short");
            self.trace.end();
        }
    }
}
