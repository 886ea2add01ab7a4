//! What a scripted agent answers to front doors.

use model::{ExitReason, SpawnId, SpawnState};
use registry::SpawnReport;
use tonic::{Request, Response, Status};
use wire::v1;
use wire::v1::node_agent_server::NodeAgent;
use wire::v1::refused::Reason;
use wire::v1::spawn_reply::Outcome;

use super::{Agent, Order, Script};

/// Ends the spawn when the call is dropped before its answer, as an agent must.
struct Call {
    agent: Agent,
    id: SpawnId,
    answered: bool,
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.answered {
            let mut state = self.agent.state.lock().unwrap();
            state.cancelled.push(self.id);
            state.end(self.id, ExitReason::Cancelled);
            drop(state);
            self.agent.news.notify_one();
        }
    }
}

/// The answer to a call that is meant for another node's agent.
fn stranger(found: &str) -> Status {
    let mut status = Status::failed_precondition("this is another node");
    status.metadata_mut().insert("x-hatchery-node", found.parse().unwrap());
    status
}

fn refused(reason: Reason, detail: &str) -> Outcome {
    Outcome::Refused(v1::Refused { reason: reason.into(), detail: detail.into() })
}

#[tonic::async_trait]
impl NodeAgent for Agent {
    type AttachStream = tokio_stream::Empty<Result<v1::AttachReply, Status>>;

    async fn attach(
        &self,
        _: Request<tonic::Streaming<v1::AttachRequest>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        Err(Status::unimplemented("of the release before viewers"))
    }

    async fn spawn(&self, call: Request<v1::SpawnRequest>) -> Result<Response<v1::SpawnReply>, Status> {
        let request_id =
            call.metadata().get(wire::REQUEST_ID).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
        let request = call.into_inner();
        let id: SpawnId = request.spawn_id.parse().unwrap();
        let script = {
            let mut state = self.state.lock().unwrap();
            state.orders.push(Order { request, request_id });
            if state.stands_for.is_some() {
                let outcome = refused(Reason::WrongNode, "");
                return Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }));
            }
            let script = state.script.clone();
            if state.abandoned.contains(&id) || state.stopped.iter().any(|(stopped, _)| *stopped == id) {
                return Ok(Response::new(v1::SpawnReply { outcome: Some(refused(Reason::Abandoned, "")) }));
            }
            if state.closed() {
                let outcome = refused(Reason::NotEligible, "");
                return Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }));
            }
            if !matches!(script, Script::Refuse(..)) {
                if state.running.len() >= state.slots {
                    return Ok(Response::new(v1::SpawnReply { outcome: Some(refused(Reason::Full, "")) }));
                }
                let spawn = SpawnReport::launching(id, format!("{}/{id}", state.endpoint));
                state.admitted.push(id);
                state.note(spawn, SpawnState::Launching, None);
            }
            script
        };
        self.news.notify_one();
        let mut guard = Call { agent: self.clone(), id, answered: false };
        if matches!(script, Script::ReadyOnGo) {
            self.go.notified().await;
        }
        let outcome = match script {
            Script::Ready | Script::ReadyOnGo => {
                let mut state = self.state.lock().unwrap();
                match state.running.get(&id).cloned() {
                    Some(spawn) => {
                        let endpoint = spawn.endpoint.clone();
                        state.note(spawn, SpawnState::Ready, None);
                        Outcome::Ready(v1::Ready { endpoint, gpu: None, start_to_ready_us: 100 })
                    }
                    None => refused(Reason::Abandoned, ""),
                }
            }
            Script::Ended(exit) => {
                self.state.lock().unwrap().end(id, ExitReason::Failed);
                Outcome::Ended(v1::Ended { exit: Some(exit), log: vec!["one".into(), "two".into()] })
            }
            Script::Refuse(reason, detail) => refused(reason, detail),
            Script::Die => {
                self.die.notify_one();
                std::future::pending().await
            }
            Script::Lose => return Err(Status::unavailable("something is in the way")),
            Script::Hang => std::future::pending().await,
        };
        guard.answered = true;
        self.news.notify_one();
        Ok(Response::new(v1::SpawnReply { outcome: Some(outcome) }))
    }

    async fn set_life(&self, _: Request<v1::SetLifeRequest>) -> Result<Response<v1::SetLifeReply>, Status> {
        Err(Status::unimplemented("of the release before lives"))
    }

    async fn stop(&self, call: Request<v1::StopRequest>) -> Result<Response<v1::StopReply>, Status> {
        let stop = call.into_inner();
        let id: SpawnId = stop.spawn_id.parse().unwrap();
        let mut state = self.state.lock().unwrap();
        if let Some(found) = state.stands_for {
            return Err(stranger(found));
        }
        state.stopped.push((id, stop.reason.clone()));
        let outcome = if state.running.contains_key(&id) {
            state.end(id, stop.reason.parse().unwrap());
            v1::stop_reply::Outcome::Stopping
        } else {
            v1::stop_reply::Outcome::Unknown
        };
        drop(state);
        self.news.notify_one();
        Ok(Response::new(v1::StopReply { outcome: outcome.into() }))
    }

    async fn set_eligibility(
        &self,
        call: Request<v1::SetEligibilityRequest>,
    ) -> Result<Response<v1::SetEligibilityReply>, Status> {
        let mut state = self.state.lock().unwrap();
        if let Some(found) = state.stands_for {
            return Err(stranger(found));
        }
        let call = call.into_inner();
        let generation = call.generation;
        state.eligibility_orders.push(call);
        let remaining = u32::try_from(state.running.len()).unwrap();
        Ok(Response::new(v1::SetEligibilityReply { remaining, generation }))
    }

    async fn list(&self, _: Request<v1::ListRequest>) -> Result<Response<v1::ListReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn read_log(
        &self,
        call: Request<v1::ReadLogRequest>,
    ) -> Result<Response<v1::ReadLogReply>, Status> {
        if let Some(found) = self.state.lock().unwrap().stands_for {
            return Err(stranger(found));
        }
        let v1::ReadLogRequest { spawn_id, lines, .. } = call.into_inner();
        if !self.state.lock().unwrap().running.contains_key(&spawn_id.parse().unwrap()) {
            return Err(Status::not_found("no such spawn"));
        }
        let lines = (0..lines.min(3)).map(|i| format!("line {i} é")).collect();
        Ok(Response::new(v1::ReadLogReply { lines }))
    }
}
