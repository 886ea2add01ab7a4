//! What others can ask of an agent.

use model::SpawnId;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use wire::v1;

use crate::harness::{Farm, http, reports_to};

#[tokio::test(flavor = "multi_thread")]
async fn the_liveliness_receiver_speaks_the_vendors_protocol() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    let addr = farm.agent.liveliness_addr();
    let stranger = SpawnId::mint();
    let (own, other) = (reports_to(id), reports_to(farm.spawn().await.0));
    for (line, status, body) in [
        (format!("POST /{own}/{id}?liveliness=ping"), 200, ""),
        (format!("POST /{own}//{id}?liveliness=ping"), 200, ""),
        (format!("POST /{own}/{id}?liveliness=bored"), 400, r#"{"error":"invalid liveliness value"}"#),
        (format!("POST /{own}/{id}"), 400, r#"{"error":"invalid liveliness value"}"#),
        (format!("POST /liveliness/{id}?liveliness=ping"), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("POST /liveliness/{id}"), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("POST /{other}/{id}?liveliness=disconnect"), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("POST /{own}/{stranger}?liveliness=ping"), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("POST /liveliness/{stranger}?liveliness=ping"), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("POST /liveliness/{stranger}?liveliness=bored"), 404, r#"{"error":"invalid spawnId."}"#),
        ("POST /liveliness/x?liveliness=ping".to_owned(), 404, r#"{"error":"invalid spawnId."}"#),
        (format!("GET /{own}/{id}?liveliness=ping"), 405, r#"{"error":"method not allowed"}"#),
        ("POST /elsewhere".to_owned(), 404, r#"{"error":"not found"}"#),
    ] {
        let answer = http(addr, &format!("{line} HTTP/1.1")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, body, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_carries_many_reports() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn_as("say ready; rest").await;
    let mut stream = TcpStream::connect(farm.agent.liveliness_addr()).await.unwrap();
    let own = reports_to(id);
    let report = |body: &str, more: &str| {
        format!(
            "POST /{own}/{id}?liveliness=ping HTTP/1.1\r\nHost: agent\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // Some in pieces, some with a body, some before the answer to the one before.
    let text =
        report("", "") + &report("{\"a\":1}", "") + &report("", "") + &report("", "Connection: close\r\n");
    for piece in text.as_bytes().chunks(50) {
        stream.write_all(piece).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    assert_eq!(answers.matches("HTTP/1.1 200 OK\r\n").count(), 4, "{answers}");
    assert_eq!(answers.matches("HTTP/1.1").count(), 4, "{answers}");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_there_for_those_who_watch() {
    let farm = Farm::start().await;
    farm.spawn().await;
    let admin = farm.agent.admin_addr();
    assert!(http(admin, "GET /healthz HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    let ready = http(admin, "GET /readyz HTTP/1.1").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains(r#""registry":"up""#), "{ready}");
    let metrics = farm.metrics().await;
    for line in [
        "hatchery_agent_spawns_started_total 1",
        "hatchery_agent_spawns_running{state=\"ready\"} 1",
        "hatchery_agent_start_to_ready_seconds_count 1",
        "hatchery_agent_slots 4",
        "hatchery_agent_slots_used 1",
        "hatchery_agent_ports_used 1",
        "hatchery_agent_backlog_changes 0",
        "hatchery_agent_spawns_ended_total{reason=\"failed\"} 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "no {line:?} in {metrics}");
    }

    let endpoint =
        tonic::transport::Endpoint::from_shared(format!("http://{}", farm.agent.grpc_addr())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let check = HealthCheckRequest { service: "hatchery.v1.NodeAgent".to_owned() };
    let health = HealthClient::new(channel.clone()).check(check).await.unwrap().into_inner();
    assert_eq!(health.status(), ServingStatus::Serving);

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}");
    };
    assert!(services.service.iter().any(|s| s.name == "hatchery.v1.NodeAgent"), "{services:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_spawn_can_be_read() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn_as("for i in {1..300}; do echo line $i; done; say ready; rest").await;
    let lines = async |lines| {
        let ask = v1::ReadLogRequest { spawn_id: id.to_string(), lines, ..Default::default() };
        farm.client.clone().read_log(ask).await.unwrap().into_inner().lines
    };
    assert_eq!(lines(2).await, ["line 299", "line 300"]);
    assert_eq!(lines(0).await.len(), 100);
    let all = lines(u32::MAX).await;
    assert_eq!(all.len(), 301);
    assert!(all[0].starts_with("# hatchery spawn.id="), "{}", all[0]);

    let stranger =
        v1::ReadLogRequest { spawn_id: SpawnId::mint().to_string(), lines: 1, ..Default::default() };
    assert_eq!(farm.client.clone().read_log(stranger).await.unwrap_err().code(), Code::NotFound);
    let nonsense =
        v1::ReadLogRequest { spawn_id: "../../etc/passwd".to_owned(), lines: 1, ..Default::default() };
    assert_eq!(farm.client.clone().read_log(nonsense).await.unwrap_err().code(), Code::InvalidArgument);
}
