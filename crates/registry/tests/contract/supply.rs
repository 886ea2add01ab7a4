//! How soon a node gives a spawn decides among nodes of the same load, and only among them.

use model::{Availability, ExitReason, RendererType, SpawnState, StartFailure, Starts, Supply, WarmCount};
use registry::{Outcome, Outcomes, SpawnReport};

use crate::health::chosen;
use crate::on_all;
use crate::support::*;

fn warm(renderer: RendererType, ready: u32) -> Supply {
    Supply { starts: None, warm: [(renderer, WarmCount { ready, wanted: 2 })].into() }
}

fn waiting(waiting: u32) -> Supply {
    Supply { starts: Some(Starts { limit: 4, waiting }), ..Supply::default() }
}

async fn where_to(farm: &Farm, ask: registry::Reserve) -> String {
    chosen(farm, ask).await.0
}

on_all! {
    async fn among_nodes_of_the_same_load_a_warm_server_comes_first_and_then_the_shorter_wait(farm: &Farm) {
        let mut agents = ["a", "b", "c"].map(|node| Agent::new(node, 4));
        for agent in &mut agents {
            agent.beat(farm).await;
        }
        let [mut a, mut b, mut c] = agents;
        a.supply = warm(RendererType::Csr, 1);
        b.supply = waiting(9);
        c.supply = waiting(1);
        for agent in [&mut a, &mut b, &mut c] {
            agent.beat(farm).await;
        }
        for _ in 0..8 {
            assert_eq!(where_to(farm, csr()).await, "a");
            assert_ne!(where_to(farm, ssr()).await, "b", "a warm server is of one renderer, and b is the last");
            assert_eq!(where_to(farm, csr().avoid("a")).await, "c");
            assert_eq!(where_to(farm, csr().pack()).await, "a", "all are as full");
        }
        let taken = farm.take(&csr()).await;
        assert_eq!(taken.node, id("a"));
        assert_eq!(where_to(farm, csr()).await, "c", "a load outranks a warm server");
        assert_eq!(where_to(farm, csr().pack()).await, "a");
        // A heartbeat moves it, although nothing else has changed.
        b.supply = warm(RendererType::Csr, 2);
        b.beat(farm).await;
        assert_eq!(where_to(farm, csr()).await, "b");
        b.supply = warm(RendererType::Csr, 0);
        b.beat(farm).await;
        farm.registry.release(&taken.node, taken.spawn).await.unwrap();
        assert_eq!(where_to(farm, csr()).await, "a");
    }
}

on_all! {
    /// What packing fills first is chosen by load over all kinds of node, and then by how soon it gives a spawn.
    async fn packing_goes_to_the_fullest_node_that_gives_a_spawn_soonest(farm: &Farm) {
        let mut agents = [
            Agent::new("empty", 4),
            Agent::new("slow", 4).labels(&[("sdk", "1")]),
            Agent::new("plain", 4),
            Agent::new("warm", 4).labels(&[("sdk", "1")]),
        ];
        for (agent, supply) in
            agents.iter_mut().zip([warm(RendererType::Csr, 1), waiting(9), waiting(0), warm(RendererType::Csr, 1)])
        {
            agent.supply = supply;
            if agent.node != id("empty") {
                agent.spawns = vec![ready(csr().spawn)];
            }
            agent.beat(farm).await;
        }
        for _ in 0..8 {
            assert_eq!(where_to(farm, csr().pack()).await, "warm");
            assert_eq!(where_to(farm, csr().pack().avoid("warm")).await, "plain");
            assert_eq!(where_to(farm, csr().pack().avoid("warm").avoid("plain")).await, "slow");
            assert_eq!(where_to(farm, csr()).await, "empty");
        }
    }
}

on_all! {
    async fn a_node_shows_what_it_keeps_while_it_is_there(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.supply = Supply { starts: Some(Starts { limit: 4, waiting: 2 }), ..warm(RendererType::Ssr, 2) };
        agent.beat(farm).await;
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!(node.supply, agent.supply);
        assert_eq!(farm.registry.nodes().await.unwrap()[0].supply, agent.supply);
        farm.becomes("a", Availability::Down).await;
        let node = farm.registry.node(&id("a")).await.unwrap().unwrap();
        assert_eq!(node.supply, Supply::default());
    }
}

on_all! {
    async fn a_report_says_for_which_renderers_starts_fail(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        assert!(agent.beat(farm).await.failing.is_empty());
        let learn = async |renderer, whole_node| {
            let failure = StartFailure { reason: "no".to_owned(), conclusive: true, whole_node };
            let starts = vec![(id("a"), Outcome::Failed(failure))];
            farm.registry.learn(&Outcomes { renderer, same_everywhere: None, starts }).await.unwrap();
        };
        learn(RendererType::Ssr, false).await;
        assert_eq!(agent.beat(farm).await.failing, [RendererType::Ssr]);
        learn(RendererType::Csr, true).await;
        assert_eq!(agent.beat(farm).await.failing, [RendererType::Csr, RendererType::Ssr]);
    }
}

on_all! {
    /// Also where an agent has forgotten it, and where the registry was filled again by a list.
    async fn a_spawn_keeps_the_id_that_its_server_was_started_with(farm: &Farm) {
        let mut agent = Agent::new("a", 4);
        agent.beat(farm).await;
        let (spawn, server) = (farm.take(&csr()).await.spawn, csr().spawn);
        let of_the_server = |report: SpawnReport| SpawnReport { server: Some(server), ..report };
        agent.report(farm, of_the_server(launching(spawn))).await;
        agent.report(farm, of_the_server(ready(spawn))).await;
        let seen = async |spawn| farm.registry.spawn(spawn).await.unwrap().unwrap();
        assert_eq!(seen(spawn).await.server, Some(server));
        let first = seen(spawn).await.events[0].clone();
        assert_eq!(first.field::<String>("serverId"), Some(server.to_string()));
        agent.report(farm, SpawnReport { state: SpawnState::Suspect, ..ready(spawn) }).await;
        assert_eq!(seen(spawn).await.server, Some(server));
        assert_eq!(farm.registry.living(&[id("a")]).await.unwrap()[0].server, Some(server));
        // A registry that has no record of it.
        let met = csr().spawn;
        agent.spawns.push(of_the_server(ready(met)));
        agent.beat(farm).await;
        let met = seen(met).await;
        assert_eq!(met.server, Some(server));
        assert_eq!(met.events[0].field::<String>("serverId"), Some(server.to_string()));
        agent.report(farm, exited(spawn, ExitReason::Stopped)).await;
        assert_eq!(seen(spawn).await.server, Some(server));
    }
}
