//! `GET /v1/live`: the handshake of the live feed. Refuses what is no handshake, and pages of other origins; all that comes after the
//! 101 is [`crate::live`]'s.

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Extension, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Uri, header};
use axum::response::{IntoResponse, Response};
use hyper::upgrade::OnUpgrade;
use model::api::ErrorCode;

use super::authorization::Who;
use super::edge::Edge;
use super::error::ApiError;
use super::extract::no_parameters;
use super::problem_sets::LiveProblems;
use crate::callers::{Account, ShareKind};
use crate::listen::{ConnectionPlace, Peer};
use crate::live::{self, Rights, Subscriber};
use crate::strict_json::Invalid;

/// Subscribes to what happens on the farm: a WebSocket with JSON text frames.
///
/// Where callers have to say who they are, one that shows no credential with the handshake shows it in its first message, within ten
/// seconds: `{"type":"authenticate","token":T}` is answered by `authenticated`. Without `operate`, a subscriber hears of its own
/// spawns only. When the credential is good no more, the connection is closed with 1008.
///
/// A subscriber sends `{"type":"subscribe","topic":T,"since"?:SEQ}` and `{"type":"unsubscribe","topic":T}`; a topic is
/// `nodes`, `spawns`, `node:<id>` or `spawn:<id>`, or a part of all spawns: `spawns?node=…&owner=…&tag=key=value`. With
/// `"parts":true` a long snapshot comes in several messages: `subscribed` and `part`. It is sent `hello`, `subscribed` with a snapshot, `event`, `unsubscribed`,
/// `heartbeat` and `error`. Pages of origins that `--cors-origin` does not name are refused.
#[utoipa::path(
    get,
    path = "/v1/live",
    tag = "live",
    responses((status = 101, description = "The connection is a WebSocket now"), LiveProblems),
)]
pub(crate) async fn connect(
    State(edge): State<Arc<Edge>>,
    (place, account): (Option<Extension<ConnectionPlace>>, Option<Extension<Arc<Account>>>),
    peer: Option<Extension<Peer>>,
    Who(bearer): Who,
    uri: Uri,
    request: Request,
) -> Result<Response, ApiError> {
    no_parameters(&uri)?;
    let (mut head, _) = request.into_parts();
    let (key, upgrade) = match handshake(&mut head).await {
        Ok(Some(handshake)) => handshake,
        Ok(None) => {
            return Err(ApiError::new(ErrorCode::UpgradeRequired, "the connection cannot be upgraded"));
        }
        Err(rejection) => return Ok(refused(&rejection)),
    };
    if edge.stages.leaving.is_cancelled() {
        return Err(ApiError::leaving());
    }
    let rights = match bearer {
        Some(bearer) => Rights::Of(bearer),
        None if edge.authenticator.is_some() => Rights::Nothing,
        None => Rights::All,
    };
    let peer = peer.map(|Extension(peer)| peer.text());
    let place = place.map(|Extension(place)| place);
    let account = account.map(|Extension(account)| account);
    // A caller without a credential takes its share once it has authenticated.
    let share = account.as_ref().map(|account| account.take(ShareKind::Live)).transpose()?;
    if let (Some(place), Some(_)) = (&place, &share) {
        place.known();
    }
    let subscriber = Subscriber { rights, peer, place, account: account.zip(share) };
    Ok(live::accept(Arc::clone(&edge.live), &key, upgrade, subscriber))
}

/// The key of a handshake and the connection to come; `None` where there is none.
async fn handshake(head: &mut Parts) -> Result<Option<(HeaderValue, OnUpgrade)>, WebSocketUpgradeRejection> {
    // axum checks the request, and takes the connection for itself: this is a second handle to it.
    let upgrade = head.extensions.get::<OnUpgrade>().cloned();
    drop(WebSocketUpgrade::from_request_parts(head, &()).await?);
    Ok(head.headers.get(header::SEC_WEBSOCKET_KEY).cloned().zip(upgrade))
}

fn refused(rejection: &WebSocketUpgradeRejection) -> Response {
    let detail = rejection.to_string();
    match rejection {
        WebSocketUpgradeRejection::MethodNotGet(_) => ApiError::method_not_allowed().into_response(),
        WebSocketUpgradeRejection::WebSocketKeyHeaderMissing(_) => {
            ApiError::from(Invalid::field("Sec-WebSocket-Key", detail)).into_response()
        }
        _ => {
            let mut response = ApiError::new(ErrorCode::UpgradeRequired, detail).into_response();
            let headers = response.headers_mut();
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
            response
        }
    }
}
