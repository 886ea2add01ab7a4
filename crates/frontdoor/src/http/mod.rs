//! The surface: every route on one screen. Nothing outside this module knows status codes.

mod error;
mod extract;
mod health;
mod nodes;
mod observe;
pub(crate) mod openapi;
mod request_id;
mod spawn;
mod spawns;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::Origins;
use crate::door::Door;
use error::ApiError;
use request_id::X_REQUEST_ID;

type Handlers = MethodRouter<Arc<Door>>;

/// What pages may call from a browser.
fn public_routes() -> Vec<(&'static str, Handlers)> {
    vec![
        ("/spawn", post(spawn::spawn)),
        ("/v1/spawns/{id}", get(spawns::show).delete(spawns::stop)),
        ("/v1/spawns/{id}/log", get(spawns::log)),
        ("/healthz", get(health::healthz)),
        ("/openapi.json", get(openapi::document)),
    ]
}

/// What operators and their tools call.
fn operator_routes() -> Vec<(&'static str, Handlers)> {
    vec![
        ("/v1/spawns", get(spawns::list)),
        ("/v1/nodes", get(nodes::list)),
        ("/v1/nodes/{node}", get(nodes::show)),
        ("/readyz", get(health::readyz)),
    ]
}

/// What is served on the admin port.
fn admin_routes() -> Vec<(&'static str, Handlers)> {
    vec![
        ("/metrics", get(health::metrics)),
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
    ]
}

/// Everything on `--listen`.
pub(crate) fn router(door: &Arc<Door>) -> Router {
    // A layer lies around those given before it: panics become answers, answers get CORS headers.
    let public = routed(public_routes()).layer(CatchPanicLayer::custom(error::panicked)).layer(cors(door));
    let operator = routed(operator_routes()).layer(CatchPanicLayer::custom(error::panicked));
    finished(public.merge(operator), door)
}

/// Everything on `--admin-listen`.
pub(crate) fn admin_router(door: &Arc<Door>) -> Router {
    finished(routed(admin_routes()).layer(CatchPanicLayer::custom(error::panicked)), door)
}

fn routed(routes: Vec<(&'static str, Handlers)>) -> Router<Arc<Door>> {
    let router = Router::new();
    let router = routes.into_iter().fold(router, |router, (path, handlers)| router.route(path, handlers));
    router.method_not_allowed_fallback(async || ApiError::method_not_allowed())
}

fn finished(router: Router<Arc<Door>>, door: &Arc<Door>) -> Router {
    router
        .fallback(async || ApiError::not_found("there is no such route"))
        .layer(from_fn_with_state(Arc::clone(door), observe::observe))
        .with_state(Arc::clone(door))
}

fn cors(door: &Door) -> CorsLayer {
    let origins = match &door.config.origins {
        Origins::Any => AllowOrigin::any(),
        Origins::Only(list) => AllowOrigin::list(list.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([HeaderName::from_static(X_REQUEST_ID), header::RETRY_AFTER])
        .max_age(Duration::from_secs(3600))
}
