//! From a request to what answers it, and what every answer carries (CORS, the request's id). Paths are compared without case, as the
//! vendor's server does. A panic is a 500 of the vendor's shape.

use std::any::Any;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::error;

use super::answer;
use super::operator;
use super::parts::Hoops;
use super::proxy;
use super::route::{Known, UpgradeTarget};
use super::spawn_request;
use crate::http::{ApiError, Reach, around, check_host, may_send};
use crate::settings::Origins;

/// Everything on `--hoops-listen`.
pub(crate) fn router(hoops: Arc<Hoops>) -> Router {
    Router::new().fallback(serve).layer(CatchPanicLayer::custom(panicked)).with_state(hoops)
}

async fn serve(State(hoops): State<Arc<Hoops>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    let known = Known::of(&path);
    // Java's client offers HTTP/2 with every request that it sends without TLS. Such an offer may be ignored.
    let is_call =
        known.is_some() && request.method() == Method::POST && proxy::offers_http2(request.headers());
    if !is_call && proxy::is_upgrade(request.headers()) {
        return upgrade(hoops, request).await;
    }
    let origin = request.headers().get(header::ORIGIN).cloned();
    let fallback = if hoops.files.is_some() { "hoops:files" } else { "none" };
    let route = known.map_or(fallback, Known::label);
    let observed = hoops.observed(route);
    let mut response = around(observed, request, |request| answer(&hoops, known, request)).await;
    answer::for_browsers(&mut response, &hoops.settings.origins, origin.as_ref());
    response
}

async fn upgrade(hoops: Arc<Hoops>, request: Request) -> Response {
    let target = UpgradeTarget::of(request.uri().path(), &hoops.settings.port_prefixes);
    let observed = hoops.observed(target.label());
    around(observed, request, async |request| {
        // The token in a viewer's URL is its credential, wherever its page came from.
        if !matches!(target, UpgradeTarget::Viewer { .. }) {
            if let Err(error) = is_for_this_host(&hoops, &request) {
                return answer::raw(StatusCode::MISDIRECTED_REQUEST, &error.0.detail);
            }
            if !is_from_an_allowed_page(&hoops, &request) {
                return answer::raw(StatusCode::FORBIDDEN, "Forbidden: pages of this origin may not connect");
            }
        }
        Box::pin(proxy::upgrade(&hoops, target, request)).await
    })
    .await
}

async fn answer(hoops: &Hoops, known: Option<Known<'_>>, request: Request) -> Response {
    if let Err(error) = is_for_this_host(hoops, &request) {
        return answer::failed(StatusCode::MISDIRECTED_REQUEST, &error.0.detail);
    }
    let Some(known) = known else {
        return match &hoops.files {
            Some(files) => files.serve(request).await,
            None => answer::not_found(),
        };
    };
    let query = request.uri().query().map(ToOwned::to_owned);
    let query = query.as_deref();
    let (get, post) = match *request.method() {
        Method::OPTIONS => return answer::allow(known.allow()),
        Method::GET | Method::HEAD => (true, false),
        Method::POST => (false, true),
        _ => return answer::not_found(),
    };
    if post && !is_from_an_allowed_page(hoops, &request) {
        return answer::failed(StatusCode::FORBIDDEN, "pages of this origin may not do this");
    }
    match known {
        Known::Spawn(_) if post => Box::pin(spawn_request::spawn(hoops, request)).await,
        Known::Gc if post => operator::gc(query),
        Known::Shutdown if post => operator::shutdown(query),
        Known::Help if get => operator::help(hoops, query),
        Known::Status | Known::Spawns if get => match hoops.admit(request.extensions()) {
            Err(failure) => failure.answer(),
            Ok(_turn) if known == Known::Status => operator::status(hoops, query).await,
            Ok(_turn) => operator::spawns(hoops, query).await,
        },
        Known::Report(id) if post => match hoops.admit(request.extensions()) {
            Err(failure) => failure.answer(),
            Ok(_turn) => operator::report(hoops, id, query).await,
        },
        _ => answer::not_found(),
    }
}

/// A name that was pointed at this front door makes a page its own. Where every page may call anyway, that gives it nothing.
fn is_for_this_host(hoops: &Hoops, request: &Request) -> Result<(), ApiError> {
    if hoops.settings.origins == Origins::Any {
        return Ok(());
    }
    let config = &hoops.edge.config;
    check_host(&config.hosts, config.tls.http.as_ref(), request)
}

fn is_from_an_allowed_page(hoops: &Hoops, request: &Request) -> bool {
    may_send(Reach::Allowed, &hoops.settings.origins, request.method(), request.headers())
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the cause over like this")]
fn panicked(cause: Box<dyn Any + Send + 'static>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| cause.downcast_ref::<&str>().copied()).unwrap_or("something without words");
    error!(panic = text, "handler panicked");
    let mut response =
        answer::failed(StatusCode::INTERNAL_SERVER_ERROR, "internal error; the log has details");
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}
