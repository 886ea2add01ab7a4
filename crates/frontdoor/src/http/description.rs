//! The description of the surface (OpenAPI 3.1), generated from the code that serves it, and completed by what holds for every route:
//! credentials, scopes, the problems that any request may get. Made once at start.

use axum::body::Bytes;
use axum::http::{Method, header};
use axum::response::IntoResponse;
use model::api::{ErrorCode, Problem};
use utoipa::OpenApi as _;
use utoipa::openapi::header::{Header, HeaderBuilder};
use utoipa::openapi::path::Operation;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Object, OpenApi, RefOr, Schema, Type};

use super::authorization::Need;
use super::problem_sets::{NoProblems, answers};
use super::{
    audit, eligibility, explain, forget, history, live_upgrade, nodes, post_spawn, probes, request_id,
    spawns, waiting,
};

/// The OpenAPI document. `needs`: what every operation needs of its callers.
pub(super) fn describe(needs: impl Iterator<Item = (&'static str, Method, Need)>) -> OpenApi {
    let mut document = Surface::openapi();
    for (path, method, need) in needs {
        let Some(item) = document.paths.paths.get_mut(path) else { continue };
        let operation = match method {
            Method::GET => &mut item.get,
            Method::POST => &mut item.post,
            Method::PATCH => &mut item.patch,
            Method::DELETE => &mut item.delete,
            _ => continue,
        };
        if let Some(operation) = operation {
            secure(operation, need);
        }
    }
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            complete(operation);
            no_null(operation);
        }
    }
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(CREDENTIALS)).build();
    let components = document.components.get_or_insert_default();
    components.add_security_scheme(BEARER, SecurityScheme::Http(scheme));
    document
}

/// This description.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "probes",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json"), NoProblems),
)]
pub(super) fn document(json: Bytes) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], json)
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Hatchery",
        description = "One front door to a farm of stream cache servers. Every error is application/problem+json.",
        license(name = "MIT OR Apache-2.0"),
    ),
    paths(
        post_spawn::spawn,
        explain::explain,
        spawns::list,
        spawns::show,
        spawns::change,
        spawns::stop,
        spawns::log,
        waiting::list,
        nodes::list,
        nodes::show,
        forget::forget,
        eligibility::cordon,
        eligibility::uncordon,
        eligibility::drain,
        audit::list,
        history::show,
        live_upgrade::connect,
        probes::healthz,
        probes::readyz,
        probes::metrics,
        document,
    ),
    components(schemas(Problem))
)]
struct Surface;

/// The name of the only way to show a credential.
const BEARER: &str = "bearer";
const CREDENTIALS: &str = "An API key (`hatchery_…`) or a JSON Web Token signed with HS256, RS256, ES256 or EdDSA. Only where the front door \
    has `--api-keys` or `--jwt-keys`: else nobody has to show anything. The scopes that an operation lists are those of which the \
    caller needs one; `operate` implies `read`.";

fn secure(operation: &mut Operation, need: Need) {
    let (may_do_without, scopes) = match need {
        Need::Nothing => return,
        Need::OneOf(scopes) => (false, scopes),
        Need::OneOfLater(scopes) | Need::OneOfFromElsewhere(scopes) => (true, scopes),
    };
    let either = scopes.iter().map(|scope| SecurityRequirement::new(BEARER, [scope.as_str()]));
    let nothing = may_do_without.then(SecurityRequirement::default);
    operation.security = Some(nothing.into_iter().chain(either).collect());
    let mut refusals = answers(&[
        ErrorCode::Unauthenticated,
        ErrorCode::Forbidden,
        ErrorCode::OriginNotAllowed,
        ErrorCode::RateLimited,
        ErrorCode::QuotaExceeded,
    ]);
    if let Some(RefOr::T(response)) = refusals.get_mut("401") {
        response
            .headers
            .insert("WWW-Authenticate".into(), text("`Bearer`, and whether one was shown that is not good"));
    }
    operation.responses.responses.extend(refusals);
}

/// Adds what holds for every answer of every route.
fn complete(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        response.headers.insert(request_id::X_REQUEST_ID.into(), text("Ties the request to its log lines"));
        if matches!(status.as_str(), "429" | "503") {
            response.headers.insert("Retry-After".into(), text("Seconds"));
        }
        if status == "405" {
            response.headers.insert("Allow".into(), text("The methods that are allowed"));
        }
    }
}

/// A body may be left out, which `Option` says; that does not make `null` one.
fn no_null(operation: &mut Operation) {
    let Some(RefOr::T(body)) = &mut operation.request_body else { return };
    for content in body.content.values_mut() {
        let RefOr::T(content) = content else { continue };
        if let Some(RefOr::T(Schema::OneOf(either))) = &content.schema
            && let Some(object) = either.items.iter().find(|one| matches!(one, RefOr::Ref(_)))
        {
            content.schema = Some(object.clone());
        }
    }
}

fn text(description: &str) -> RefOr<Header> {
    let schema = Some(Object::with_type(Type::String));
    RefOr::T(HeaderBuilder::new().schema(schema).description(Some(description)).build())
}
