//! `POST /service` and `POST /api/spawn`: starts a spawn, and answers when it is ready.

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use tokio::time::Instant;
use tracing::Span;
use tracing::field::display;

use super::answer::JSON;
use super::endpoint::with_port;
use super::failure::Failure;
use super::parts::{ANSWER_WITHIN, Hoops};
use super::request::{BadRequest, Wanted};
use crate::http::{Unread, handing_over, read};
use crate::listen::ConnectionPlace;
use crate::metrics::HoopsWay;
use crate::request_context::RequestContext;

/// Bytes of a body.
const MAX_BODY: usize = 100 * 1024;
/// Why directories are not searched.
const DIRECTORIES: &str =
    "directories are those of the nodes (--model-dir of the agents), callers cannot name others";

/// The vendor's answer. Whatever else there is to say stands beside its three members, never inside `endpoints`, where clients refuse
/// what they do not know.
#[derive(Debug, Serialize)]
struct ServiceAnswer {
    result: &'static str,
    #[serde(rename = "serviceId")]
    service_id: String,
    endpoints: Endpoints,
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<Ignored>,
}

#[derive(Debug, Serialize)]
struct Endpoints {
    /// The name is the same for `wss://`.
    ws: String,
}

/// What was asked for and is not done.
#[derive(Debug, Serialize)]
struct Ignored {
    #[serde(rename = "modelSearchDirectories")]
    model_search_directories: &'static str,
}

pub(super) async fn spawn(hoops: &Hoops, request: Request) -> Response {
    let answered = answer(hoops, request).await;
    let status = answered.as_ref().map_or_else(|failure| failure.status, |_| StatusCode::OK);
    hoops.metrics.spawned(HoopsWay::Service, status.as_u16());
    answered.unwrap_or_else(|failure| {
        hoops.refused(&failure);
        failure.answer()
    })
}

async fn answer(hoops: &Hoops, request: Request) -> Result<Response, Failure> {
    let deadline = Instant::now() + ANSWER_WITHIN;
    let context = RequestContext::of(request.extensions());
    let turn = hoops.admit(request.extensions())?;
    let (parts, body) = request.into_parts();
    let body =
        read(body, MAX_BODY, parts.extensions.get::<ConnectionPlace>()).await.map_err(
            |unread| match unread {
                Unread::TooLarge => Failure::new(StatusCode::PAYLOAD_TOO_LARGE, "request entity too large"),
                Unread::Broken(why) => Failure::new(StatusCode::BAD_REQUEST, why),
            },
        )?;
    let wanted = Wanted::parse(&parts.headers, &body)
        .map_err(|BadRequest { status, reason }| Failure::new(status, reason))?;
    let order = hoops.order(&wanted, hoops.forms.answered.clone(), &turn)?;
    let (spawned, held) = hoops.spawn(&order, &context, deadline).await?;
    Span::current().record("spawn.id", display(spawned.id)).record("node.id", display(&spawned.node));
    if wanted.named_directories {
        tracing::info!("modelSearchDirectories of the request are ignored: {DIRECTORIES}");
    }
    let answer = ServiceAnswer {
        result: "ok",
        service_id: spawned.id.to_string(),
        endpoints: Endpoints { ws: with_port(&spawned.endpoint) },
        ignored: wanted.named_directories.then_some(Ignored { model_search_directories: DIRECTORIES }),
    };
    let mut response = handing_over(&answer, Some(held));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(response)
}
