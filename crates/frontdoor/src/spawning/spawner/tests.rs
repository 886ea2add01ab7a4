//! How many an owner may have, from an order to the agent.

use std::sync::Mutex;

use clap::Parser;
use model::{AgentEpoch, Demand, NodeDescription, NodeKind, Owner, Placement, RendererType, SpawnId, Timing};
use registry::{AgentReport, Heartbeat, Registry, Reserve, Reserved};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::node_agent_server::{NodeAgent, NodeAgentServer};
use wire::v1::spawn_reply;

use super::super::error::{Rejection, SpawnError};
use super::*;
use crate::start::parts::Parts;

#[derive(Debug, Parser)]
struct Cli {
    #[command(flatten)]
    options: crate::Options,
}

fn parts(registry: Registry) -> Parts {
    let config = Cli::parse_from(["frontdoor"]).options.into_config().unwrap();
    Parts::new(config, registry)
}

/// An agent whose spawns are always ready; with the orders it got.
#[derive(Debug, Clone, Default)]
struct Agent(Arc<Mutex<Vec<v1::SpawnRequest>>>);

#[tonic::async_trait]
impl NodeAgent for Agent {
    type AttachStream = tokio_stream::Empty<Result<v1::AttachReply, tonic::Status>>;

    async fn attach(
        &self,
        _: Request<tonic::Streaming<v1::AttachRequest>>,
    ) -> Result<tonic::Response<Self::AttachStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("of the release before viewers"))
    }

    async fn spawn(&self, request: Request<v1::SpawnRequest>) -> Result<Response<v1::SpawnReply>, Status> {
        self.0.lock().unwrap().push(request.into_inner());
        let outcome = Some(spawn_reply::Outcome::Ready(v1::Ready::default()));
        Ok(Response::new(v1::SpawnReply { outcome }))
    }
    async fn stop(&self, _: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        Ok(Response::new(v1::StopReply::default()))
    }
    async fn set_eligibility(
        &self,
        _: Request<v1::SetEligibilityRequest>,
    ) -> Result<Response<v1::SetEligibilityReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn set_life(&self, _: Request<v1::SetLifeRequest>) -> Result<Response<v1::SetLifeReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
    async fn read_log(&self, _: Request<v1::ReadLogRequest>) -> Result<Response<v1::ReadLogReply>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

/// A node of a pool of its own.
async fn node(registry: &Registry, name: &str, slots: u32) -> Agent {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let advertise = format!("http://{}", listener.local_addr().unwrap());
    let agent = Agent::default();
    let server = tonic::transport::Server::builder().add_service(NodeAgentServer::new(agent.clone()));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let description = NodeDescription {
        advertise,
        endpoint: "ws://{host}:{port}".to_owned(),
        kind: NodeKind { pool: name.to_owned(), labels: Default::default(), dedicated: false },
        slots,
        gpus: 0,
        gpu_slots: 0,
        csr: true,
        ssr: true,
        version: "0".to_owned(),
        viewer_relay: None,
    };
    let report = AgentReport {
        node: name.parse().unwrap(),
        epoch: AgentEpoch::mint(),
        takeover: true,
        identity: registry::AgentIdentity::default(),
        accepted: 0,
        agreement: None,
        changes: Vec::new(),
        heartbeat: Some(Heartbeat::new(description, Vec::new())),
    };
    registry.report(&report).await.unwrap();
    agent
}

fn demand(pool: &str) -> Demand {
    Demand { renderer: RendererType::Csr, pool: Some(pool.to_owned()), labels: Default::default() }
}

fn ann() -> Option<Owner> {
    Some("key:ann".parse().unwrap())
}

async fn take(registry: &Registry, pool: &str, owner: Option<Owner>) -> registry::Reservation {
    let ask = Reserve {
        spawn: SpawnId::mint(),
        demand: demand(pool),
        placement: Placement::Spread,
        avoid: Vec::new(),
        place: None,
        number: None,
        probed: false,
        owner,
        most: None,
    };
    match registry.reserve(&ask).await.unwrap() {
        Reserved::Slot(slot) => slot,
        other => panic!("a slot was expected, not {other:?}"),
    }
}

/// Of a caller who may have one, and would wait for a slot.
fn order(pool: &str) -> SpawnOrder {
    let body = format!(r#"{{"pool":"{pool}","waitSeconds":60}}"#);
    SpawnOrder { owner: ann(), max_spawns: Some(1), ..SpawnOrder::parse(body.as_bytes()).unwrap() }
}

fn is_over_quota<T>(answer: &Result<T, Box<Rejection>>) -> bool {
    answer.as_ref().is_err_and(|rejection| matches!(rejection.error, SpawnError::OverQuota { max: 1 }))
}

const SOON: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_order_says_whose_it_is_to_the_registry_and_to_the_agent() {
    let registry = Registry::embedded(Timing::FARM);
    let agent = node(&registry, "a", 9).await;
    let (parts, request) = (parts(registry), RequestContext::from(model::RequestId::mint()));
    let (_, mut held) =
        parts.edge.spawner.spawn(&order("a"), &request, None, &Progress::default()).await.unwrap();
    held.keep();
    let second = timeout(SOON, parts.edge.spawner.spawn(&order("a"), &request, None, &Progress::default()))
        .await
        .expect("an answer at once");
    assert!(is_over_quota(&second), "{second:?}");
    let owners: Vec<_> = agent.0.lock().unwrap().iter().map(|order| order.owner.clone()).collect();
    assert_eq!(owners, [Some("key:ann".to_owned())]);
}

#[tokio::test]
async fn no_caller_waits_in_line_for_what_it_may_not_have() {
    let registry = Registry::embedded(Timing::FARM);
    node(&registry, "full", 1).await;
    node(&registry, "other", 1).await;
    let taken = take(&registry, "full", None).await;
    let (parts, request, order) =
        (parts(registry.clone()), RequestContext::from(model::RequestId::mint()), order("full"));
    let unwatched = Progress::default();
    let waiting = parts.edge.spawner.spawn(&order, &request, None, &unwatched);
    let elsewhere = async {
        while parts.line.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        take(&registry, "other", ann()).await;
    };
    let (answer, _) =
        timeout(SOON, futures_util::future::join(waiting, elsewhere)).await.expect("no waiting");
    assert!(is_over_quota(&answer), "{answer:?}");
    // Nor does its place keep anybody else waiting.
    registry.release(&taken.node, taken.spawn).await.unwrap();
    take(&registry, "full", None).await;
}
