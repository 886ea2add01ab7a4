//! The surface: every route on one screen, with what it needs of its callers. Nothing outside this module knows status codes.

pub(crate) mod authorization;
mod coalesced;
mod eligibility;
mod error;
mod extract;
mod live_upgrade;
mod nodes;
mod observe;
pub(crate) mod openapi;
mod origin;
mod page_routes;
mod post_spawn;
mod probes;
mod request_id;
mod spawns;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, any};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::settings::Origins;
use crate::start::door::Door;
use authorization::{Gate, LISTEN, LOOK, MEASURE, Need, OPEN, OPERATE, READ, SPAWN, STOP, guard};
pub(crate) use coalesced::Coalesced;
pub(crate) use error::ApiError;
pub(crate) use extract::Peer;
use observe::{Observed, observe};
use origin::{Border, Reach};
use request_id::X_REQUEST_ID;

type Handlers = MethodRouter<Arc<Door>>;

/// What is served at one path, and what each operation there needs of its callers.
struct Route {
    path: &'static str,
    handlers: Handlers,
    /// Whose pages may use it.
    reach: Reach,
    needs: Vec<(Method, Need)>,
}

/// What pages may call from a browser.
fn public_routes() -> Vec<Route> {
    vec![
        Route::at("/spawn").post(SPAWN, post_spawn::spawn),
        Route::at("/v1/spawns/{id}").get(LOOK, spawns::show).delete(STOP, spawns::stop),
        Route::at("/v1/spawns/{id}/log").get(LOOK, spawns::log),
        Route::at("/healthz").get(OPEN, probes::healthz),
        Route::at("/openapi.json").get(OPEN, openapi::document),
    ]
}

/// What operators and their tools call.
fn operator_routes() -> Vec<Route> {
    vec![
        Route::at("/v1/spawns").get(LOOK, spawns::list),
        Route::at("/v1/nodes").get(READ, nodes::list),
        Route::at("/v1/nodes/{node}").get(READ, nodes::show),
        Route::at("/v1/nodes/{node}/cordon").post(OPERATE, eligibility::cordon),
        Route::at("/v1/nodes/{node}/uncordon").post(OPERATE, eligibility::uncordon),
        Route::at("/v1/nodes/{node}/drain").post(OPERATE, eligibility::drain),
        Route::at("/v1/live").reaching(Reach::Allowed).get(LISTEN, live_upgrade::connect),
        Route::at("/readyz").get(OPEN, probes::readyz),
    ]
}

/// What is served on the admin port.
fn admin_routes() -> Vec<Route> {
    vec![
        Route::at("/metrics").get(MEASURE, probes::metrics),
        Route::at("/healthz").get(OPEN, probes::healthz),
        Route::at("/readyz").get(OPEN, probes::readyz),
    ]
}

impl Route {
    fn at(path: &'static str) -> Self {
        Self { path, handlers: MethodRouter::new(), reach: Reach::Own, needs: Vec::new() }
    }

    fn reaching(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    fn get<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Door>>) -> Self {
        self.needs.push((Method::GET, need));
        Self { handlers: self.handlers.get(handler), ..self }
    }

    fn post<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Door>>) -> Self {
        self.needs.push((Method::POST, need));
        Self { handlers: self.handlers.post(handler), ..self }
    }

    fn delete<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Door>>) -> Self {
        self.needs.push((Method::DELETE, need));
        Self { handlers: self.handlers.delete(handler), ..self }
    }

    /// Its handlers behind the gate. Wrong methods and panics become answers of the contract.
    fn guarded(self, door: &Arc<Door>) -> Guarded {
        let access = door.config.access.clone();
        let gate = Gate { door: Arc::clone(door), access, needs: self.needs.into() };
        let handlers = self.handlers.fallback(async || ApiError::method_not_allowed());
        let handlers: Handlers = handlers.layer(from_fn_with_state(gate, guard));
        let handlers = handlers.layer(CatchPanicLayer::custom(error::panicked));
        Guarded { path: self.path, handlers, reach: self.reach }
    }
}

/// A route behind the gate.
struct Guarded {
    path: &'static str,
    handlers: Handlers,
    reach: Reach,
}

impl Guarded {
    /// For pages that [`cors`] names.
    fn with_cors(self, door: &Door) -> Self {
        Self { handlers: self.handlers.layer(cors(door)), ..self }
    }
}

/// Everything on `--listen`.
pub(crate) fn router(door: &Arc<Door>) -> Router {
    let guarded = |route: Route| route.guarded(door);
    let public = public_routes()
        .into_iter()
        .map(|route| route.reaching(Reach::Allowed))
        .map(guarded)
        .map(|route| route.with_cors(door));
    let operator = operator_routes().into_iter().map(guarded);
    let pages = page_routes::routes().map(guarded);
    observed(door, door.config.tls.http.as_ref(), public.chain(operator).chain(pages))
}

/// Everything on `--admin-listen`.
pub(crate) fn admin_router(door: &Arc<Door>) -> Router {
    let routes = admin_routes().into_iter().map(|route| route.guarded(door));
    observed(door, door.config.tls.admin.as_ref(), routes)
}

/// What every operation needs of its callers.
fn needs() -> impl Iterator<Item = (&'static str, Method, Need)> {
    let routes = public_routes().into_iter().chain(operator_routes()).chain(admin_routes());
    routes.flat_map(|route| route.needs.into_iter().map(move |(method, need)| (route.path, method, need)))
}

/// The observer lies around everything else: what it sees is what the caller gets. Below it, the border refuses what other
/// people's pages send.
fn observed(
    door: &Arc<Door>,
    certificate: Option<&tls::Server>,
    routes: impl Iterator<Item = Guarded>,
) -> Router {
    let observer = |route| from_fn_with_state(Observed { door: Arc::clone(door), route }, observe);
    let border = |reach| {
        let border = Border { door: Arc::clone(door), reach, certificate: certificate.cloned() };
        from_fn_with_state(border, origin::guard)
    };
    let nowhere = any(async || ApiError::not_found("there is no such route"));
    routes
        .fold(Router::new(), |router, Guarded { path, handlers, reach }| {
            router.route(path, handlers.layer(border(reach)).layer(observer(path)))
        })
        .fallback_service(nowhere.layer(border(Reach::Own)).layer(observer("none")))
        .with_state(Arc::clone(door))
}

fn cors(door: &Door) -> CorsLayer {
    let origins = match &door.config.origins {
        Origins::Any => AllowOrigin::any(),
        Origins::Local => AllowOrigin::predicate(|origin, _| Origins::Local.allow(origin)),
        Origins::Only(list) => AllowOrigin::list(list.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            HeaderName::from_static(X_REQUEST_ID),
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
        ])
        .max_age(Duration::from_secs(3600))
}

#[cfg(test)]
mod tests;
