//! What the roles have in common: they need the registry, say where they listen, and run until they are told to end.

use std::error::Error;
use std::fs;
use std::io::{self, Write};
use std::path::Path;

use model::Timing;
use registry::Registry;
use tracing::warn;

use crate::args::RegistryFlags;
use crate::failure::Failure;

/// Opens the registry, on the runtime that is to serve it. Redis need not be there yet.
pub(crate) fn open(flags: &RegistryFlags) -> Result<Registry, Failure> {
    let password = flags.registry_password_file.as_deref().map(password_in).transpose()?;
    if has_password(&flags.registry) || flags.registry.contains("sentinel-password=") {
        if password.is_some() && has_password(&flags.registry) {
            return Err(Failure::usage("--registry-password-file: --registry has a password already"));
        }
        if std::env::args_os().any(|word| word.to_string_lossy().ends_with(&flags.registry)) {
            warn!(
                "--registry has a password, which every user of this machine sees: use HATCHERY_REGISTRY or --registry-password-file"
            );
        }
    }
    let url = match &password {
        Some(password) => with_password(&flags.registry, password)?,
        None => flags.registry.clone(),
    };
    let registry = Registry::open(&url, &flags.farm.farm, Timing::FARM).map_err(|e| wrong(&e))?;
    if registry.backend() == "embedded" {
        warn!("an embedded registry is this process's own: no other process sees it");
    }
    Ok(registry)
}

fn password_in(file: &Path) -> Result<String, Failure> {
    let wrong = |why: &str| Failure::usage(format!("--registry-password-file {}: {why}", file.display()));
    let text = fs::read_to_string(file).map_err(|e| wrong(&e.to_string()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(wrong("it is empty")),
        password => Ok(password.to_owned()),
    }
}

/// The parts of a registry's URL: scheme, user and password, all after that.
fn parts(url: &str) -> Option<(&str, Option<&str>, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    // What comes after the first `/` or `?` may hold an @ of its own.
    let authority = rest.find(['/', '?']).map_or(rest, |end| &rest[..end]);
    match authority.rfind('@') {
        Some(at) => Some((scheme, Some(&rest[..at]), &rest[at + 1..])),
        None => Some((scheme, None, rest)),
    }
}

fn has_password(url: &str) -> bool {
    parts(url).is_some_and(|(_, user, _)| user.is_some_and(|user| user.contains(':')))
}

/// The same URL with this password.
fn with_password(url: &str, password: &str) -> Result<String, Failure> {
    let Some((scheme, user, rest)) = parts(url) else {
        return Err(Failure::usage("--registry-password-file: --registry is no URL that has a password"));
    };
    let password: String = password
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    Ok(format!("{scheme}://{}:{password}@{rest}", user.unwrap_or_default()))
}

/// A setting that will not do; the error names the flag.
pub(crate) fn wrong(error: &dyn Error) -> Failure {
    Failure::usage(chain(error))
}

/// A start that did not succeed.
pub(crate) fn not_started(error: &dyn Error) -> Failure {
    Failure::failed(chain(error))
}

/// The scheme of what is served with TLS or without.
pub(crate) fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// Says that it listens. Whoever started it may not care, and may have closed the pipe.
pub(crate) fn announce(line: &str) {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// An error with its causes, those left out that an outer one quotes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text += &format!(": {words}");
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_put_where_it_belongs() {
        for (url, whole) in [
            ("redis://host:6379/2", "redis://:a%3Ab%40%2F@host:6379/2"),
            ("rediss://user@host", "rediss://user:a%3Ab%40%2F@host"),
            (
                "redis-sentinel://a,b/farm?sentinel-user=x@y",
                "redis-sentinel://:a%3Ab%40%2F@a,b/farm?sentinel-user=x@y",
            ),
        ] {
            assert_eq!(with_password(url, "a:b@/").unwrap(), whole);
        }
        assert!(with_password("embedded", "x").is_err());
    }

    #[test]
    fn a_password_in_a_url_is_seen() {
        for (url, has) in [
            ("redis://:x@host", true),
            ("redis://u:x@host/1", true),
            ("redis://u@host:6379", false),
            ("redis://host:6379", false),
            ("embedded", false),
        ] {
            assert_eq!(has_password(url), has, "{url}");
        }
    }
}
