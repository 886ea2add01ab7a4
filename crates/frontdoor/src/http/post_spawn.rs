//! `POST /spawn`: from the request to the answer; what is in between is [`crate::spawning`]'s. The answer owns the spawn until it is
//! on its way: where the caller has gone before that, the spawn is ended.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use model::api::{SpawnAnswer, SpawnRequest};
use serde::Serialize;

use super::edge::Edge;
use super::error::ApiError;
use super::negotiation::prefers_events;
use super::problem_sets::SpawnProblems;
use super::spawn_call::{decide, read};
use super::spawn_stream;
use crate::spawning::held_slot::HeldSlot;

/// Starts a stream cache server and answers when it is ready.
#[utoipa::path(
    post,
    path = "/spawn",
    tag = "spawns",
    request_body(content = Option<SpawnRequest>, description = "What to spawn; at most 64 KiB"),
    params((
        "Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]+$",
        description = "1 to 255 visible ASCII characters; the same key gives the same answer for 10 minutes",
    )),
    responses(
        (
            status = 200,
            description = "It is ready: a viewer can connect. To a caller that prefers `text/event-stream`: how far the request has come, \
                as the events `queued`, `starting`, and at the end `ready` (the same JSON) or `problem` (a Problem, which has the status)",
            content((SpawnAnswer = "application/json"), (String = "text/event-stream")),
        ),
        SpawnProblems,
    ),
)]
pub(crate) async fn spawn(State(edge): State<Arc<Edge>>, request: Request) -> Result<Response, ApiError> {
    let events = prefers_events(request.headers());
    let asked = read(&edge, request).await?;
    if events {
        return Ok(spawn_stream::answer(edge, asked));
    }
    let (answer, held) = decide(&edge, &asked, None).await?;
    Ok(handing_over(&answer, held))
}

/// An answer that lets the spawn live only once it is on its way to the caller. When the connection is gone before that,
/// the body is dropped unread and so is the spawn.
pub(crate) fn handing_over(answer: &impl Serialize, held: Option<HeldSlot>) -> Response {
    let json = Bytes::from(serde_json::to_vec(answer).unwrap_or_default());
    let body = Body::new(HandingOver { json: Some(json), held });
    let mut response = body.into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

struct HandingOver {
    json: Option<Bytes>,
    held: Option<HeldSlot>,
}

impl hyper::body::Body for HandingOver {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let json = self.json.take();
        if let Some(mut held) = self.held.take() {
            held.keep();
        }
        Poll::Ready(json.map(|json| Ok(Frame::data(json))))
    }

    fn is_end_stream(&self) -> bool {
        self.json.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.json.as_ref().map_or(0, |json| json.len() as u64))
    }
}
