//! Authorization: what a route needs of its callers, and the layer that enforces it, with the limits of each caller.

use std::sync::Arc;

use access::{CallerLimits, DenialReason, Denied, Scope};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use model::Owner;
use model::api::ErrorCode;
use tracing::Span;
use tracing::field::display;

use super::error::{ApiError, INVALID_TOKEN};
use super::extract;
use super::observe::Admitted;
use crate::callers::{Account, AccountHolder, Authenticator, Bearer, Callers, Share, one_of};
use crate::listen::{Certified, ConnectionPlace, Peer};

/// What an operation needs of its callers, where credentials are required.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Nothing.
    Nothing,
    /// One of these scopes.
    OneOf(&'static [Scope]),
    /// The same; but a caller without a credential may show it later, on the connection.
    OneOfLater(&'static [Scope]),
    /// The same, where the port can be reached from elsewhere; or a certificate of the farm.
    OneOfFromElsewhere(&'static [Scope]),
}

pub(crate) const OPEN: Need = Need::Nothing;
pub(crate) const SPAWN: Need = Need::OneOf(&[Scope::Spawn]);
/// To look at spawns.
pub(crate) const LOOK: Need = Need::OneOf(&[Scope::Spawn, Scope::Read]);
/// To end spawns.
pub(crate) const STOP: Need = Need::OneOf(&[Scope::Spawn, Scope::Operate]);
/// To look at nodes.
pub(crate) const READ: Need = Need::OneOf(&[Scope::Read]);
/// To open and close nodes.
pub(crate) const OPERATE: Need = Need::OneOf(&[Scope::Operate]);
/// To subscribe to the live feed.
pub(crate) const LISTEN: Need = Need::OneOfLater(&[Scope::Spawn, Scope::Read]);
pub(crate) const MEASURE: Need = Need::OneOfFromElsewhere(&[Scope::Read, Scope::Metrics]);

/// The layer of one route.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    /// `None`: credentials are not required.
    pub(super) authenticator: Option<Arc<Authenticator>>,
    pub(super) callers: Arc<Callers>,
    /// Whether other machines can reach the admin port.
    pub(super) admin_public: bool,
    pub(super) needs: Arc<[(Method, Need)]>,
}

/// Admits requests, each with its [`Who`] and the account of its caller.
pub(crate) async fn guard(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    // A HEAD is served as the GET it stands for.
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    let need = gate.needs.iter().find(|(of, _)| of == method);
    // Without one, the method is refused further in.
    let Some((_, need)) = need else { return next.run(request).await };
    let Some(authenticator) = &gate.authenticator else {
        return match (*need, request.extensions().get::<Peer>()) {
            (Need::Nothing, _) | (_, None) => next.run(request).await,
            (_, Some(Peer(address))) => {
                let caller = AccountHolder::at(address.ip());
                admitted(&gate, caller, request, next).await
            }
        };
    };
    let shown = shown(request.headers());
    let scopes = match *need {
        Need::Nothing => return next.run(request).await,
        Need::OneOfLater(_) if matches!(shown, Shown::Nothing) => return next.run(request).await,
        Need::OneOfFromElsewhere(_)
            if !gate.admin_public || request.extensions().get::<Certified>() == Some(&Certified(true)) =>
        {
            return next.run(request).await;
        }
        Need::OneOf(scopes) | Need::OneOfLater(scopes) | Need::OneOfFromElsewhere(scopes) => scopes,
    };
    let peer = extract::peer(request.extensions());
    let credential = match shown {
        Shown::Nothing => None,
        Shown::Bearer(credential) => Some(credential),
        Shown::Unreadable => Some(""),
    };
    let bearer = match authenticator.judge(credential, peer.as_deref()) {
        Ok(bearer) => bearer,
        Err(denied) => return unauthenticated(&denied),
    };
    Span::current().record("owner", display(&bearer.caller.owner));
    if !bearer.caller.scopes.has_any(scopes) {
        return forbidden(scopes).into_response();
    }
    Admitted::note(&request);
    let caller = AccountHolder::Owner(bearer.caller.owner.clone());
    request.extensions_mut().insert(Who(Some(Arc::new(bearer))));
    admitted(&gate, caller, request, next).await
}

/// Runs a call, unless its caller has too many under way or makes them too fast.
async fn admitted(gate: &Gate, caller: AccountHolder, mut request: Request, next: Next) -> Response {
    let named = matches!(caller, AccountHolder::Owner(_));
    let account = gate.callers.of(caller);
    let call = match account.call() {
        Ok(call) => Arc::new(call),
        Err(refused) => return ApiError::from(refused).into_response(),
    };
    if let (Some(place), true) = (request.extensions().get::<ConnectionPlace>(), named) {
        place.known_to(&account);
    }
    request.extensions_mut().insert(account);
    request.extensions_mut().insert(UnderWay(Arc::clone(&call)));
    next.run(request).await
}

/// The call that the layer has begun for the caller. It lasts as long as the handler, or as this is kept.
#[derive(Debug, Clone)]
struct UnderWay(Arc<Share>);

/// The caller's call, for an answer that goes on after its handler.
pub(crate) fn call(parts: &Extensions) -> Option<Arc<Share>> {
    parts.get::<UnderWay>().map(|call| Arc::clone(&call.0))
}

/// The account of the caller, as the layer left it.
pub(crate) fn account(parts: &Extensions) -> Option<Arc<Account>> {
    parts.get::<Arc<Account>>().cloned()
}

/// The content of `Authorization`.
enum Shown<'a> {
    Nothing,
    Bearer(&'a str),
    /// Something else, or several things.
    Unreadable,
}

fn shown(headers: &HeaderMap) -> Shown<'_> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    match (given.next(), given.next()) {
        (None, _) => Shown::Nothing,
        (Some(one), None) => {
            one.to_str().ok().and_then(access::bearer).map_or(Shown::Unreadable, Shown::Bearer)
        }
        (Some(_), Some(_)) => Shown::Unreadable,
    }
}

/// Says no more than any caller may know: the credential is missing, not valid, or has expired.
fn unauthenticated(denied: &Denied) -> Response {
    let (detail, challenge) = match denied.reason {
        DenialReason::Missing => {
            ("a credential is missing: Authorization: Bearer …", "Bearer realm=\"hatchery\"")
        }
        DenialReason::Expired => ("the credential has expired", INVALID_TOKEN),
        _ => ("the credential is not valid", INVALID_TOKEN),
    };
    let mut response = ApiError::new(ErrorCode::Unauthenticated, detail).into_response();
    response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

fn forbidden(scopes: &[Scope]) -> ApiError {
    ApiError::new(ErrorCode::Forbidden, format!("this needs the scope {}", one_of(scopes)))
}

/// The caller's credential; none where it is not required.
#[derive(Debug, Clone, Default)]
pub(crate) struct Who(pub(crate) Option<Arc<Bearer>>);

impl Who {
    /// As the layer left it.
    pub(crate) fn of(parts: &Extensions) -> Self {
        parts.get::<Self>().cloned().unwrap_or_default()
    }

    /// Resolves when the credential is not good any more; never where none is required.
    pub(crate) async fn revoked(&self, authenticator: Option<&Authenticator>) {
        match (&self.0, authenticator) {
            (Some(bearer), Some(authenticator)) => {
                let reason = authenticator.revoked(bearer).await;
                authenticator.count(reason);
            }
            _ => std::future::pending().await,
        }
    }

    /// Whether the caller has a scope, or needs none.
    pub(crate) fn has(&self, scope: Scope) -> bool {
        self.0.as_ref().is_none_or(|bearer| bearer.caller.scopes.has(scope))
    }

    /// The owner whose spawns the caller may see and end; `None`: all spawns.
    pub(crate) fn only(&self) -> Option<&Owner> {
        self.0.as_ref().and_then(|bearer| bearer.only())
    }

    /// The limits of its spawns.
    pub(crate) fn limits(&self) -> CallerLimits {
        self.0.as_ref().map_or_else(CallerLimits::default, |bearer| bearer.caller.limits)
    }

    /// The owner of what it spawns.
    pub(crate) fn owner(&self) -> Option<&Owner> {
        self.0.as_ref().map(|bearer| &bearer.caller.owner)
    }
}

impl<S: Sync> FromRequestParts<S> for Who {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::of(&parts.extensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_is_what_follows_bearer_and_there_is_one() {
        let read = |lines: &[&'static str]| {
            let lines = lines.iter().map(|line| (header::AUTHORIZATION, HeaderValue::from_static(line)));
            let mut headers = HeaderMap::new();
            lines.for_each(|(name, value)| assert!(headers.append(name, value) || headers.len() == 1));
            match shown(&headers) {
                Shown::Nothing => None,
                Shown::Unreadable => Some("unreadable".to_owned()),
                Shown::Bearer(credential) => Some(format!("={credential}")),
            }
        };
        for (lines, wanted) in [
            (&[][..], None),
            (&["Bearer abc"], Some("=abc")),
            (&["bearer  abc"], Some("=abc")),
            (&["BEARER a b"], Some("=a b")),
            (&["Bearer "], Some("=")),
            (&["Bearer"], Some("unreadable")),
            (&["Basic abc"], Some("unreadable")),
            (&["abc"], Some("unreadable")),
            (&[""], Some("unreadable")),
            (&["Bearer abc", "Bearer abc"], Some("unreadable")),
        ] {
            assert_eq!(read(lines).as_deref(), wanted, "{lines:?}");
        }
    }
}
