//! The surface: every route on one screen. Nothing outside this module knows status codes.

mod error;
mod extract;
mod health;
mod live;
mod nodes;
mod observe;
pub(crate) mod openapi;
mod operate;
mod pages;
mod request_id;
mod spawn;
mod spawns;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, any, get, post};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::config::Origins;
use crate::door::Door;
use error::ApiError;
pub(crate) use extract::Peer;
use observe::{Observed, observe};
use request_id::X_REQUEST_ID;

type Handlers = MethodRouter<Arc<Door>>;
type Route = (&'static str, Handlers);

/// What pages may call from a browser.
fn public_routes() -> Vec<Route> {
    vec![
        ("/spawn", post(spawn::spawn)),
        ("/v1/spawns/{id}", get(spawns::show).delete(spawns::stop)),
        ("/v1/spawns/{id}/log", get(spawns::log)),
        ("/healthz", get(health::healthz)),
        ("/openapi.json", get(openapi::document)),
    ]
}

/// What operators and their tools call.
fn operator_routes() -> Vec<Route> {
    vec![
        ("/v1/spawns", get(spawns::list)),
        ("/v1/nodes", get(nodes::list)),
        ("/v1/nodes/{node}", get(nodes::show)),
        ("/v1/nodes/{node}/cordon", post(operate::cordon)),
        ("/v1/nodes/{node}/uncordon", post(operate::uncordon)),
        ("/v1/nodes/{node}/drain", post(operate::drain)),
        ("/v1/live", get(live::connect)),
        ("/readyz", get(health::readyz)),
    ]
}

/// What is served on the admin port.
fn admin_routes() -> Vec<Route> {
    vec![
        ("/metrics", get(health::metrics)),
        ("/healthz", get(health::healthz)),
        ("/readyz", get(health::readyz)),
    ]
}

/// Everything on `--listen`.
pub(crate) fn router(door: &Arc<Door>) -> Router {
    let public = public_routes().into_iter().map(caught).map(|(path, route)| (path, route.layer(cors(door))));
    let operator = operator_routes().into_iter().map(caught);
    let pages = pages::routes().map(caught);
    observed(door, public.chain(operator).chain(pages))
}

/// Everything on `--admin-listen`.
pub(crate) fn admin_router(door: &Arc<Door>) -> Router {
    observed(door, admin_routes().into_iter().map(caught))
}

/// Wrong methods and panics become answers of the contract.
fn caught((path, handlers): Route) -> Route {
    let handlers = handlers.fallback(async || ApiError::method_not_allowed());
    (path, handlers.layer(CatchPanicLayer::custom(error::panicked)))
}

/// The observer lies around everything else: what it sees is what the caller gets.
fn observed(door: &Arc<Door>, routes: impl Iterator<Item = Route>) -> Router {
    let observer = |route| from_fn_with_state(Observed { door: Arc::clone(door), route }, observe);
    let nowhere = any(async || ApiError::not_found("there is no such route"));
    routes
        .fold(Router::new(), |router, (path, handlers)| router.route(path, handlers.layer(observer(path))))
        .fallback_service(nowhere.layer(observer("none")))
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

#[cfg(test)]
mod tests;
