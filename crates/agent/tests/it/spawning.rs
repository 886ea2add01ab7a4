//! From a request to its answer. Command line and environment of the server are row 11 of `docs/operator/hoops-server.md`.

use std::collections::HashMap;
use std::os::unix::fs::symlink;

use agent::{Launcher, OnShutdown};
use model::{Demand, ExitReason, Placement, RendererType, RequestId, SpawnId, SpawnState};
use registry::{Reserve, Reserved};
use wire::v1;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use crate::harness::{Farm, STAY, http, until, until_gone, with_request_id};

fn refused(outcome: Outcome) -> (Reason, String) {
    match outcome {
        Outcome::Refused(refused) => (refused.reason(), refused.detail),
        other => panic!("not refused but {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spawn_is_ready_runs_and_is_stopped() {
    let farm = Farm::start().await;
    let mut ask = farm.ask(STAY);
    ask.labels = HashMap::from([("sdk".to_owned(), "2025.1".to_owned())]);
    let Outcome::Ready(ready) = farm.send(&ask).await else { panic!("not ready") };
    let id: SpawnId = ask.spawn_id.parse().unwrap();
    let record = farm.registry.spawn(id).await.unwrap().unwrap();
    assert_eq!(record.state, SpawnState::Ready, "the registry knows before the caller does");
    assert_eq!(record.endpoint, ready.endpoint);
    assert_eq!(record.labels["sdk"], "2025.1");
    let info = farm.info(id).await;
    assert_eq!(info.endpoint, format!("ws://127.0.0.1:{}", info.port));
    assert!(ready.start_to_ready_us > 0);

    assert_eq!(farm.stop(id).await, v1::stop_reply::Outcome::Stopping);
    let record = farm.until_ended(id, ExitReason::Stopped).await;
    assert_eq!(record.exit.unwrap().signal.as_deref(), Some("SIGTERM"));
    assert!(record.ended_at >= record.ready_at && record.ready_at >= Some(record.started_at));
    until_gone(info.pid).await;
    assert_eq!(farm.stop(id).await, v1::stop_reply::Outcome::Ended);
    farm.until_empty().await;
    let kinds: Vec<_> = record.events.iter().map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["spawn.launching", "spawn.ready", "spawn.stopping", "spawn.exited"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_before_it_is_ready_is_explained() {
    let farm = Farm::start().await;
    let ask = farm.ask("echo first; printf 'license \\033[31mexpired\\n' >&2; exit 6");
    let Outcome::Ended(ended) = farm.send(&ask).await else { panic!("not ended") };
    let exit = ended.exit.unwrap();
    assert_eq!((exit.reason.as_str(), exit.code), ("failed", Some(6)));
    assert_eq!(exit.text.as_deref(), Some("invalid license"));
    assert_eq!(ended.log, ["first", "license \\u{1b}[31mexpired"]);
    farm.until_ended(ask.spawn_id.parse().unwrap(), ExitReason::Failed).await;
    farm.until_empty().await;

    let Outcome::Ended(ended) = farm.send(&farm.ask("kill -SEGV $$")).await else { panic!("not ended") };
    let exit = ended.exit.unwrap();
    assert_eq!((exit.reason.as_str(), exit.signal.as_deref()), ("signaled", Some("SIGSEGV")));

    let Outcome::Ended(ended) = farm.send(&farm.ask("exit 0")).await else { panic!("not ended") };
    let exit = ended.exit.unwrap();
    assert_eq!((exit.reason.as_str(), exit.code), ("failed", Some(0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_call_again_gets_the_same_answer() {
    let farm = Farm::start().await;
    let ask = farm.ask(&format!("sleep 0.1; {STAY}"));
    let (one, two) = tokio::join!(farm.send(&ask), farm.send(&ask));
    let three = farm.send(&ask).await;
    let endpoint = |outcome| match outcome {
        Outcome::Ready(ready) => ready.endpoint,
        other => panic!("not ready but {other:?}"),
    };
    let first = endpoint(one);
    assert_eq!(endpoint(two), first);
    assert_eq!(endpoint(three), first);
    assert_eq!(farm.list().await.len(), 1);

    let failing = farm.ask("exit 3");
    for _ in 0..2 {
        let Outcome::Ended(ended) = farm.send(&failing).await else { panic!("not ended") };
        assert_eq!(ended.exit.unwrap().code, Some(3));
    }
    assert_eq!(farm.list().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_waiters_nothing_stays() {
    let farm = Farm::start().await;
    let ask = farm.ask("rest");
    let id: SpawnId = ask.spawn_id.parse().unwrap();
    let call = |ask: &v1::SpawnRequest| {
        let (mut client, ask) = (farm.client.clone(), ask.clone());
        tokio::spawn(async move { client.spawn(ask).await })
    };
    let first = call(&ask);
    farm.until_state(id, SpawnState::Launching).await;
    let second = call(&ask);
    until("both calls have arrived", async || {
        let metrics = farm.metrics().await;
        metrics.contains("hatchery_agent_callers_waiting 2").then_some(())
    })
    .await;
    let pid = farm.info(id).await.pid;
    first.abort();
    until("one call is left", async || {
        let metrics = farm.metrics().await;
        metrics.contains("hatchery_agent_callers_waiting 1").then_some(())
    })
    .await;
    assert_eq!(farm.info(id).await.state, "launching");
    second.abort();
    farm.until_ended(id, ExitReason::Cancelled).await;
    until_gone(pid).await;
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_node_refuses() {
    let farm = Farm::start_with(|c| c.slots = 1).await;
    let (id, _) = farm.spawn().await;
    let (reason, detail) = refused(farm.send(&farm.ask(STAY)).await);
    assert_eq!(reason, Reason::Full, "{detail}");
    farm.stop(id).await;
    farm.until_ended(id, ExitReason::Stopped).await;
    farm.spawn().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn racing_calls_never_take_more_than_there_is() {
    let farm = Farm::start_with(|c| {
        c.slots = 3;
        c.gpus = 2;
        c.gpu_slots = 1;
    })
    .await;
    let asks = (0..12).map(|i| {
        let mut ask = farm.ask(STAY);
        if i % 2 == 0 {
            ask.renderer_type = v1::RendererType::Ssr.into();
        }
        ask
    });
    let calls: Vec<_> = asks
        .map(|ask| {
            let mut client = farm.client.clone();
            tokio::spawn(async move { client.spawn(ask).await.unwrap().into_inner().outcome.unwrap() })
        })
        .collect();
    let (mut endpoints, mut gpus) = (Vec::new(), Vec::new());
    for call in calls {
        match call.await.unwrap() {
            Outcome::Ready(ready) => {
                endpoints.push(ready.endpoint);
                gpus.extend(ready.gpu);
            }
            Outcome::Refused(refused) => {
                assert!(matches!(refused.reason(), Reason::Full | Reason::GpusFull), "{refused:?}");
            }
            Outcome::Ended(ended) => panic!("{ended:?}"),
        }
    }
    assert_eq!(endpoints.len(), 3);
    endpoints.sort_unstable();
    endpoints.dedup();
    assert_eq!(endpoints.len(), 3, "no two share a port");
    let count = gpus.len();
    gpus.sort_unstable();
    gpus.dedup();
    assert!(count <= 2 && gpus.len() == count, "no two share a GPU slot: {gpus:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_does_not_offer_is_refused() {
    let farm = Farm::start_with(|c| {
        c.ssr = false;
        c.min_free_memory = u64::MAX;
    })
    .await;
    let mut ask = farm.ask(STAY);
    let (reason, detail) = refused(farm.send(&ask).await);
    assert_eq!(reason, Reason::LowMemory, "{detail}");
    ask.reservation_ms = 0;
    assert_eq!(refused(farm.send(&ask).await).0, Reason::Abandoned);

    let farm = Farm::start_with(|c| c.ssr = false).await;
    let mut ask = farm.ask(STAY);
    ask.renderer_type = v1::RendererType::Ssr.into();
    assert_eq!(refused(farm.send(&ask).await).0, Reason::RendererOff);
    farm.until_empty().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_executable_that_cannot_be_started_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ts3d_sc_server");
    let farm = Farm::start_with(|c| c.launcher = Launcher::Executable(path.clone())).await;
    let (reason, detail) = refused(farm.send(&farm.ask(STAY)).await);
    assert_eq!(reason, Reason::CannotStart);
    assert!(detail.contains(&path.display().to_string()) && detail.contains("No such file"), "{detail}");
    farm.until_empty().await;
    assert!(farm.list().await.is_empty());
    assert_eq!(std::fs::read_dir(farm.dir.path().join("logs")).unwrap().count(), 0);

    // It may be on a share that comes later.
    symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/server.sh"), &path).unwrap();
    farm.spawn().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_outside_the_directories_is_refused() {
    let models = tempfile::tempdir().unwrap();
    symlink("/etc/hostname", models.path().join("leak.scz")).unwrap();
    let farm = Farm::start_with(|c| c.model_dirs.push(models.path().to_owned())).await;
    for model in ["/etc/hostname", "../hostname", "leak.scz"] {
        let ask = v1::SpawnRequest { model: Some(model.to_owned()), ..farm.ask(STAY) };
        let (reason, detail) = refused(farm.send(&ask).await);
        assert_eq!(reason, Reason::BadModel, "{model}: {detail}");
    }
    let ask = v1::SpawnRequest { model: Some("box.scz".to_owned()), ..farm.ask(STAY) };
    assert!(matches!(farm.send(&ask).await, Outcome::Ready(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_id_cannot_be_started_any_more() {
    let farm = Farm::start().await;
    let ask = farm.ask(STAY);
    assert_eq!(farm.stop(ask.spawn_id.parse().unwrap()).await, v1::stop_reply::Outcome::Unknown);
    assert_eq!(refused(farm.send(&ask).await).0, Reason::Abandoned);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_reservation_is_ended_and_forgotten() {
    let farm = Farm::start_with(|c| c.slots = 2).await;
    let node = farm.agent.node().clone();
    let demand = Demand { renderer: RendererType::Csr, pool: None, labels: Default::default() };
    for started in [true, false] {
        let ask = farm.ask(STAY);
        let spawn: SpawnId = ask.spawn_id.parse().unwrap();
        let reserve = Reserve {
            spawn,
            demand: demand.clone(),
            placement: Placement::Spread,
            avoid: vec![],
            place: None,
            number: None,
            probed: false,
            owner: None,
            most: None,
        };
        let reserved = farm.registry.reserve(&reserve).await.unwrap();
        assert!(matches!(reserved, Reserved::Slot(_)), "{reserved:?}");
        if started {
            assert!(matches!(farm.send(&ask).await, Outcome::Ready(_)));
        }
        farm.registry.abandon(&node, spawn).await.unwrap();
        if started {
            farm.until_ended(spawn, ExitReason::Cancelled).await;
        }
        farm.until_empty().await;
        if !started {
            assert_eq!(refused(farm.send(&ask).await).0, Reason::Abandoned);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cordoned_or_draining_node_refuses_at_once() {
    let farm = Farm::start().await;
    let (id, _) = farm.spawn().await;
    for eligibility in [v1::Eligibility::Cordoned, v1::Eligibility::Draining] {
        // The registry is told first, as a front door does it: heartbeats would undo it otherwise.
        let wanted = match eligibility {
            v1::Eligibility::Cordoned => model::Eligibility::Cordoned,
            _ => model::Eligibility::Draining,
        };
        farm.registry.set_eligibility(farm.agent.node(), wanted, None, None).await.unwrap();
        assert_eq!(farm.set_eligibility(eligibility).await, 1);
        assert_eq!(refused(farm.send(&farm.ask(STAY)).await).0, Reason::NotEligible);
    }
    farm.registry.set_eligibility(farm.agent.node(), model::Eligibility::Eligible, None, None).await.unwrap();
    until("the agent has learnt it from the registry", async || {
        matches!(farm.send(&farm.ask(STAY)).await, Outcome::Ready(_)).then_some(())
    })
    .await;
    assert_eq!(farm.info(id).await.state, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_gets_a_clean_environment_and_its_log_says_whose_it_is() {
    let farm = Farm::start_with(|c| {
        c.env = vec![("LICENSE_SERVER".to_owned(), "a=b".to_owned())];
        c.egl = true;
        c.slots = 1;
    })
    .await;
    let request = RequestId::mint();
    let ask = farm.ask("export -p | sed 's/^declare -x/ENV/'; say ready; rest");
    let reply = farm.client.clone().spawn(with_request_id(ask.clone(), &request)).await.unwrap().into_inner();
    assert!(matches!(reply.outcome, Some(Outcome::Ready(_))), "{reply:?}");
    let log = farm.log(ask.spawn_id.parse().unwrap()).await;
    for part in [ask.spawn_id.as_str(), request.as_str(), "node-a"] {
        assert!(log[0].contains(part), "{log:?}");
    }
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it");
    let mut names: Vec<_> =
        log.iter().filter_map(|l| l.strip_prefix("ENV ")?.split_once('=')).map(|(name, _)| name).collect();
    // The shell adds some of its own.
    names.retain(|name| !matches!(*name, "PWD" | "SHLVL" | "_" | "OLDPWD"));
    assert_eq!(
        names,
        ["DYLD_LIBRARY_PATH", "HATCHERY_NODE", "HATCHERY_SPAWN", "LD_LIBRARY_PATH", "LICENSE_SERVER"]
    );
    assert!(log.contains(&format!("ENV LD_LIBRARY_PATH=\"{here}\"")), "{log:?}");
    assert!(log.contains(&"ENV LICENSE_SERVER=\"a=b\"".to_owned()), "{log:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_joins_late_and_leaves_early_does_no_harm() {
    let farm = Farm::start().await;
    let ask =
        farm.ask(&format!("until [ -e {}/go ]; do sleep 0.02; done; {STAY}", farm.dir.path().display()));
    let id: SpawnId = ask.spawn_id.parse().unwrap();
    let (mut client, first) = (farm.client.clone(), ask.clone());
    let patient = tokio::spawn(async move { client.spawn(first).await });
    farm.until_state(id, SpawnState::Launching).await;
    let hasty = v1::SpawnRequest { deadline_ms: 50, ..ask.clone() };
    let status = farm.client.clone().spawn(hasty).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    std::fs::write(farm.dir.path().join("go"), "").unwrap();
    let outcome = patient.await.unwrap().unwrap().into_inner().outcome;
    assert!(matches!(outcome, Some(Outcome::Ready(_))), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_registry_everything_else_goes_on() {
    let farm = Farm::start_alone().await;
    let (id, _) = farm.spawn().await;
    let ready = http(farm.agent.admin_addr(), "GET /readyz HTTP/1.1").await;
    assert!(ready.starts_with("HTTP/1.1 200") && ready.contains(r#""registry":"away""#), "{ready}");
    farm.stop(id).await;
    until("it has ended", async || (farm.info(id).await.state == "exited").then_some(())).await;
    let metrics = farm.metrics().await;
    for line in ["hatchery_agent_backlog_changes 4", "hatchery_agent_slots_used 0"] {
        assert!(metrics.lines().any(|l| l == line), "no {line:?} in {metrics}");
    }
    farm.shutdown(OnShutdown::Kill).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cycles_leave_every_counter_where_it_was() {
    let farm = Farm::start_with(|c| {
        c.launcher = Launcher::Nothing;
        c.slots = 8;
    })
    .await;
    let cycles: Vec<_> = (0..8)
        .map(|_| {
            let (mut client, form) = (farm.client.clone(), farm.ask(""));
            tokio::spawn(async move {
                let mut done = 0;
                while done < 100 {
                    let id = SpawnId::mint().to_string();
                    let ask = v1::SpawnRequest { spawn_id: id.clone(), ..form.clone() };
                    match client.spawn(ask).await.unwrap().into_inner().outcome.unwrap() {
                        Outcome::Ready(_) => {
                            let stop = v1::StopRequest { spawn_id: id, ..Default::default() };
                            client.stop(stop).await.unwrap();
                            done += 1;
                        }
                        // The driver of one that was stopped has not come to it yet.
                        Outcome::Refused(refused) => assert_eq!(refused.reason(), Reason::Full),
                        Outcome::Ended(ended) => panic!("{ended:?}"),
                    }
                }
            })
        })
        .collect();
    for cycle in cycles {
        cycle.await.unwrap();
    }
    farm.until_empty().await;
    let metrics = farm.metrics().await;
    assert!(metrics.contains("hatchery_agent_spawns_started_total 800"), "{metrics}");
    assert!(metrics.contains("hatchery_agent_spawns_ended_total{reason=\"stopped\"} 800"), "{metrics}");
}
