//! Around every request: its id, its span, its metrics, its one line in the log, and the body of its error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, USER_AGENT};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::RequestId;
use model::api::ErrorCode;
use tokio::time::Instant;
use traces::attribute::{CODE, REQUEST_ID, STATUS};
use traces::{Context, Trace, Tracer};
use tracing::field::{Empty, display};
use tracing::{Instrument, debug, error_span, info, warn};

use super::error::{ApiError, render};
use super::extract;
use super::request_id::{self, X_REQUEST_ID};
use crate::metrics::RequestMetrics;
use crate::registry_access::tally::Tally;
use crate::request_context::{self, RequestContext};

/// Bytes of a request's address.
const MAX_URI: usize = 8192;
/// Bytes of a path in the log.
const MAX_LOGGED: usize = 200;
/// Bytes of a part of a path that may be a viewer's token. Ids of spawns are as long, but have dashes in them.
const MIN_SECRET: usize = 32;

/// What a caller's "sampled" flag counts for. Where it does not count, the request is one of a caller that does not record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallersFlag {
    /// It decides whether the request is recorded.
    Decides,
    /// The same, once the caller's credential is known to be valid and to suffice.
    DecidesIfAdmitted,
    /// Nothing.
    Ignored,
}

/// Who may call a route, where credentials are required at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OpenTo {
    /// Callers without a credential, too.
    Everybody,
    /// Callers with a good credential alone.
    KnownCallers,
}

impl CallersFlag {
    /// On such a route, of a front door where credentials are required on some routes or on none.
    pub(crate) fn on(route: OpenTo, credentials_required: bool) -> Self {
        match (credentials_required, route) {
            (false, _) => Self::Decides,
            (true, OpenTo::KnownCallers) => Self::DecidesIfAdmitted,
            (true, OpenTo::Everybody) => Self::Ignored,
        }
    }

    /// The caller's place in a trace, with the flag as far as it counts before the credential is judged.
    fn apply(self, caller: Context, headers: &HeaderMap) -> Context {
        let counts = match self {
            Self::Decides => true,
            Self::DecidesIfAdmitted => headers.contains_key(AUTHORIZATION),
            Self::Ignored => false,
        };
        if counts { caller } else { caller.unsampled() }
    }
}

/// The observer of one route.
#[derive(Debug, Clone)]
pub(crate) struct Observed {
    pub(crate) metrics: RequestMetrics,
    pub(crate) tracer: Tracer,
    /// `http` or `https`.
    pub(crate) scheme: &'static str,
    /// The route's template; a path would make a label for each id.
    pub(crate) route: &'static str,
    pub(crate) callers_flag: CallersFlag,
    pub(crate) tally: Arc<Tally>,
}

pub(crate) async fn observe(State(observed): State<Observed>, request: Request, next: Next) -> Response {
    around(observed, request, |request| next.run(request)).await
}

/// Marks an answer whose request goes on: the task that carries it out ends its part of the trace.
#[derive(Debug, Clone)]
pub(super) struct Streamed;

/// Whether a caller's credential is known to be valid and to suffice. The observer puts it among the extensions of a request that is
/// recorded by its caller's flag.
#[derive(Debug, Clone, Default)]
pub(super) struct Admitted(Arc<AtomicBool>);

impl Admitted {
    /// The caller of this request is admitted.
    pub(super) fn note(request: &Request) {
        if let Some(Self(admitted)) = request.extensions().get() {
            admitted.store(true, Ordering::Relaxed);
        }
    }
}

/// The same around whatever answers.
pub(crate) async fn around<F: Future<Output = Response>>(
    Observed { metrics, tracer, scheme, route, callers_flag, tally }: Observed,
    mut request: Request,
    answer: impl FnOnce(Request) -> F,
) -> Response {
    let began = Instant::now();
    let id = request_id::of(request.headers());
    let method = name(request.method());
    // These are called so often that a line each would be noise.
    let quiet = matches!(route, "/healthz" | "/readyz" | "/metrics") || route.starts_with("/pages/");
    let path = &*loggable(request.uri().path());
    let caller = request_context::caller(request.headers());
    let caller = caller.map(|caller| callers_flag.apply(caller, request.headers()));
    let by_its_flag = callers_flag == CallersFlag::DecidesIfAdmitted
        && caller.as_ref().is_some_and(|caller| !tracer.takes(&caller.clone().unsampled()));
    // Probes come all the time: they are in a trace only where their caller has one.
    let traced = if quiet && caller.is_none() { &Tracer::off() } else { &tracer };
    let part = traced.serve(caller, || format!("{method} {route}"));
    if part.is_recorded() {
        describe(&part, &request, &id, (route, scheme));
    }
    let trial = (by_its_flag && part.is_recorded()).then(Admitted::default);
    if let Some(trial) = &trial {
        request.extensions_mut().insert(trial.clone());
    }
    let trace_id = part.id().map(display);
    // Its level is that of the least that a log may show: lines of every level name the request.
    let span = error_span!(
        "request", requestId = %id, traceId = trace_id, path, owner = Empty, asked = Empty, spawn.id = Empty, node.id = Empty
    );
    request.extensions_mut().insert(RequestContext { id: id.clone(), trace: part.trace().clone(), began });
    let _in_flight = metrics.begin();

    let length = request.uri().path_and_query().map_or(0, |p| p.as_str().len());
    let mut response = if length > MAX_URI {
        let detail = format!("the address has {length} bytes, more than {MAX_URI}");
        ApiError::new(ErrorCode::InvalidRequest, detail).into_response()
    } else {
        answer(request).instrument(span.clone()).await
    };

    finish(&id, &mut response, |response, error| {
        let (status, took_us) = (response.status().as_u16(), micros(began.elapsed()));
        metrics.answered(route, method, status);
        part.count(STATUS, status);
        if let Some(error) = error {
            part.note(CODE, error.0.code.as_str());
        }
        match error {
            Some(error) if status >= 500 => part.fail(error.0.code.as_str(), &error.0.detail),
            // The handler may have said more.
            None if status >= 500 && !part.has_failed() => part.fail("server-error", status),
            Some(_) | None => {}
        }
        let _entered = span.enter();
        match error {
            Some(error) => {
                if route == "/spawn" && method == "POST" {
                    tally.count(error.0.code);
                }
                let (code, detail) = (error.0.code.as_str(), error.0.detail.as_str());
                // The farm could not do what it is for.
                if route == "/spawn" && matches!(status, 502..=504) {
                    warn!(method, route, status, took_us, code, detail, "request answered with an error");
                } else if status == 401 {
                    // The authenticator has logged it, within its bounds.
                    debug!(method, route, status, took_us, code, detail, "request answered with an error");
                } else {
                    info!(method, route, status, took_us, code, detail, "request answered with an error");
                }
            }
            None if quiet => debug!(method, route, status, took_us, "request answered"),
            None => info!(method, route, status, took_us, "request answered"),
        }
    });
    if trial.is_some_and(|Admitted(admitted)| !admitted.load(Ordering::Relaxed)) {
        // The flag of a caller that was not admitted does not count.
        part.discard();
    } else if response.extensions_mut().remove::<Streamed>().is_some() {
        part.leave();
    } else {
        part.end();
    }
    response
}

/// What the semantic conventions of OpenTelemetry for HTTP servers ask for. Never a query: it may hold a secret.
fn describe(part: &Trace, request: &Request, id: &RequestId, (route, scheme): (&'static str, &'static str)) {
    part.note("http.request.method", name(request.method()));
    part.note("http.route", route);
    part.note("url.path", loggable(request.uri().path()));
    part.note("url.scheme", scheme);
    part.note(REQUEST_ID, id);
    if let Some(peer) = extract::peer(request.extensions()) {
        part.note("client.address", peer);
    }
    if let Some(agent) = request.headers().get(USER_AGENT).and_then(|agent| agent.to_str().ok()) {
        part.note("user_agent.original", agent.get(..MAX_LOGGED).unwrap_or(agent));
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

/// As much of a path as the log may show: without what may be a viewer's token, wherever in a path it stands.
fn loggable(path: &str) -> String {
    let path = path.get(..MAX_LOGGED).unwrap_or(path);
    let is_secret =
        |part: &str| part.len() >= MIN_SECRET && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let parts = path.split('/').map(|part| if is_secret(part) { "…" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

fn finish(id: &RequestId, response: &mut Response, log: impl FnOnce(&Response, Option<&ApiError>)) {
    if let Ok(value) = HeaderValue::from_str(id.as_str()) {
        response.headers_mut().insert(HeaderName::from_static(X_REQUEST_ID), value);
    }
    let error = response.extensions_mut().remove::<ApiError>();
    log(response, error.as_ref());
    if let Some(error) = error {
        render(error, id, response);
    }
}

fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
