//! Reading requests, with refusals in the shape of the contract: bodies within bounds of size and time, queries of which nothing may
//! be left over, ids. Every refusal names the field, parameter or header at fault.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{Extensions, HeaderMap, Uri, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Body as _;
use model::RequestId;
use model::api::ErrorCode;
use registry::IdempotencyKey;
use tokio::time::timeout;

use super::error::ApiError;
use crate::listen::{ConnectionPlace, Peer};
use crate::request_context::RequestContext;
use crate::strict_json::Invalid;

/// Bytes of a body.
const MAX_BODY: usize = 64 * 1024;
/// A body must arrive within this time.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The id that the observer gave the request.
pub(crate) fn request_id(parts: &Extensions) -> RequestId {
    RequestContext::of(parts).id
}

/// The request's id, as an extractor.
#[derive(Debug)]
pub(crate) struct Id(pub(crate) RequestId);

impl<S: Sync> FromRequestParts<S> for Id {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self(request_id(&parts.extensions)))
    }
}

/// The address of the other end, where there is a connection.
pub(crate) fn peer(parts: &Extensions) -> Option<String> {
    parts.get::<Peer>().map(|peer| peer.text())
}

/// The one parameter of the path.
#[derive(Debug)]
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(_) => Err(Invalid::field("path", "must be UTF-8, percent-encoded").into()),
        }
    }
}

/// The parameters of the query. A handler takes out what it knows; [`Parameters::done`] refuses what is left.
#[derive(Debug)]
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    pub(crate) fn of(uri: &Uri) -> Result<Self, ApiError> {
        match Query::try_from_uri(uri) {
            Ok(Query(pairs)) => Ok(Self(pairs)),
            Err(_) => Err(Invalid::field("query", "must be name=value pairs, percent-encoded").into()),
        }
    }

    /// Takes a parameter out, parsed.
    pub(crate) fn take<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(at) = self.0.iter().position(|(key, _)| key == name) else { return Ok(None) };
        let (_, text) = self.0.remove(at);
        if self.0.iter().any(|(key, _)| key == name) {
            return Err(Invalid::field(name, "must be given once").into());
        }
        text.parse().map(Some).map_err(|error: T::Err| Invalid::field(name, error).into())
    }

    /// Takes out a parameter that may be repeated, so many times at the most, parsed.
    pub(crate) fn all<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        name: &str,
        most: usize,
    ) -> Result<Vec<T>, ApiError> {
        let given: Vec<(String, String)> = self.0.extract_if(.., |(key, _)| key == name).collect();
        if given.len() > most {
            return Err(Invalid::field(name, format!("must be given at most {most} times")).into());
        }
        let parsed = given.iter().map(|(_, text)| text.parse());
        parsed.collect::<Result<_, _>>().map_err(|error: T::Err| Invalid::field(name, error).into())
    }

    /// Takes a number out that must lie within bounds.
    pub(crate) fn number(&mut self, name: &str, default: u32, most: u32) -> Result<u32, ApiError> {
        let wants = || Invalid::field(name, format!("must be a whole number from 1 to {most}")).into();
        match self.take::<String>(name)? {
            None => Ok(default),
            // `+5` parses as a number in Rust and as a blank and a 5 in a form.
            Some(text) if !text.bytes().all(|b| b.is_ascii_digit()) => Err(wants()),
            Some(text) => text.parse().ok().filter(|n| (1..=most).contains(n)).ok_or_else(wants),
        }
    }

    pub(crate) fn done(self) -> Result<(), ApiError> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(100).collect();
                Err(Invalid::field(&name, "there is no such parameter here").into())
            }
        }
    }
}

/// For routes without parameters.
pub(crate) fn no_parameters(uri: &Uri) -> Result<(), ApiError> {
    if uri.query().is_none_or(str::is_empty) { Ok(()) } else { Parameters::of(uri)?.done() }
}

pub(crate) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, ApiError> {
    let mut given = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(one) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(Invalid::field(IDEMPOTENCY_KEY, "must be given once").into());
    }
    let text = one
        .to_str()
        .map_err(|_| Invalid::field(IDEMPOTENCY_KEY, "must be made of visible ASCII characters"))?;
    text.parse().map(Some).map_err(|error| Invalid::field(IDEMPOTENCY_KEY, error).into())
}

/// Reads a body that is JSON, or empty.
pub(crate) async fn body(request: Request) -> Result<Bytes, ApiError> {
    let (parts, body) = request.into_parts();
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let too_large = || {
        ApiError::new(ErrorCode::BodyTooLarge, format!("the body must not have more than {MAX_BODY} bytes"))
    };
    let bytes = match read(body, MAX_BODY, parts.extensions.get::<ConnectionPlace>()).await {
        Ok(bytes) => bytes,
        Err(Unread::TooLarge) => return Err(too_large()),
        Err(Unread::Broken(why)) => return Err(ApiError::new(ErrorCode::InvalidRequest, why)),
    };
    if !bytes.is_empty() {
        check_media_type(&parts.headers)
            .map_err(|why| ApiError::new(ErrorCode::UnsupportedMediaType, why))?;
    }
    Ok(bytes)
}

/// Why a body was not read.
#[derive(Debug)]
pub(crate) enum Unread {
    TooLarge,
    /// It broke off, or was too slow.
    Broken(String),
}

/// Reads a body of at most so many bytes. An announced length is refused before anything is read.
pub(crate) async fn read(
    body: axum::body::Body,
    max: usize,
    place: Option<&ConnectionPlace>,
) -> Result<Bytes, Unread> {
    if body.size_hint().lower() > max as u64 {
        return Err(Unread::TooLarge);
    }
    match timeout(BODY_TIMEOUT, collect(Limited::new(body, max), place)).await {
        Ok(Ok(collected)) => Ok(collected),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unread::TooLarge),
        Ok(Err(error)) => Err(Unread::Broken(format!("the body broke off: {error}"))),
        Err(_) => Err(Unread::Broken(format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs()))),
    }
}

/// Collects a body. What has arrived of a stranger's counts as held until the rest is here, and the connection may be closed.
async fn collect<B: hyper::body::Body<Data = Bytes> + Unpin>(
    mut body: B,
    place: Option<&ConnectionPlace>,
) -> Result<Bytes, B::Error> {
    let mut all = bytes::BytesMut::new();
    let hold = |bytes| place.map(|place| place.holds_body(bytes));
    hold(Some(0));
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            all.extend_from_slice(&data);
            hold(Some(all.len()));
        }
    }
    hold(None);
    Ok(all.freeze())
}

/// `application/json` or `application/*+json`, in UTF-8.
fn check_media_type(headers: &HeaderMap) -> Result<(), String> {
    let mut given = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(one), None) = (given.next(), given.next()) else {
        return Err("a body needs one Content-Type, application/json".into());
    };
    let text = one.to_str().unwrap_or_default();
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    let suffixed = subtype.strip_suffix("+json").is_some_and(|s| !s.is_empty());
    if subtype != "json" && !suffixed {
        return Err(format!("the body must be application/json, not {essence:?}"));
    }
    for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
        let value = value.trim().trim_matches('"');
        if name.trim().eq_ignore_ascii_case("charset") && !value.eq_ignore_ascii_case("utf-8") {
            return Err(format!("the body must be in UTF-8, not {value:?}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn json_is_known_by_its_media_type() {
        for (text, good) in [
            ("application/json", true),
            ("Application/JSON", true),
            ("application/json; charset=utf-8", true),
            ("application/json;charset=\"UTF-8\"; a=b", true),
            ("application/merge-patch+json", true),
            ("application/json; charset=latin1", false),
            ("application/json; charset=utf-16", false),
            ("application/+json", false),
            ("text/json", false),
            ("text/plain", false),
            ("application/jsonp", false),
            ("application/x-www-form-urlencoded", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(text));
            assert_eq!(check_media_type(&headers).is_ok(), good, "{text}");
        }
        assert!(check_media_type(&HeaderMap::new()).is_err());
    }
}
