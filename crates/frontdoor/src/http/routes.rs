//! Every route on one screen, with what it needs of its callers. The description of the surface is made from the same tables.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::body::Bytes;
use axum::http::Method;
use utoipa::openapi::OpenApi;

use super::authorization::{LISTEN, LOOK, MEASURE, Need, OPEN, OPERATE, READ, SPAWN, STOP};
use super::edge::Edge;
use super::origin::Reach;
use super::route::{Route, observed};
use super::{
    audit, description, eligibility, explain, forget, history, live_upgrade, nodes, page_routes, post_spawn,
    probes, spawns, viewer_upgrade, waiting,
};
use crate::settings::Surface;

/// What pages may call from a browser.
fn public_routes() -> Vec<Route> {
    vec![
        Route::at("/spawn").post(SPAWN, post_spawn::spawn),
        Route::at("/v1/spawns/{id}")
            .get(LOOK, spawns::show)
            .patch(STOP, spawns::change)
            .delete(STOP, spawns::stop),
        Route::at("/v1/spawns/{id}/log").get(LOOK, spawns::log),
        Route::at("/healthz").get(OPEN, probes::healthz),
        Route::at("/openapi.json").get(OPEN, async || description::document(json())),
    ]
}

/// What operators and their tools call.
fn operator_routes() -> Vec<Route> {
    vec![
        Route::at("/v1/spawns").get(LOOK, spawns::list),
        Route::at("/v1/explain").post(LOOK, explain::explain),
        Route::at("/v1/audit").get(OPERATE, audit::list),
        Route::at("/v1/history").get(READ, history::show),
        Route::at("/v1/waiting").get(READ, waiting::list),
        Route::at("/v1/nodes").get(READ, nodes::list),
        Route::at("/v1/nodes/{node}").get(READ, nodes::show).delete(OPERATE, forget::forget),
        Route::at("/v1/nodes/{node}/cordon").post(OPERATE, eligibility::cordon),
        Route::at("/v1/nodes/{node}/uncordon").post(OPERATE, eligibility::uncordon),
        Route::at("/v1/nodes/{node}/drain").post(OPERATE, eligibility::drain),
        Route::at("/v1/live").reaching(Reach::Allowed).get(LISTEN, live_upgrade::connect),
        Route::at("/readyz").get(OPEN, probes::readyz),
    ]
}

/// What viewers call, from pages of any origin: the token in the path is their credential.
fn viewer_routes() -> Vec<Route> {
    // Also a URL that has lost a part, or won one, leads pages of any origin to the same answer as one with a wrong token.
    vec![Route::at("/s/{*rest}").reaching(Reach::Anywhere).get(OPEN, viewer_upgrade::connect)]
}

/// What a relay serves beside.
fn relay_routes() -> Vec<Route> {
    vec![Route::at("/healthz").get(OPEN, probes::healthz), Route::at("/readyz").get(OPEN, probes::readyz)]
}

/// What is served on the admin port.
fn admin_routes() -> Vec<Route> {
    vec![
        Route::at("/metrics").get(MEASURE, probes::metrics),
        Route::at("/healthz").get(OPEN, probes::healthz),
        Route::at("/readyz").get(OPEN, probes::readyz),
    ]
}

/// Everything on `--listen`.
pub(crate) fn router(edge: &Arc<Edge>) -> Router {
    let guarded = |route: Route| route.guarded(edge);
    let viewers = viewer_routes().into_iter().map(guarded);
    if edge.config.surface == Surface::Relay {
        let routes = viewers.chain(relay_routes().into_iter().map(guarded));
        return observed(edge, edge.config.tls.http.as_ref(), routes);
    }
    let public = public_routes()
        .into_iter()
        .map(|route| route.reaching(Reach::Allowed))
        .map(guarded)
        .map(|route| route.with_cors(edge));
    let operator = operator_routes().into_iter().map(guarded);
    let pages = page_routes::routes().map(guarded);
    observed(edge, edge.config.tls.http.as_ref(), public.chain(operator).chain(viewers).chain(pages))
}

/// Everything on `--admin-listen`.
pub(crate) fn admin_router(edge: &Arc<Edge>) -> Router {
    let routes = admin_routes().into_iter().map(|route| route.guarded(edge));
    observed(edge, edge.config.tls.admin.as_ref(), routes)
}

/// What every operation needs of its callers.
fn needs() -> impl Iterator<Item = (&'static str, Method, Need)> {
    let routes = public_routes().into_iter().chain(operator_routes()).chain(admin_routes());
    routes.flat_map(|route| route.needs.into_iter().map(move |(method, need)| (route.path, method, need)))
}

/// The OpenAPI document of the whole surface.
#[must_use]
pub fn openapi() -> OpenApi {
    description::describe(needs())
}

/// The same as JSON, made once.
fn json() -> Bytes {
    static JSON: LazyLock<Bytes> =
        LazyLock::new(|| Bytes::from(serde_json::to_vec(&openapi()).unwrap_or_default()));
    JSON.clone()
}
