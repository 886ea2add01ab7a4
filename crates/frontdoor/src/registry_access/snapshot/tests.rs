use model::{AgentEpoch, HealthState, Load, NodeDescription, Starts, Supply, Timestamp, WarmCount};

use super::*;

const LONG: Duration = Duration::from_secs(10);

pub(crate) fn node(name: &str, slots: u32, used: u32) -> NodeRecord {
    NodeRecord {
        id: name.parse().unwrap(),
        eligibility: Eligibility::Eligible,
        availability: Availability::Up,
        description: NodeDescription {
            advertise: format!("http://{name}"),
            endpoint: String::new(),
            kind: NodeKind { pool: "default".into(), labels: BTreeMap::new(), dedicated: false },
            slots,
            gpus: 0,
            gpu_slots: 0,
            csr: true,
            ssr: true,
            version: String::new(),
            viewer_relay: None,
        },
        used,
        gpu_used: 0,
        gpus: Vec::new(),
        load: Load::default(),
        supply: Supply::default(),
        epoch: AgentEpoch::mint(),
        last_heartbeat_at: Timestamp::from_millis(0),
        drain: None,
        generation: 0,
        health: model::NodeHealth::default(),
        heard: model::Heard::default(),
    }
}

fn csr() -> Demand {
    Demand { renderer: RendererType::Csr, pool: None, labels: BTreeMap::new() }
}

fn snapshot(nodes: Vec<NodeRecord>) -> Snapshot {
    let snapshot = Snapshot::default();
    snapshot.refresh(nodes, LONG);
    snapshot
}

fn chosen(choice: &Option<Placed<Candidate>>) -> &str {
    match choice {
        Some(Placed::Slot(Candidate { node, .. })) => node.as_str(),
        other => panic!("no node: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_snapshot_or_with_an_old_one_nothing_is_chosen() {
    let empty = Snapshot::default();
    assert_eq!(empty.choose(&csr(), &[], &[]), None);
    assert!(!empty.serves());
    let snapshot = snapshot(vec![node("a", 1, 0)]);
    assert!(snapshot.serves());
    tokio::time::advance(MAX_AGE).await;
    assert_eq!(snapshot.choose(&csr(), &[], &[]), None);
    assert!(!snapshot.serves());
}

#[test]
fn the_less_loaded_of_two_is_chosen_and_own_placements_count() {
    let snapshot = snapshot(vec![node("a", 10, 5), node("b", 10, 2)]);
    let names: Vec<String> = (0..5).map(|_| chosen(&snapshot.choose(&csr(), &[], &[])).to_owned()).collect();
    assert_eq!(names[..3], ["b", "b", "b"]);
    assert_ne!(names[3], names[4], "of two that are as loaded either is chosen, and then the other");
    for _ in 0..6 {
        snapshot.give_back(&"b".parse().unwrap(), RendererType::Csr);
    }
    assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "b", "what was given back is free again");
}

#[test]
fn load_is_even_over_many_nodes() {
    let nodes: Vec<_> = (0..20).map(|i| node(&format!("n{i:02}"), 100, 0)).collect();
    let snapshot = snapshot(nodes);
    for _ in 0..1000 {
        chosen(&snapshot.choose(&csr(), &[], &[]));
    }
    let farm = snapshot.farm();
    assert!(farm.nodes.iter().all(|seen| (35..65).contains(&seen.placed)), "{:?}", farm.nodes);
}

#[test]
fn only_nodes_that_suit_are_chosen() {
    let mut nodes = vec![node("a", 9, 0), node("b", 9, 0), node("c", 9, 0), node("d", 9, 0), node("e", 9, 8)];
    nodes[0].eligibility = Eligibility::Draining;
    nodes[1].availability = Availability::Stale;
    nodes[2].description.csr = false;
    nodes[3].description.kind.labels.insert("sdk".into(), "1".into());
    let snapshot = snapshot(nodes);
    let ask = |renderer, labels: &[(&str, &str)], pool: Option<&str>| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        snapshot.choose(&Demand { renderer, pool: pool.map(str::to_owned), labels }, &[], &[])
    };
    for _ in 0..20 {
        assert!(["d", "e"].contains(&chosen(&ask(RendererType::Csr, &[], None))));
        assert_eq!(chosen(&ask(RendererType::Csr, &[("sdk", "1")], Some("default"))), "d");
    }
    assert_eq!(ask(RendererType::Csr, &[("sdk", "2")], None), Some(Placed::NoMatch { known: false }));
    assert_eq!(ask(RendererType::Csr, &[], Some("gpu")), Some(Placed::NoMatch { known: false }));
}

#[test]
fn a_node_that_is_closed_is_known_but_not_chosen() {
    let mut closed = node("a", 9, 0);
    closed.eligibility = Eligibility::Cordoned;
    assert_eq!(snapshot(vec![closed]).choose(&csr(), &[], &[]), Some(Placed::NoMatch { known: true }));
    let tried = ["a".parse().unwrap()];
    assert_eq!(snapshot(vec![node("a", 9, 0)]).choose(&csr(), &tried, &[]), Some(Placed::Full));
}

#[tokio::test(start_paused = true)]
async fn full_unreachable_and_refusing_nodes_are_the_last_choice() {
    let snapshot = snapshot(vec![node("a", 1, 1), node("b", 100, 0), node("c", 100, 50)]);
    let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<NodeId>().unwrap());
    for _ in 0..10 {
        assert_eq!(chosen(&snapshot.choose(&csr(), &[], std::slice::from_ref(&b))), "c");
    }
    snapshot.refused(&b, Reason::NotEligible);
    for _ in 0..10 {
        assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "c");
    }
    let tried = [b.clone(), c];
    assert_eq!(chosen(&snapshot.choose(&csr(), &tried, &[])), "a", "what it knows may be old");
    tokio::time::advance(UNWILLING).await;
    let tried = [a];
    assert_eq!(chosen(&snapshot.choose(&csr(), &tried, &[])), "b");
}

#[test]
fn gpu_slots_count_for_server_side_rendering_only() {
    let mut gpu = node("a", 100, 0);
    (gpu.description.gpus, gpu.description.gpu_slots, gpu.gpu_used) = (1, 2, 2);
    let snapshot = snapshot(vec![gpu, node("b", 100, 90)]);
    let ssr = Demand { renderer: RendererType::Ssr, ..csr() };
    for _ in 0..5 {
        assert_eq!(chosen(&snapshot.choose(&ssr, &[], &[])), "b");
        assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_a_wiped_registry_has_lost_are_kept_for_a_while() {
    let snapshot = snapshot(vec![node("a", 1, 0), node("b", 1, 0)]);
    tokio::time::advance(Duration::from_secs(1)).await;
    snapshot.refresh(vec![node("b", 1, 0)], LONG);
    let tried = ["b".parse().unwrap()];
    assert_eq!(chosen(&snapshot.choose(&csr(), &tried, &[])), "a");
    tokio::time::advance(LONG).await;
    snapshot.refresh(vec![node("b", 1, 0)], LONG);
    assert_eq!(snapshot.choose(&csr(), &tried, &[]), Some(Placed::Full));
}

fn failure(whole_node: bool) -> model::StartFailure {
    model::StartFailure { reason: "invalid license".into(), conclusive: false, whole_node }
}

fn outcomes(name: &str, outcome: registry::Outcome) -> Outcomes {
    let starts = vec![(name.parse().unwrap(), outcome)];
    Outcomes { renderer: RendererType::Csr, same_everywhere: None, starts }
}

fn fail(snapshot: &Snapshot, name: &str) {
    snapshot.learn(&outcomes(name, registry::Outcome::Failed(failure(false))));
}

fn standing(choice: &Option<Placed<Candidate>>) -> Standing {
    match choice {
        Some(Placed::Slot(Candidate { standing, .. })) => *standing,
        other => panic!("no node: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_node_is_probed_one_start_at_a_time_and_chosen_last_otherwise() {
    let snapshot = snapshot(vec![node("a", 100, 0), node("b", 100, 50)]);
    let choose = || snapshot.choose(&csr(), &[], &[]);
    fail(&snapshot, "a");
    assert_eq!(standing(&choose()), Standing::Watched);
    fail(&snapshot, "a");
    for _ in 0..10 {
        assert_eq!(chosen(&choose()), "b");
    }
    tokio::time::advance(Duration::from_secs(1)).await;
    let probe = choose();
    assert_eq!((chosen(&probe), standing(&probe)), ("a", Standing::Probe));
    assert_eq!(chosen(&choose()), "b", "one probe at a time");
    fail(&snapshot, "a");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(chosen(&choose()), "b", "the pause doubles");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(chosen(&choose()), "a");
    for _ in 0..model::health::SUCCESSES_UNTIL_OK {
        snapshot.learn(&outcomes("a", registry::Outcome::Ready));
    }
    assert_eq!(standing(&choose()), Standing::Good);

    let b = ["b".parse().unwrap()];
    fail(&snapshot, "a");
    fail(&snapshot, "a");
    let last = snapshot.choose(&csr(), &b, &[]);
    assert_eq!((chosen(&last), standing(&last)), ("a", Standing::LastChoice), "better than none");
    let ssr = Demand { renderer: RendererType::Ssr, ..csr() };
    assert_eq!(standing(&snapshot.choose(&ssr, &b, &[])), Standing::Good, "the other renderer is well");
    snapshot.learn(&outcomes("a", registry::Outcome::Failed(failure(true))));
    assert_eq!(standing(&snapshot.choose(&ssr, &b, &[])), Standing::Watched, "a licence is the node's");
}

#[tokio::test(start_paused = true)]
async fn what_fails_on_every_node_makes_none_of_them_failing() {
    let snapshot = snapshot(vec![node("a", 100, 0)]);
    let everywhere = Outcomes {
        same_everywhere: Some(registry::SameEverywhere { reason: "invalid license".into(), demand: csr() }),
        ..outcomes("a", registry::Outcome::Failed(failure(true)))
    };
    for _ in 0..5 {
        snapshot.learn(&everywhere);
    }
    assert_eq!(standing(&snapshot.choose(&csr(), &[], &[])), Standing::Good);
}

#[tokio::test(start_paused = true)]
async fn health_starts_from_what_the_registry_knows() {
    let mut sick = node("a", 100, 0);
    sick.last_heartbeat_at = Timestamp::from_millis(1_000_000);
    sick.health = model::NodeHealth {
        state: HealthState::Failing,
        reason: Some("csr: invalid license".into()),
        since: Some(Timestamp::from_millis(900_000)),
        failures: Some(4),
        next_probe_at: Some(Timestamp::from_millis(1_005_000)),
    };
    let snapshot = snapshot(vec![sick, node("b", 100, 50)]);
    assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "b");
    let ssr = Demand { renderer: RendererType::Ssr, ..csr() };
    assert_eq!(chosen(&snapshot.choose(&ssr, &[], &[])), "a");
    tokio::time::advance(Duration::from_secs(5)).await;
    assert_eq!(standing(&snapshot.choose(&csr(), &[], &[])), Standing::Probe);
}

#[tokio::test(start_paused = true)]
async fn a_farm_that_is_gone_all_at_once_is_not_believed_before_its_nodes_could_be_down() {
    let all = || vec![node("a", 9, 0), node("b", 9, 0), node("c", 9, 0)];
    let dead = |mut nodes: Vec<NodeRecord>| {
        nodes.iter_mut().for_each(|node| node.availability = Availability::Stale);
        nodes
    };
    let snapshot = snapshot(all());
    let empty_handed = |records| {
        assert_eq!(snapshot.refresh(records, LONG), Refresh::Doubted);
        chosen(&snapshot.choose(&csr(), &[], &[]));
    };
    empty_handed(Vec::new());
    tokio::time::advance(LONG / 2).await;
    empty_handed(dead(all()));
    assert_eq!(snapshot.refresh(all(), LONG), Refresh::Taken(3), "it was not so");
    tokio::time::advance(LONG).await;
    empty_handed(dead(all()));
    tokio::time::advance(LONG).await;
    assert_eq!(snapshot.refresh(dead(all()), LONG), Refresh::Taken(3));
    assert_eq!(snapshot.choose(&csr(), &[], &[]), Some(Placed::NoMatch { known: true }));

    let mut one = all();
    one[0].availability = Availability::Down;
    let snapshot = self::snapshot(all());
    assert_eq!(snapshot.refresh(one, LONG), Refresh::Taken(3), "single nodes go as they always do");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_is_wiped_again_and_again_is_not_believed_meanwhile() {
    let all = || vec![node("a", 9, 0), node("b", 9, 0), node("c", 9, 0)];
    let snapshot = snapshot(all());
    for _ in 0..5 {
        tokio::time::advance(LONG / 2).await;
        snapshot.distrust();
        assert_eq!(snapshot.refresh(Vec::new(), LONG), Refresh::Doubted);
        assert_eq!(snapshot.refresh(vec![node("b", 9, 0), node("c", 9, 0)], LONG), Refresh::Taken(3));
        chosen(&snapshot.choose(&csr(), &[], &[]));
    }
    tokio::time::advance(LONG).await;
    assert_eq!(snapshot.refresh(vec![node("b", 9, 0)], LONG), Refresh::Doubted);
    tokio::time::advance(LONG).await;
    assert_eq!(snapshot.refresh(vec![node("b", 9, 0)], LONG), Refresh::Taken(1), "the wipes are over");
}

#[test]
fn requests_that_do_not_name_a_dedicated_pool_stay_out_of_it() {
    let mut dedicated = node("a", 9, 0);
    dedicated.description.kind = NodeKind { pool: "next".into(), labels: BTreeMap::new(), dedicated: true };
    let snapshot = snapshot(vec![dedicated, node("b", 9, 8)]);
    let next = Demand { pool: Some("next".into()), ..csr() };
    assert_eq!(chosen(&snapshot.choose(&next, &[], &[])), "a");
    let b = ["b".parse().unwrap()];
    assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "b");
    assert!(!snapshot.has_other(&csr(), &b) && snapshot.has_other(&next, &b));
}

#[test]
fn what_is_foreseen_is_what_is_chosen_and_nothing_is_placed_by_it() {
    let snapshot = snapshot(vec![node("a", 4, 3), node("b", 4, 4)]);
    let foreseen = || snapshot.forecast(&csr(), &[], &[]).unwrap().outcome;
    let slot = Foreseen::Slot { node: "a".parse().unwrap(), standing: Standing::Good };
    for _ in 0..3 {
        assert_eq!(foreseen(), slot);
    }
    let room = |of: usize| snapshot.assess().unwrap()[of].csr.room;
    assert_eq!((room(0), room(1)), (registry::Room::Free(0.75), registry::Room::Full));
    assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "a");
    // Agents may be asked all the same; what the front door knows is that they are full.
    assert_eq!((foreseen(), room(0)), (Foreseen::Full, registry::Room::Full));
    let unknown = Demand { pool: Some("gpu".into()), ..csr() };
    let outcome = snapshot.forecast(&unknown, &[], &[]).unwrap().outcome;
    assert_eq!(outcome, Foreseen::NoMatch { known: false });
    assert!(
        Snapshot::default().forecast(&csr(), &[], &[]).is_none() && Snapshot::default().assess().is_none()
    );
}

#[test]
fn a_forgotten_node_is_not_chosen() {
    let snapshot = snapshot(vec![node("a", 4, 0), node("b", 4, 4)]);
    snapshot.forget(&"a".parse().unwrap());
    assert_eq!(snapshot.forecast(&csr(), &[], &[]).unwrap().outcome, Foreseen::Full);
}

/// A node that has so many warm servers, and on which so many starts wait.
fn supplied(name: &str, used: u32, ready: u32, waiting: u32) -> NodeRecord {
    let warm = [(RendererType::Csr, WarmCount { ready, wanted: 2 })].into();
    let supply = Supply { starts: Some(Starts { limit: 4, waiting }), warm };
    NodeRecord { supply, ..node(name, 100, used) }
}

#[test]
fn of_nodes_that_are_as_loaded_those_with_a_warm_server_are_chosen_while_it_lasts() {
    let mut nodes: Vec<_> = (0..8).map(|i| supplied(&format!("n{i}"), 10, 0, i)).collect();
    nodes.push(supplied("warm", 10, 1, 9));
    let snapshot = self::snapshot(nodes);
    let choose = |renderer| chosen(&snapshot.choose(&Demand { renderer, ..csr() }, &[], &[])).to_owned();
    assert_eq!(choose(RendererType::Csr), "warm");
    // It is more loaded now, and has given its server away. The next ones go where the fewest starts wait.
    assert_eq!(choose(RendererType::Csr), "n0");
    snapshot.give_back(&"n0".parse().unwrap(), RendererType::Csr);
    snapshot.give_back(&"warm".parse().unwrap(), RendererType::Csr);
    assert_eq!(choose(RendererType::Csr), "warm", "the server was not used");
    snapshot.give_back(&"warm".parse().unwrap(), RendererType::Csr);
    assert_eq!(choose(RendererType::Ssr), "n0", "the other renderer has none");
}

#[test]
fn a_warm_server_outweighs_no_load() {
    let snapshot = snapshot(vec![supplied("busy", 50, 2, 0), supplied("idle", 0, 0, 9)]);
    assert_eq!(chosen(&snapshot.choose(&csr(), &[], &[])), "idle");
}
