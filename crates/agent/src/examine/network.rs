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

/// Whether a host is this machine's loopback wherever it is used.
fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']).trim_end_matches('.');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// What is to be remarked of a host that others are to use, or what is wrong with it.
fn judge(host: &str, registry_is_elsewhere: bool) -> Result<String, String> {
    let addresses = resolve(host).map_err(|why| format!("{host} does not resolve: {why}"))?;
    judge_addresses(host, &addresses, registry_is_elsewhere)
}

/// The same of a host with these addresses.
///
/// A name may be loopback here alone: distributions write the machine's own name to `/etc/hosts` as 127.0.1.1.
fn judge_addresses(host: &str, addresses: &[IpAddr], registry_is_elsewhere: bool) -> Result<String, String> {
    if !registry_is_elsewhere || !addresses.iter().all(IpAddr::is_loopback) {
        return Ok(String::new());
    }
    if is_loopback(host) {
        return Err(format!("{host} is this machine's loopback, and the registry is on another machine"));
    }
    Ok(format!(
        "; {host} is loopback on this machine, as /etc/hosts may have it: see that it is not so on others"
    ))
}

/// Whether front doors can reach the agent by what it names.
pub(super) fn advertise(config: &Config, registry_is_elsewhere: bool) -> Vec<Finding> {
    let url = url(config, config.tls.grpc.is_some());
    let Ok(host) = host_of(&url) else { return Vec::new() };
    let named = if config.advertise.is_some() { "--advertise" } else { "the default of --advertise" };
    vec![match judge(&host, registry_is_elsewhere) {
        Ok(remark) => Finding::ok("advertise", format!("front doors are given {url} ({named}){remark}")),
        Err(why) => Finding::problem(
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
    let why = match judge(&host, registry_is_elsewhere) {
        Ok(remark) => {
            return vec![Finding::ok("public-host", format!("viewers are given {host} ({named}){remark}"))];
        }
        Err(why) => why,
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
            "the agent does not start: it could not distinguish front doors from others",
            "name the farm's CA with --tls-client-ca",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_what_every_machine_calls_so() {
        for (host, loopback) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("127.0.0.1", true),
            ("127.0.1.1", true),
            ("[::1]", true),
            ("::ffff:127.0.0.1", true),
            ("node-a", false),
            ("10.0.0.7", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }

    #[test]
    fn a_name_that_may_be_loopback_here_alone_is_remarked_and_no_problem() {
        let here: &[IpAddr] = &["127.0.1.1".parse().unwrap(), "::1".parse().unwrap()];
        assert!(judge_addresses("localhost", here, true).unwrap_err().contains("loopback"));
        assert!(judge_addresses("127.0.1.1", here, true).is_err());
        assert!(judge_addresses("node-a", here, true).unwrap().contains("loopback on this machine"));
        assert_eq!(judge_addresses("localhost", here, false), Ok(String::new()));
        let both: &[IpAddr] = &["127.0.1.1".parse().unwrap(), "10.0.0.7".parse().unwrap()];
        assert_eq!(judge_addresses("node-a", both, true), Ok(String::new()));
        assert!(judge("nowhere.invalid", false).unwrap_err().contains("does not resolve"));
    }
}
