//! The answer of `POST /spawn` as a stream of events: how far the request has come, and at the end what the answer is.
//!
//! ```text
//!  queued {position, estimateSeconds}  ─▶  starting {node}  ─▶  ready (the JSON of the answer)  or  problem (its problem)
//! ```
//!
//! Owns: the task that carries the request out. It is ended when the connection is gone, as a handler is.
//!
//! Invariants: what is wrong with the request itself is an ordinary answer; from here on the status is 200. The spawn lives once `ready`
//! is on its way to the caller.
//!
//! Failure: a caller that reads slowly misses positions, and never the end.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::Stream;
use futures_util::stream::unfold;
use model::api::{SpawnAnswer, SpawnQueued, SpawnStarting};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_util::task::AbortOnDropHandle;
use traces::attribute::{CODE, STATUS};
use tracing::{Instrument, Span, info, warn};

use super::edge::Edge;
use super::error::{ApiError, retry_after};
use super::negotiation::EVENT_STREAM;
use super::observe::Streamed;
use super::spawn_call::{Asked, decide};
use crate::spawning::held_slot::HeldSlot;
use crate::spawning::progress::{LinePosition, Progress, Stage};

/// A comment is sent this often, so that proxies that cut idle connections see something.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

type Spawned = Result<(SpawnAnswer, Option<HeldSlot>), ApiError>;

/// Begins to carry the request out, and answers with its events.
pub(super) fn answer(edge: Arc<Edge>, asked: Asked) -> Response {
    let progress = Progress::default();
    let stages = progress.watch();
    let reported = progress.clone();
    // Before the task begins: a caller may leave before that. The task may also be over before the observer notes the status.
    let part = asked.context.trace.hold();
    part.count(STATUS, StatusCode::OK.as_u16());
    let work = async move {
        let _in_flight = edge.metrics.requests.begin();
        let mut outcome = decide(&edge, &asked, Some(&reported)).await;
        match &mut outcome {
            Ok((answer, _)) => info!(spawn.id = %answer.id, node.id = %answer.node, "watched spawn is ready"),
            Err(error) => {
                asked.context.as_str().clone_into(&mut error.0.request_id);
                edge.tally.count(error.0.code);
                let (code, detail, status) = (error.0.code.as_str(), &error.0.detail, error.0.status);
                asked.context.trace.note(CODE, code);
                if status >= 500 {
                    asked.context.trace.fail(code, detail);
                }
                if matches!(status, 502..=504) {
                    warn!(code, detail, status, "watched request for a spawn failed");
                } else {
                    info!(code, detail, status, "watched request for a spawn failed");
                }
            }
        }
        part.end();
        outcome
    };
    // A task of its own, because a body is asked for more only while its reader has room.
    let work = AbortOnDropHandle::new(tokio::spawn(work.instrument(Span::current())));
    let mut response = Body::from_stream(events(work, stages, progress)).into_response();
    response.extensions_mut().insert(Streamed);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(EVENT_STREAM));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would collect the events otherwise.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

struct Events {
    work: AbortOnDropHandle<Spawned>,
    stages: watch::Receiver<Stage>,
    /// The stages end only after this.
    _progress: Progress,
    keep_alive: Interval,
    /// The last stage that was sent.
    sent: Stage,
    ended: bool,
}

fn events(
    work: AbortOnDropHandle<Spawned>,
    stages: watch::Receiver<Stage>,
    progress: Progress,
) -> impl Stream<Item = Result<Bytes, Infallible>> {
    let mut keep_alive = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    keep_alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let events = Events { work, stages, _progress: progress, keep_alive, sent: Stage::Begun, ended: false };
    unfold(events, async |mut events| {
        let text = events.next().await?;
        Some((Ok(Bytes::from(text)), events))
    })
}

impl Events {
    /// The text to send next; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        if self.ended {
            return None;
        }
        loop {
            tokio::select! {
                biased;
                _ = self.stages.changed() => {
                    if let Some(text) = self.news() {
                        self.keep_alive.reset();
                        return Some(text);
                    }
                }
                outcome = &mut self.work => {
                    self.ended = true;
                    let outcome = outcome.unwrap_or_else(|_| Err(ApiError::leaving()));
                    return Some(self.news().unwrap_or_default() + &last(outcome));
                }
                _ = self.keep_alive.tick() => return Some(":\n\n".to_owned()),
            }
        }
    }

    /// The stage that the request is at, where that says more than what was sent.
    fn news(&mut self) -> Option<String> {
        let stage = self.stages.borrow_and_update().clone();
        if stage == self.sent {
            return None;
        }
        let text = stage_event(&stage)?;
        self.sent = stage;
        Some(text)
    }
}

fn stage_event(stage: &Stage) -> Option<String> {
    match stage {
        Stage::Begun | Stage::Queued(None) => None,
        Stage::Queued(Some(LinePosition { position, estimate })) => {
            Some(event("queued", &SpawnQueued { position: *position, estimate_seconds: *estimate }))
        }
        Stage::Starting(node) => Some(event("starting", &SpawnStarting { node: node.clone() })),
    }
}

/// The last event. A spawn lives from here on: the answer is about to be sent to its caller.
fn last(outcome: Spawned) -> String {
    match outcome {
        Ok((answer, held)) => {
            if let Some(mut held) = held {
                held.keep();
            }
            event("ready", &answer)
        }
        Err(error) => {
            // What `Retry-After` says elsewhere.
            let again = matches!(error.0.status, 429 | 503).then(|| retry_after(&error) * 1000);
            let retry = again.map(|millis| format!("retry: {millis}\n")).unwrap_or_default();
            retry + &event("problem", &error.0)
        }
    }
}

/// One event. Its data is JSON, which has no line breaks.
fn event(name: &str, data: &impl Serialize) -> String {
    format!("event: {name}\ndata: {}\n\n", serde_json::to_string(data).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::StreamExt;
    use model::api::ErrorCode;
    use tokio::sync::oneshot;

    use super::*;

    fn at(position: u64, estimate: Option<u64>) -> LinePosition {
        LinePosition { position, estimate }
    }

    fn begun() -> (Progress, oneshot::Sender<Spawned>, impl Stream<Item = String>) {
        let progress = Progress::default();
        let (decided, decision) = oneshot::channel();
        let work = AbortOnDropHandle::new(tokio::spawn(async move { decision.await.unwrap() }));
        let stream = events(work, progress.watch(), progress.clone());
        let text = |Ok(bytes): Result<Bytes, Infallible>| String::from_utf8(bytes.to_vec()).unwrap();
        (progress, decided, stream.map(text))
    }

    fn full() -> Spawned {
        Err(ApiError::new(ErrorCode::NoCapacity, "line one\nline two"))
    }

    #[test]
    fn every_stage_that_says_something_is_one_event() {
        for (stage, expected) in [
            (Stage::Begun, None),
            (Stage::Queued(None), None),
            (Stage::Queued(Some(at(2, None))), Some("event: queued\ndata: {\"position\":2}\n\n")),
            (
                Stage::Queued(Some(at(1, Some(7)))),
                Some("event: queued\ndata: {\"position\":1,\"estimateSeconds\":7}\n\n"),
            ),
            (
                Stage::Starting("node-a".parse().unwrap()),
                Some("event: starting\ndata: {\"node\":\"node-a\"}\n\n"),
            ),
        ] {
            assert_eq!(stage_event(&stage).as_deref(), expected, "{stage:?}");
        }
    }

    #[test]
    fn a_problem_is_its_json_on_one_line_and_says_when_to_come_again() {
        let text = last(full());
        let lines: Vec<&str> = text.lines().collect();
        let [retry, name, data, end] = lines.as_slice() else { panic!("{text:?}") };
        assert!(retry.strip_prefix("retry: ").unwrap().parse::<u64>().unwrap() >= 1000, "{text:?}");
        assert_eq!((*name, *end), ("event: problem", ""));
        let problem: serde_json::Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!((&problem["status"], &problem["code"]), (&503.into(), &"no-capacity".into()));
        let failed = last(Err(ApiError::new(ErrorCode::SpawnFailed, "why")));
        assert!(failed.starts_with("event: problem\n"), "{failed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn changes_are_sent_once_and_the_end_comes_last_and_then_nothing() {
        let (progress, decided, stream) = begun();
        let mut stream = Box::pin(stream);
        progress.queue();
        progress.place(at(3, None));
        assert!(stream.next().await.unwrap().contains("\"position\":3"));
        // One that reads slowly gets the newest.
        progress.place(at(2, None));
        progress.place(at(1, None));
        assert!(stream.next().await.unwrap().contains("\"position\":1"));
        progress.start(&"a".parse().unwrap());
        decided.send(full()).unwrap();
        tokio::task::yield_now().await;
        let rest: Vec<String> = stream.collect().await;
        let rest = rest.concat();
        let (starting, problem) =
            (rest.find("event: starting").unwrap(), rest.find("event: problem").unwrap());
        assert!(starting < problem && !rest.contains("queued"), "{rest}");
    }

    #[tokio::test(start_paused = true)]
    async fn comments_keep_an_idle_connection_alive() {
        let (_progress, _decided, stream) = begun();
        let mut stream = Box::pin(stream);
        for _ in 0..3 {
            let began = Instant::now();
            assert_eq!(stream.next().await.unwrap(), ":\n\n");
            assert_eq!(began.elapsed(), KEEP_ALIVE);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_is_dropped_ends_the_work() {
        let (_progress, mut decided, stream) = begun();
        drop(stream);
        tokio::time::timeout(Duration::from_secs(1), decided.closed()).await.unwrap();
    }
}
