//! How others reach this node: the addresses that it names, and the certificate that it shows.

use std::net::{IpAddr, ToSocketAddrs};

use model::{Finding, Level};
use tls::Role;

use crate::address::{default_advertise, host_of};
use crate::config::Config;

/// The URL that front doors get.
fn url(config: &Config, with_tls: bool) -> String {
    config.advertise.clone().unwrap_or_else(|| default_advertise(config.listen, with_tls))
}

/// The addresses of a host, as this machine knows them.
fn resolve(host: &str) -> Result<Vec<IpAddr>, String> {
    let host = host.trim_matches(['[', ']']);
    let found = (host, 0).to_socket_addrs().map_err(|error| error.to_string())?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip().to_canonical()).collect();
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

/// What is wrong with a host that others are to use.
fn doubt(host: &str, registry_is_elsewhere: bool) -> Option<String> {
    match resolve(host) {
        Err(why) => Some(format!("{host} does not resolve: {why}")),
        Ok(addresses) if registry_is_elsewhere && addresses.iter().all(IpAddr::is_loopback) => {
            Some(format!("{host} is this machine's loopback, and the registry is on another machine"))
        }
        Ok(_) => None,
    }
}

/// Whether front doors can reach the agent by what it names.
pub(super) fn advertise(config: &Config, registry_is_elsewhere: bool) -> Vec<Finding> {
    let url = url(config, config.tls.grpc.is_some());
    let Ok(host) = host_of(&url) else { return Vec::new() };
    let named = if config.advertise.is_some() { "--advertise" } else { "the default of --advertise" };
    vec![match doubt(&host, registry_is_elsewhere) {
        None => Finding::ok("advertise", format!("front doors are given {url} ({named})")),
        Some(why) => Finding::problem(
            "advertise",
            format!("front doors are given {url} ({named}): {why}"),
            "front doors cannot reach the agent: every spawn goes to other nodes",
            "name an address of this machine that front doors reach, with --listen and --advertise",
        ),
    }]
}

/// Whether viewers can reach spawns by what they are given.
pub(super) fn public_host(config: &Config, registry_is_elsewhere: bool) -> Vec<Finding> {
    if !config.endpoint.to_string().contains("{host}") {
        return Vec::new();
    }
    let host = match &config.public_host {
        Some(host) => host.clone(),
        None => host_of(&url(config, false)).unwrap_or_default(),
    };
    let named = if config.public_host.is_some() { "--public-host" } else { "the host of --advertise" };
    let Some(why) = doubt(&host, registry_is_elsewhere) else {
        return vec![Finding::ok("public-host", format!("viewers are given {host} ({named})"))];
    };
    // Front doors with --public-url give viewers their own address instead.
    let level = if why.contains("resolve") { Level::Problem } else { Level::Warning };
    vec![Finding::bad(
        "public-host",
        level,
        format!("viewers are given {host} ({named}): {why}"),
        "unless front doors have --public-url, viewers are given an address that leads nowhere",
        "name the host that viewers reach this node by with --public-host",
    )]
}

/// The certificate, its key and its CA.
pub(super) fn certificate(config: &Config, options: &tls::Options) -> Vec<Finding> {
    let Some(identity) = options.identity() else {
        return Vec::new();
    };
    let ca = options.client_ca();
    let identity = identity.stating(Role::Agent(config.node.clone()));
    let host = host_of(&url(config, true)).ok();
    let mut findings = tls::examine("tls", &identity, ca.as_ref(), host.as_deref());
    if ca.is_none() {
        findings.push(Finding::problem(
            "tls",
            "--tls-cert is given without --tls-client-ca",
            "the agent does not start: it could not tell front doors from others",
            "name the farm's CA with --tls-client-ca",
        ));
    }
    findings
}
