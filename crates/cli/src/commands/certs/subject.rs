//! Whom a certificate is for, as the command line names it: a role, the node where it has one, and host names and addresses.

use std::net::IpAddr;

use model::NodeId;
use tls::Role;

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Subject {
    /// Its name in the farm.
    pub(super) name: String,
    /// What its files are called, before the end.
    pub(super) file: String,
    /// What it is in the farm.
    pub(super) role: Role,
    /// All that it is reached by.
    pub(super) hosts: Vec<String>,
}

impl Subject {
    fn new(name: &str, role: Role, hosts: Vec<String>) -> Self {
        Self { name: name.to_owned(), file: name.to_owned(), role, hosts }
    }
}

/// `NAME` or `NAME=HOST,IP`.
pub(super) fn front_door(text: &str) -> Result<Subject, String> {
    server(text, Role::FrontDoor)
}

pub(super) fn redis(text: &str) -> Result<Subject, String> {
    server(text, Role::Redis)
}

fn server(text: &str, role: Role) -> Result<Subject, String> {
    let (name, more) = split(text)?;
    if !is_host(name) {
        return Err(format!("expected a host name, got {name:?}"));
    }
    let hosts = [vec![name.to_owned()], hosts(more)?].concat();
    Ok(Subject::new(name, role, hosts))
}

/// `NODE` or `NODE=HOST,IP`. The name of a node need not be a host name.
pub(super) fn agent(text: &str) -> Result<Subject, String> {
    of_node(text, "--advertise", Role::Agent)
}

/// The same for the relay of a node, which has files of its own beside those of the agent.
pub(super) fn relay(text: &str) -> Result<Subject, String> {
    let subject = of_node(text, "--viewer-relay", Role::Relay)?;
    Ok(Subject { file: format!("{}.relay", subject.name), ..subject })
}

fn of_node(text: &str, flag: &str, role: fn(NodeId) -> Role) -> Result<Subject, String> {
    let (name, more) = split(text)?;
    let node: NodeId = name.parse().map_err(|e| format!("the name of a node {e}"))?;
    let mut hosts = hosts(more)?;
    if is_host(name) {
        hosts.insert(0, name.to_owned());
    }
    if hosts.is_empty() {
        return Err(format!("{name:?} is no host name: add the host of {flag}, as in {name}=HOST"));
    }
    Ok(Subject::new(name, role(node), hosts))
}

pub(super) fn metrics_reader(text: &str) -> Result<Subject, String> {
    let (name, _) = split(text)?;
    if !is_host(name) || text.contains('=') {
        return Err(format!("expected a name of letters, digits, '.', '_' and '-', got {text:?}"));
    }
    Ok(Subject::new(name, Role::Metrics, Vec::new()))
}

/// The name, which names files as well, and the hosts.
fn split(text: &str) -> Result<(&str, &str), String> {
    let (name, more) = text.split_once('=').unwrap_or((text, ""));
    match name {
        "ca" => Err("ca is the CA's name".to_owned()),
        _ => Ok((name, more)),
    }
}

fn hosts(text: &str) -> Result<Vec<String>, String> {
    let one = |host: &str| match host.parse::<IpAddr>().is_ok() || is_host(host) {
        true => Ok(host.to_owned()),
        false => Err(format!("expected a host name or address, got {host:?}")),
    };
    text.split(',').filter(|host| !host.is_empty()).map(one).collect()
}

fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_has_its_name_and_all_it_is_reached_by() {
        let made = |made: Result<Subject, String>| made.map(|s| s.hosts.join(" "));
        for parse in [front_door, agent, relay] {
            assert_eq!(made(parse("node-a")), Ok("node-a".into()));
            let more = made(parse("node-a=10.0.0.7,a.example,::1"));
            assert_eq!(more, Ok("node-a 10.0.0.7 a.example ::1".into()));
            for wrong in
                ["", "ca", "a/b", "../x", "a b", "10.0.0.7=/", ".", "..", "..=h", "-a", "a..b", "a=b c"]
            {
                assert!(parse(wrong).is_err(), "{wrong:?}");
            }
        }
        assert_eq!(made(metrics_reader("prometheus")), Ok(String::new()));
        for wrong in ["", "ca", "a/b", "a=10.0.0.7", "a=", "..", "*"] {
            assert!(metrics_reader(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_agent_is_named_as_its_node_which_need_not_be_a_host() {
        for (text, hosts) in [("-a.b_=host", "host"), ("a..b=10.0.0.7", "10.0.0.7"), ("A_1=h", "A_1 h")] {
            let made = agent(text).unwrap();
            let (node, _) = text.split_once('=').unwrap();
            assert_eq!(made.role.to_string(), format!("spiffe://hatchery/agent/{node}"));
            assert_eq!(made.hosts.join(" "), hosts, "{text}");
        }
        let relay = relay("node-a=10.0.0.7").unwrap();
        assert_eq!(
            (relay.role.to_string().as_str(), relay.file.as_str()),
            ("spiffe://hatchery/relay/node-a", "node-a.relay")
        );
        let long = format!("{}.example", "n".repeat(63));
        assert!(agent(&long).unwrap_err().contains("at most 63"), "no node has this name");
        assert!(front_door(&long).is_ok());
    }
}
