//! The parts of a front door, each made with the few others that it needs.

use std::sync::Arc;

use registry::Registry;

use crate::agent_client::{Agents, Dialer};
use crate::callers::{Authenticator, Callers, OwnerNames};
use crate::http::{Answers, Edge, ListTurns};
use crate::live::{self, Live};
use crate::metrics::Metrics;
use crate::operations::{Auditor, Operations};
use crate::registry_access::circuit::RegistryClient;
use crate::registry_access::cleanup::Cleanups;
use crate::registry_access::desired_state::DesiredStates;
use crate::registry_access::snapshot::Snapshot;
use crate::settings::Config;
use crate::spawning::held_slot::SlotAccess;
use crate::spawning::idempotency::Idempotency;
use crate::spawning::line::Line;
use crate::spawning::placer::Placer;
use crate::spawning::positions::Positions;
use crate::spawning::rate::SpawnRates;
use crate::spawning::spawner::Spawner;
use crate::stages::Stages;
use crate::viewers::{NodeRelays, Reach, Viewers};

/// The edge, and the parts that background tasks and shutdown need beside it.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) edge: Arc<Edge>,
    pub(crate) line: Arc<Line>,
    pub(crate) live: Arc<Live>,
    pub(super) desired_states: Arc<DesiredStates>,
    pub(super) cleanups: Cleanups,
}

impl Parts {
    /// Call it inside the runtime that will serve it. `config.listen` is the address that is listened on.
    pub(crate) fn new(config: Config, registry: Registry) -> Self {
        Self::over(config, registry, Dialer::Tcp)
    }

    /// The same, with agents that are reached in this way.
    pub(super) fn over(config: Config, registry: Registry, dialer: Dialer) -> Self {
        let metrics = Metrics::new(config.tls.clone());
        let stages = Stages::new();
        let registry = Arc::new(RegistryClient::new(registry, metrics.backend.clone()));
        let (snapshot, desired_states) = (Arc::<Snapshot>::default(), Arc::<DesiredStates>::default());
        let agents = Arc::new(Agents::new(config.tls.agents.clone(), dialer));
        let cleanups = Cleanups::new();
        let callers = Arc::new(Callers::new(config.limits.clone(), metrics.caller_refusals.clone()));
        let names = OwnerNames::new(config.access.clone());
        let authenticator = config
            .access
            .clone()
            .map(|access| Arc::new(Authenticator::new(access, metrics.authentication.clone())));

        let positions = Arc::new(Positions::new(Arc::clone(&registry)));
        let line = Arc::new(Line::new(
            config.max_waiting,
            Arc::clone(&registry),
            Arc::clone(&positions),
            cleanups.clone(),
            metrics.spawning.clone(),
        ));
        let own_node = config.viewers.own_node.clone();
        let reach = Reach::new(Arc::clone(&registry), Arc::clone(&snapshot), Arc::clone(&agents), own_node);
        let relays = NodeRelays::new(config.tls.relays.clone());
        let viewers = Viewers::new(config.viewers.clone(), reach, relays, metrics.relay.clone());
        let public_url = config.viewers.public_url.as_ref();
        let endpoint_form = public_url.map(|url| url.endpoint_form(config.listen, config.tls.http.is_some()));
        let slot_access = Arc::new(SlotAccess {
            registry: Arc::clone(&registry),
            snapshot: Arc::clone(&snapshot),
            agents: Arc::clone(&agents),
            cleanups: cleanups.clone(),
            metrics: metrics.spawning.clone(),
            endpoint_form,
            lives: config.lives,
        });
        let placer = Arc::new(Placer::new(slot_access, Arc::clone(&desired_states), config.placement));
        let spawner =
            Spawner::new(placer, Arc::clone(&line), config.spawn_deadline, metrics.spawning.clone());
        let idempotency = Idempotency::new(
            Arc::clone(&registry),
            cleanups.clone(),
            config.spawn_deadline,
            metrics.spawning.clone(),
        );
        let operations = Arc::new(Operations {
            registry: Arc::clone(&registry),
            agents: Arc::clone(&agents),
            snapshot: Arc::clone(&snapshot),
            desired_states: Arc::clone(&desired_states),
            cleanups: cleanups.clone(),
            metrics: metrics.operations.clone(),
            auditor: Arc::new(Auditor { registry: Arc::clone(&registry), cleanups: cleanups.clone() }),
        });
        let live = Arc::new(Live::new(
            Arc::clone(&registry),
            names.clone(),
            config.live_ping_interval,
            config.live_buffer,
            metrics.live.clone(),
        ));
        let live_parts = live::Parts {
            live: Arc::clone(&live),
            authenticator: authenticator.clone(),
            callers: Arc::clone(&callers),
            stages: stages.clone(),
        };
        let edge = Edge {
            rates: SpawnRates::new(Arc::clone(&registry)),
            live: Arc::new(live_parts),
            answers: Answers::default(),
            list_turns: ListTurns::default(),
            tally: Arc::default(),
            config,
            metrics,
            stages,
            authenticator,
            callers,
            names,
            registry,
            snapshot,
            agents,
            spawner,
            idempotency,
            positions,
            operations,
            viewers,
        };
        Self { edge: Arc::new(edge), line, live, desired_states, cleanups }
    }
}
