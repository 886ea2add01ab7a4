//! Pages that may call the front door from a browser (`--cors-origin`). Origins are compared as browsers send them, so anything that
//! is not exactly one is refused at start instead of never matching.

use axum::http::{HeaderValue, Uri};

use super::error::ConfigError;

/// Pages that may call from a browser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origins {
    /// Pages of every origin (`*`).
    Any,
    /// Those on this machine, under whatever local name and port.
    Local,
    /// Those of these origins, each `scheme://host[:port]`.
    Only(Vec<HeaderValue>),
}

/// Without credentials a page could do in its visitor's name whatever the visitor can, so by default only pages on this machine
/// may call.
pub(super) fn origins(texts: &[String], callers_are_known: bool) -> Result<Origins, ConfigError> {
    let texts: Vec<&String> = texts.iter().filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return Ok(if callers_are_known { Origins::Any } else { Origins::Local });
    }
    if texts.iter().any(|text| *text == "*") {
        return Ok(Origins::Any);
    }
    texts.into_iter().map(|text| origin(text)).collect::<Result<_, _>>().map(Origins::Only)
}

/// Browsers send an origin as scheme, host and port, in lower case and without a path: anything else never matches.
fn origin(text: &str) -> Result<HeaderValue, ConfigError> {
    let wrong = || ConfigError {
        flag: "--cors-origin",
        wants: "`*` or scheme://host[:port] as browsers send it, in lower case and without a path".into(),
        found: format!("{text:?}"),
    };
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
    if format!("{scheme}://{authority}") != text
        || text.to_lowercase() != text
        || authority.as_str().contains('@')
    {
        return Err(wrong());
    }
    HeaderValue::from_str(text).map_err(|_| wrong())
}
