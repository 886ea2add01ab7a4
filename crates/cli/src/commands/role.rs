//! What the roles have in common: the registry that they open, and the line that says where they listen.

use std::error::Error;
use std::io::{self, Write};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use model::{NodeId, Timing};
use registry::Registry;
use tokio::runtime::Builder;
use tokio::task::JoinSet;
use traces::Tracer;
use tracing::{info, warn};

use crate::args::{LogFlags, RegistryFlags};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::logging;
use crate::notify_socket::NotifySocket;
use crate::runtime::block_on;
use crate::signals::Signals;

/// A pipe that takes an announcement takes it in less time than this.
const ANNOUNCEMENT: Duration = Duration::from_secs(1);

/// Opens the registry, on the runtime that is to serve it. Redis need not be there yet. A front door says how long ended records are kept.
pub(crate) fn open(flags: &RegistryFlags, keep_ended: Duration) -> Result<Registry, Failure> {
    let password_file = flags.registry_password_file.as_deref();
    if has_password(&flags.registry) || flags.registry.contains("sentinel-password=") {
        if password_file.is_some() && has_password(&flags.registry) {
            return Err(Failure::usage(
                "invalid --registry-password-file: --registry has a password already",
            ));
        }
        if std::env::args_os().any(|word| word.to_string_lossy().ends_with(&flags.registry)) {
            warn!(
                "--registry has a password, which every user of this machine sees: use HATCHERY_REGISTRY or --registry-password-file"
            );
        }
    }
    if let Some(file) = password_file
        && parts(&flags.registry).is_none()
    {
        return Err(Failure::usage(format!(
            "invalid --registry-password-file {}: --registry is no URL that has a password",
            file.display()
        )));
    }
    if let Some(file) = password_file {
        machine::warn_if_readable_by_everyone("--registry-password-file", file);
    }
    let timing = Timing { history: keep_ended, ..Timing::FARM };
    let registry = Registry::open_with(&flags.registry, password_file, &flags.farm.farm, timing)
        .map_err(|e| wrong(&e))?;
    if registry.backend() == "embedded" {
        warn!("an embedded registry is this process's own: no other process sees it");
    }
    Ok(registry)
}

/// What the registry is to be for this role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Guarded {
    /// The role itself is kept by TLS and knows its callers: then the registry must not be the open door beside it.
    pub(crate) role: bool,
    /// The operator wants it as it is.
    pub(crate) insecure: bool,
}

/// Refuses a Redis on another machine without TLS or a password: a third party that reads or writes it owns the farm.
pub(crate) fn check_registry(flags: &RegistryFlags, guarded: Guarded) -> Result<(), Failure> {
    if !guarded.role {
        return Ok(());
    }
    let found = registry::unprotected(&flags.registry, flags.registry_password_file.as_deref());
    let Some(registry::Unprotected { host, lacks }) = found.map_err(|e| wrong(&e))? else { return Ok(()) };
    if guarded.insecure {
        warn!(
            host,
            "the registry is on another machine {lacks}, and --insecure lets it be: a process that reaches it owns the farm"
        );
        return Ok(());
    }
    Err(Failure::usage(format!(
        "invalid --registry: expected TLS (rediss://) and a password (--registry-password-file) where Redis is on another machine, \
         got {host} {lacks}: a process that reaches it owns the farm (--insecure does without)"
    )))
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

/// Writes to standard output that a role listens. The reader may not read, or may have closed the pipe: the role
/// waits no longer than [`ANNOUNCEMENT`].
pub(crate) fn announce(text: &str) {
    let text = format!("{text}\n");
    let (written, done) = mpsc::channel();
    let write = move || {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
        written.send(()).ok();
    };
    if thread::Builder::new().name("announcement".to_owned()).spawn(write).is_ok() {
        done.recv_timeout(ANNOUNCEMENT).ok();
    }
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

/// How long the end of a role waits for a collector to take the last spans.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// What the variables `OTEL_*` say of traces.
pub(crate) fn trace_settings() -> Result<Option<traces::Settings>, Failure> {
    traces::Settings::from_environment().map_err(|e| wrong(&e))
}

/// Begins to export traces, where the settings say so. Call it on the runtime that is to serve the role.
pub(crate) fn tracer(
    settings: Option<traces::Settings>,
    service: &str,
    node: Option<&NodeId>,
) -> Result<Tracer, Failure> {
    let Some(settings) = settings else { return Ok(Tracer::off()) };
    let instance = node.map(|node| ("service.instance.id", node.to_string()));
    Tracer::start(&settings, service, instance).map_err(|e| wrong(&e))
}

/// Sends the last spans of all at once, as far as their collectors take them in time. A signal ends the wait.
pub(crate) async fn end_traces(tracers: &[&Tracer], signals: &mut Signals) {
    let ending = tracers.iter().map(|tracer| {
        let tracer = Tracer::clone(tracer);
        async move { tracer.shutdown(LAST_SPANS).await }
    });
    tokio::select! {
        biased;
        _ = ending.collect::<JoinSet<()>>().join_all() => {}
        name = signals.next() => warn!(signal.name = name, "a further signal: the last spans are not waited for"),
    }
}

/// Runs a front door, or a relay, which is one that serves viewers alone, until a signal. `registry` is `None` for one that asks no
/// registry for anything.
pub(crate) fn serve(
    name: &str,
    mut config: ::frontdoor::Config,
    registry: Option<&RegistryFlags>,
    log: &LogFlags,
    insecure: bool,
) -> Result<Exit, Failure> {
    let settings = trace_settings()?;
    logging::start(log)?;
    block_on(Builder::new_multi_thread(), async {
        let tracer = tracer(settings, &format!("hatchery-{name}"), None)?;
        config.tracer = tracer.clone();
        let has_tls = config.tls.http.is_some() || config.tls.agents.is_some();
        let knows_callers = config.access.is_some() || config.surface == ::frontdoor::Surface::Relay;
        let guarded = Guarded { role: has_tls && knows_callers, insecure };
        let registry = match registry {
            Some(flags) => {
                check_registry(flags, guarded)?;
                open(flags, config.keep_ended)?
            }
            None => Registry::embedded(Timing::FARM),
        };
        let [http, admin] = [&config.tls.http, &config.tls.admin].map(|tls| scheme(tls.is_some()));
        let mut signals = Signals::catch()?;
        let service = NotifySocket::from_environment();
        let door = ::frontdoor::FrontDoor::start(config, registry).await.map_err(|e| not_started(&e))?;
        let hoops = door.hoops_addr().map(|address| format!(", hoops on {http}://{address}"));
        announce(&format!(
            "{name} listening on {http}://{}, admin on {admin}://{}{}",
            door.http_addr(),
            door.admin_addr(),
            hoops.unwrap_or_default()
        ));
        let signal = tokio::select! {
            name = signals.next() => name,
            never = service.follow(async || door.readiness().await) => match never {},
        };
        info!(signal.name = signal, "ending: no new requests");
        service.stopping("ending: no new requests; those under way, and viewers, have their time").await;
        tokio::select! {
            () = door.shutdown() => {
                info!("ended");
                end_traces(&[&tracer], &mut signals).await;
            }
            signal = signals.next() => warn!(signal.name = signal, "a second signal: requests are cut off"),
        }
        Ok(Exit::Done)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
