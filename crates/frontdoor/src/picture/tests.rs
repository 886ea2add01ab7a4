use model::{AgentEpoch, Load, NodeDescription, Timestamp};

use super::*;

const LONG: Duration = Duration::from_secs(10);

fn node(name: &str, slots: u32, used: u32) -> NodeRecord {
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
        },
        used,
        gpu_used: 0,
        gpus: Vec::new(),
        load: Load::default(),
        epoch: AgentEpoch::mint(),
        last_heartbeat_at: Timestamp::from_millis(0),
        drain: None,
        generation: 0,
        health: model::NodeHealth::default(),
    }
}

fn csr() -> Demand {
    Demand { renderer: RendererType::Csr, pool: None, labels: BTreeMap::new() }
}

fn picture(nodes: Vec<NodeRecord>) -> Picture {
    let picture = Picture::default();
    picture.refresh(nodes, LONG);
    picture
}

fn chosen(choice: &Choice) -> &str {
    match choice {
        Choice::Node { node, .. } => node.as_str(),
        other => panic!("no node: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_picture_or_with_an_old_one_nothing_is_chosen() {
    let empty = Picture::default();
    assert_eq!(empty.choose(&csr(), &[], &[]), Choice::Nothing);
    assert!(!empty.serves());
    let picture = picture(vec![node("a", 1, 0)]);
    assert!(picture.serves());
    tokio::time::advance(TOO_OLD).await;
    assert_eq!(picture.choose(&csr(), &[], &[]), Choice::Nothing);
    assert!(!picture.serves());
}

#[test]
fn the_less_loaded_of_two_is_chosen_and_own_placements_count() {
    let picture = picture(vec![node("a", 10, 5), node("b", 10, 2)]);
    let names: Vec<String> = (0..6).map(|_| chosen(&picture.choose(&csr(), &[], &[])).to_owned()).collect();
    assert_eq!(names[..3], ["b", "b", "b"]);
    assert_eq!(names.iter().filter(|name| *name == "a").count(), 2, "{names:?}");
    for _ in 0..6 {
        picture.give_back(&"b".parse().unwrap(), RendererType::Csr);
    }
    assert_eq!(chosen(&picture.choose(&csr(), &[], &[])), "b", "what was given back is free again");
}

#[test]
fn load_is_even_over_many_nodes() {
    let nodes: Vec<_> = (0..20).map(|i| node(&format!("n{i:02}"), 100, 0)).collect();
    let picture = picture(nodes);
    for _ in 0..1000 {
        chosen(&picture.choose(&csr(), &[], &[]));
    }
    let farm = picture.farm();
    assert!(farm.nodes.iter().all(|seen| (35..65).contains(&seen.placed)), "{:?}", farm.nodes);
}

#[test]
fn only_nodes_that_suit_are_chosen() {
    let mut nodes = vec![node("a", 9, 0), node("b", 9, 0), node("c", 9, 0), node("d", 9, 0), node("e", 9, 8)];
    nodes[0].eligibility = Eligibility::Draining;
    nodes[1].availability = Availability::Stale;
    nodes[2].description.csr = false;
    nodes[3].description.kind.labels.insert("sdk".into(), "1".into());
    let picture = picture(nodes);
    let ask = |renderer, labels: &[(&str, &str)], pool: Option<&str>| {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        picture.choose(&Demand { renderer, pool: pool.map(str::to_owned), labels }, &[], &[])
    };
    for _ in 0..20 {
        assert!(["d", "e"].contains(&chosen(&ask(RendererType::Csr, &[], None))));
        assert_eq!(chosen(&ask(RendererType::Csr, &[("sdk", "1")], Some("default"))), "d");
    }
    assert_eq!(ask(RendererType::Csr, &[("sdk", "2")], None), Choice::NoMatch { known: false });
    assert_eq!(ask(RendererType::Csr, &[], Some("gpu")), Choice::NoMatch { known: false });
}

#[test]
fn a_node_that_is_closed_is_known_but_not_chosen() {
    let mut closed = node("a", 9, 0);
    closed.eligibility = Eligibility::Cordoned;
    assert_eq!(picture(vec![closed]).choose(&csr(), &[], &[]), Choice::NoMatch { known: true });
    let tried = ["a".parse().unwrap()];
    assert_eq!(picture(vec![node("a", 9, 0)]).choose(&csr(), &tried, &[]), Choice::Full);
}

#[tokio::test(start_paused = true)]
async fn full_shunned_and_refusing_nodes_are_the_last_choice() {
    let picture = picture(vec![node("a", 1, 1), node("b", 100, 0), node("c", 100, 50)]);
    let [a, b, c] = ["a", "b", "c"].map(|name| name.parse::<NodeId>().unwrap());
    for _ in 0..10 {
        assert_eq!(chosen(&picture.choose(&csr(), &[], std::slice::from_ref(&b))), "c");
    }
    picture.refused(&b, Reason::NotEligible);
    for _ in 0..10 {
        assert_eq!(chosen(&picture.choose(&csr(), &[], &[])), "c");
    }
    let tried = [b.clone(), c];
    assert_eq!(chosen(&picture.choose(&csr(), &tried, &[])), "a", "what it knows may be old");
    tokio::time::advance(UNWILLING).await;
    let tried = [a];
    assert_eq!(chosen(&picture.choose(&csr(), &tried, &[])), "b");
}

#[test]
fn gpu_slots_count_for_server_side_rendering_only() {
    let mut gpu = node("a", 100, 0);
    (gpu.description.gpus, gpu.description.gpu_slots, gpu.gpu_used) = (1, 2, 2);
    let picture = picture(vec![gpu, node("b", 100, 90)]);
    let ssr = Demand { renderer: RendererType::Ssr, ..csr() };
    for _ in 0..5 {
        assert_eq!(chosen(&picture.choose(&ssr, &[], &[])), "b");
        assert_eq!(chosen(&picture.choose(&csr(), &[], &[])), "a");
    }
}

#[tokio::test(start_paused = true)]
async fn nodes_that_a_wiped_registry_has_lost_are_kept_for_a_while() {
    let picture = picture(vec![node("a", 1, 0), node("b", 1, 0)]);
    tokio::time::advance(Duration::from_secs(1)).await;
    picture.refresh(vec![node("b", 1, 0)], LONG);
    let tried = ["b".parse().unwrap()];
    assert_eq!(chosen(&picture.choose(&csr(), &tried, &[])), "a");
    tokio::time::advance(LONG).await;
    picture.refresh(vec![node("b", 1, 0)], LONG);
    assert_eq!(picture.choose(&csr(), &tried, &[]), Choice::Full);
}
