//! Connections between roles: who is let in, who is refused, and what is counted.

use super::*;
use crate::{RefusalReason, Role, RoleMismatch};

const DOOR: &str = "spiffe://hatchery/frontdoor";
const METRICS: &str = "spiffe://hatchery/metrics";
const NODE_A: &str = "spiffe://hatchery/agent/node-a";

fn agent(node: &str) -> Role {
    Role::Agent(node.parse().unwrap())
}

impl Authority {
    /// A pair for callers and servers whose certificate has these URIs.
    fn with_uris(&self, name: &str, uris: &[&str]) -> Identity {
        self.sign_with(name, FOR_BOTH, 2101, uris)
    }
}

/// What an agent that serves front doors alone, and its port for metrics, say to a caller with these URIs.
async fn admitted(farm: &Authority, uris: &[&str]) -> [bool; 2] {
    let shown = farm.with_uris("caller", uris);
    let states_a_role = uris.iter().any(|uri| uri.starts_with("spiffe:"));
    let server = |callers| Server::open(farm.with_uris("node-a", &[NODE_A]), callers, HTTP2).unwrap();
    let mut admitted = [false; 2];
    for (at, callers) in
        [Callers::FrontDoors(farm.ca()), Callers::MayReadMetrics(farm.ca())].into_iter().enumerate()
    {
        let server = server(callers);
        let (served, called) = meet(&server, &front_door_of(farm, Some(shown.clone())), "node-a").await;
        assert_eq!(served.is_ok(), called.is_ok(), "{uris:?}: {served:?} {called:?}");
        assert_eq!(server.peers().without_role(), u64::from(served.is_ok() && !states_a_role), "{uris:?}");
        admitted[at] = served.is_ok();
    }
    admitted
}

#[tokio::test]
async fn an_agent_takes_orders_from_front_doors_and_shows_metrics_to_metrics_readers_as_well() {
    let farm = Authority::new("farm");
    for (uris, expected) in [
        (&[DOOR][..], [true, true]),
        (&[METRICS], [false, true]),
        (&[NODE_A], [false, false]),
        (&[], [true, true]),
        (&["https://farm.example/"], [true, true]),
        (&["spiffe://other/frontdoor"], [false, false]),
        (&["spiffe://hatchery/frontdoor/"], [false, false]),
        (&["SPIFFE://hatchery/frontdoor"], [false, false]),
        (&["spiffe://hatchery/agent/"], [false, false]),
        (&["spiffe://hatchery/*"], [false, false]),
        (&[DOOR, METRICS], [false, false]),
        (&[METRICS, DOOR], [false, false]),
        (&[DOOR, "https://farm.example/"], [false, false]),
    ] {
        let found = admitted(&farm, uris).await;
        assert_eq!(found, expected, "{uris:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_why_and_is_counted() {
    let farm = Authority::new("farm");
    let server = agent_of(&farm, farm.with_uris("node-a", &[NODE_A]));
    let client = front_door_of(&farm, Some(farm.with_uris("prometheus", &[METRICS])));
    let (near, far) = duplex(16 * 1024);
    let (served, _called) = tokio::join!(server.accept(far), client.connect("node-a", near));
    let error = served.unwrap_err();
    assert!(crate::is_refusal(&error));
    let text = RoleMismatch::in_error(&error).unwrap().to_string();
    assert!(text.contains(METRICS) && text.contains(DOOR), "{text}");
    server.refused([127, 0, 0, 1].into(), &error);
    server.refused([127, 0, 0, 1].into(), &std::io::Error::other("no TLS"));
    assert_eq!(server.peers().refused(RefusalReason::OtherRole), 1);
    assert_eq!(server.peers().kind(), "frontdoor");
}

#[tokio::test]
async fn a_front_door_knows_the_agent_of_a_node_by_its_certificate() {
    let farm = Authority::new("farm");
    let client = front_door_of(&farm, Some(farm.with_uris("door", &[DOOR])));
    for (uris, node, expected) in [
        (&[NODE_A][..], "node-a", Ok(())),
        (&[NODE_A], "node-b", Err(RefusalReason::OtherNode)),
        (&[NODE_A], "Node-a", Err(RefusalReason::OtherNode)),
        (&[NODE_A], "node-a.", Err(RefusalReason::OtherNode)),
        (&[DOOR], "node-a", Err(RefusalReason::OtherRole)),
        (&[METRICS], "node-a", Err(RefusalReason::OtherRole)),
        (&["spiffe://other/agent/node-a"], "node-a", Err(RefusalReason::NoRole)),
        (&["spiffe://hatchery/agent/*"], "node-a", Err(RefusalReason::NoRole)),
        (&[NODE_A, "spiffe://hatchery/agent/node-b"], "node-a", Err(RefusalReason::NoRole)),
        (&[], "node-a", Ok(())),
    ] {
        // The host name is right each time: an address may be another node's.
        let server = agent_of(&farm, farm.with_uris("host", uris));
        let (near, far) = duplex(16 * 1024);
        let (_served, called) = tokio::join!(server.accept(far), client.connect("host", near));
        let checked = client.check_agent(&called.unwrap(), &node.parse().unwrap());
        assert_eq!(checked.map_err(|refusal: RoleMismatch| refusal.reason()), expected, "{uris:?} {node}");
    }
    assert_eq!(client.peers().without_role(), 1);
    assert_eq!(client.peers().refused(RefusalReason::OtherNode), 3);
    assert_eq!(client.peers().kind(), "agent");
}

#[tokio::test]
async fn the_relay_of_a_node_is_known_by_its_certificate_and_must_state_its_role() {
    let farm = Authority::new("farm");
    let relay_a = "spiffe://hatchery/relay/node-a";
    let client = front_door_of(&farm, Some(farm.with_uris("door", &[DOOR]))).calling_relays();
    for (uris, node, expected) in [
        (&[relay_a][..], "node-a", Ok(())),
        (&[relay_a], "node-b", Err(RefusalReason::OtherNode)),
        (&[NODE_A], "node-a", Err(RefusalReason::OtherRole)),
        (&[DOOR], "node-a", Err(RefusalReason::OtherRole)),
        (&["spiffe://hatchery/relay/*"], "node-a", Err(RefusalReason::NoRole)),
        (&[], "node-a", Err(RefusalReason::NoRole)),
    ] {
        let shown = farm.with_uris("host", uris);
        let server = Server::open(shown, Callers::BringViewers(farm.ca()), HTTP2).unwrap();
        let (near, far) = duplex(16 * 1024);
        let (_served, called) = tokio::join!(server.accept(far), client.connect("host", near));
        let checked = client.check_relay(&called.unwrap(), &node.parse().unwrap());
        assert_eq!(checked.map_err(|refusal: RoleMismatch| refusal.reason()), expected, "{uris:?} {node}");
    }
    assert_eq!((client.peers().kind(), client.peers().without_role()), ("relay", 0));
}

#[tokio::test]
async fn the_relay_of_a_node_is_called_by_front_doors_and_relays_and_calls_its_own_agent_alone() {
    let farm = Authority::new("farm");
    let node_a = "node-a".parse().unwrap();
    let agent = Callers::OfAgent(farm.ca(), node_a);
    for (uri, expected) in [
        (DOOR, [true, true]),
        ("spiffe://hatchery/relay/node-a", [true, true]),
        ("spiffe://hatchery/relay/node-b", [true, false]),
        (NODE_A, [false, false]),
        (METRICS, [false, false]),
        ("spiffe://hatchery/redis", [false, false]),
    ] {
        let shown = farm.with_uris("caller", &[uri]);
        let callers = [Callers::BringViewers(farm.ca()), agent.clone()];
        for (callers, expected) in callers.into_iter().zip(expected) {
            let server = Server::open(farm.with_uris("host", &[NODE_A]), callers, HTTP2).unwrap();
            let (served, _) = meet(&server, &front_door_of(&farm, Some(shown.clone())), "host").await;
            assert_eq!(served.is_ok(), expected, "{uri}: {served:?}");
        }
    }
}

#[test]
fn a_certificate_of_another_role_is_not_taken_as_ones_own() {
    let farm = Authority::new("farm");
    let node_b = "spiffe://hatchery/agent/node-b";
    for (uris, role, found) in [
        (&[NODE_A][..], agent("node-a"), None),
        (&[], agent("node-a"), None),
        (&[node_b], agent("node-a"), Some(node_b)),
        (&[DOOR], agent("node-a"), Some(DOOR)),
        (&[DOOR], Role::FrontDoor, None),
        (&[], Role::FrontDoor, None),
        (&[METRICS], Role::FrontDoor, Some(METRICS)),
        (&[NODE_A], Role::FrontDoor, Some(NODE_A)),
        (&["spiffe://other/frontdoor"], Role::FrontDoor, Some("spiffe://other/frontdoor")),
        (&[DOOR, METRICS], Role::FrontDoor, Some("2 URIs")),
        (&["spiffe://hatchery/relay/node-a"], Role::Relay("node-a".parse().unwrap()), None),
        (&[NODE_A], Role::Relay("node-a".parse().unwrap()), Some(NODE_A)),
        (&[], Role::Relay("node-a".parse().unwrap()), Some("no role")),
    ] {
        let identity = farm.with_uris("own", uris).stating(role.clone());
        let errors = [
            Server::open(identity.clone(), Callers::FrontDoors(farm.ca()), HTTP2).err(),
            Client::open(Roots::File(farm.ca()), Some(identity), HTTP2).err(),
        ];
        for error in errors {
            let Some(found) = found else {
                assert_eq!(error, None, "{uris:?} {role}");
                continue;
            };
            let error = error.unwrap_or_else(|| panic!("{uris:?} was taken as {role}"));
            let text = error.to_string();
            assert_eq!(error.flag, "--tls-cert");
            for word in [found, &role.to_string(), "own.pem", "hatchery certs new"] {
                assert!(text.contains(word), "{word}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_new_certificate_of_another_role_does_not_replace_the_one_before() {
    let farm = Authority::new("farm");
    let live = farm.with_uris("live", &[NODE_A]).stating(agent("node-a"));
    let server = Server::open(live.clone(), Callers::Anyone, HTTP2).unwrap();
    let client = Client::open(Roots::File(farm.ca()), None, HTTP2).unwrap();
    let keeping = tokio::spawn({
        let server = server.clone();
        async move { server.keep_fresh().await }
    });
    let install = |from: &Identity| {
        fs::copy(&from.key.path, &live.key.path).unwrap();
        fs::copy(&from.certificate.path, &live.certificate.path).unwrap();
    };
    // One after the other: that the second is shown means that the first was looked at, or was never there for a look.
    install(&farm.with_uris("wrong", &["spiffe://hatchery/agent/node-b"]));
    sleep(Duration::from_millis(2500)).await;
    shows(&server, &client, "live", true).await;
    shows(&server, &client, "wrong", false).await;
    install(&farm.with_uris("right", &[NODE_A]));
    shows(&server, &client, "right", true).await;
    keeping.abort();
}
