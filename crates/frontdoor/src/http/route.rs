//! One route, and the layers around its handlers, from the outside: observation, the border against pages of other origins, CORS, the
//! gate (credentials and scopes). A route cannot be built without saying what each operation needs of its callers.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderName, Method, header};
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, any};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use super::authorization::{Gate, Need, guard};
use super::edge::Edge;
use super::error::{self, ApiError};
use super::observe::{CallersFlag, Observed, OpenTo, observe};
use super::origin::{self, Border, Reach};
use super::request_id::X_REQUEST_ID;
use crate::settings::Origins;

type Handlers = MethodRouter<Arc<Edge>>;

/// What is served at one path, and what each operation there needs of its callers.
pub(super) struct Route {
    pub(super) path: &'static str,
    handlers: Handlers,
    /// The pages that may use it.
    reach: Reach,
    pub(super) needs: Vec<(Method, Need)>,
}

impl Route {
    pub(super) fn at(path: &'static str) -> Self {
        Self { path, handlers: MethodRouter::new(), reach: Reach::Own, needs: Vec::new() }
    }

    pub(super) fn reaching(self, reach: Reach) -> Self {
        Self { reach, ..self }
    }

    pub(super) fn get<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Edge>>) -> Self {
        self.needs.push((Method::GET, need));
        Self { handlers: self.handlers.get(handler), ..self }
    }

    pub(super) fn post<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Edge>>) -> Self {
        self.needs.push((Method::POST, need));
        Self { handlers: self.handlers.post(handler), ..self }
    }

    pub(super) fn delete<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Edge>>) -> Self {
        self.needs.push((Method::DELETE, need));
        Self { handlers: self.handlers.delete(handler), ..self }
    }

    pub(super) fn patch<T: 'static>(mut self, need: Need, handler: impl Handler<T, Arc<Edge>>) -> Self {
        self.needs.push((Method::PATCH, need));
        Self { handlers: self.handlers.patch(handler), ..self }
    }

    /// Its handlers behind the gate. Wrong methods and panics become answers of the contract.
    pub(super) fn guarded(self, edge: &Arc<Edge>) -> Guarded {
        let needs_nothing = self.needs.iter().all(|(_, need)| *need == Need::Nothing);
        let open_to = if needs_nothing { OpenTo::Everybody } else { OpenTo::KnownCallers };
        let gate = Gate {
            authenticator: edge.authenticator.clone(),
            callers: Arc::clone(&edge.callers),
            admin_public: edge.config.admin_public,
            needs: self.needs.into(),
        };
        let handlers = self.handlers.fallback(async || ApiError::method_not_allowed());
        let handlers: Handlers = handlers.layer(from_fn_with_state(gate, guard));
        let handlers = handlers.layer(CatchPanicLayer::custom(error::panicked));
        Guarded { path: self.path, handlers, reach: self.reach, open_to }
    }
}

/// A route behind the gate.
pub(super) struct Guarded {
    path: &'static str,
    handlers: Handlers,
    reach: Reach,
    /// Whether no operation there needs a credential.
    open_to: OpenTo,
}

impl Guarded {
    /// For pages that [`cors`] names.
    pub(super) fn with_cors(self, edge: &Edge) -> Self {
        Self { handlers: self.handlers.layer(cors(&edge.config.origins)), ..self }
    }
}

/// The observer is the outermost layer: it sees what the caller gets. Below it, the border refuses what pages of other origins
/// send.
pub(super) fn observed(
    edge: &Arc<Edge>,
    certificate: Option<&tls::Server>,
    routes: impl Iterator<Item = Guarded>,
) -> Router {
    let observer = |route, open_to| {
        let callers_flag = CallersFlag::on(open_to, edge.authenticator.is_some());
        let (metrics, tracer) = (edge.metrics.requests.clone(), edge.config.tracer.clone());
        let (tally, scheme) = (Arc::clone(&edge.tally), if certificate.is_some() { "https" } else { "http" });
        from_fn_with_state(Observed { metrics, tracer, scheme, route, callers_flag, tally }, observe)
    };
    let border = |reach| {
        let (hosts, origins) = (edge.config.hosts.clone(), edge.config.origins.clone());
        let border = Border { hosts, origins, reach, certificate: certificate.cloned() };
        from_fn_with_state(border, origin::guard)
    };
    let nowhere = any(async || ApiError::not_found("there is no such route"));
    routes
        .fold(Router::new(), |router, Guarded { path, handlers, reach, open_to }| {
            router.route(path, handlers.layer(border(reach)).layer(observer(path, open_to)))
        })
        .fallback_service(nowhere.layer(border(Reach::Own)).layer(observer("none", OpenTo::Everybody)))
        .with_state(Arc::clone(edge))
}

fn cors(origins: &Origins) -> CorsLayer {
    let origins = match origins {
        Origins::Any => AllowOrigin::any(),
        Origins::Local => AllowOrigin::predicate(|origin, _| Origins::Local.allow(origin)),
        Origins::Only(list) => AllowOrigin::list(list.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([
            HeaderName::from_static(X_REQUEST_ID),
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
        ])
        .max_age(Duration::from_secs(3600))
}
