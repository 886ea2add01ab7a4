//! Those who use the farm: callers that start spawns, view them and end them, and an operator.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::ended_calls::{self, CALL};
use crate::farm::{DOORS, Farm, NODES};
use crate::http::{Answer, Outcome, request, request_until};
use crate::keys::KEY;
use crate::network::{Host, Process};
use crate::promises::SpawnAnswer;

/// A caller gives up after this time.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(60);
/// The machine of all callers.
pub(crate) const CALLERS: Host = "callers";
/// Keys that callers share.
const KEYS: u32 = 5;

/// One caller: what it does is drawn before it begins.
#[derive(Debug)]
pub(crate) struct Caller {
    number: u32,
    door: Host,
    key: Option<String>,
    wait: u64,
    /// Hangs up after this time, whatever was answered.
    hangs_up: Option<Duration>,
    after: After,
    random: fastrand::Rng,
}

/// What a caller does with its spawn.
#[derive(Debug, Clone, Copy)]
enum After {
    /// It never connects a viewer.
    Nothing,
    /// Its viewer stays for this time.
    Views(Duration),
    /// It has the spawn stopped after this time.
    Stops(Duration),
    /// Its viewer stays.
    Stays,
}

impl Caller {
    pub(crate) fn random(number: u32, random: &mut fastrand::Rng) -> Self {
        let key = (random.u32(..4) == 0).then(|| format!("key-{}", random.u32(..KEYS)));
        Self::with_key(number, key, random)
    }

    /// One of several callers that ask with one key at nearly the same time.
    pub(crate) fn of_crowd(number: u32, crowd: u32, random: &mut fastrand::Rng) -> Self {
        Self::with_key(number, Some(format!("crowd-{crowd}")), random)
    }

    fn with_key(number: u32, key: Option<String>, random: &mut fastrand::Rng) -> Self {
        let mut random = fastrand::Rng::with_seed(random.u64(..));
        let stay = Duration::from_millis(random.u64(300..8_000));
        let after = match random.u32(..100) {
            0..10 => After::Nothing,
            10..55 => After::Views(stay),
            55..90 => After::Stops(stay),
            _ => After::Stays,
        };
        Self {
            number,
            door: DOORS[random.usize(..DOORS.len())],
            // The body is part of what a key stands for.
            wait: if key.is_some() { 5 } else { [0, 0, 3, 10][random.usize(..4)] },
            key,
            hangs_up: (random.u32(..8) == 0).then(|| hang_up(&mut random)),
            after,
            random,
        }
    }

    pub(crate) async fn run(mut self, farm: Arc<Farm>) {
        let client = Process::on(CALLERS);
        let number = self.number;
        for attempt in 0..2 {
            farm.steps.note(format_args!("caller {number} asks {} (key {:?})", self.door, self.key));
            let began = Instant::now();
            let tag = format!("{number}-{attempt}");
            let body = match &self.key {
                Some(key) => json!({ "waitSeconds": self.wait, "tags": { KEY: key } }),
                None => json!({ "waitSeconds": self.wait, "tags": { CALL: tag } }),
            };
            let hangs_up = self.hangs_up.unwrap_or(TIMEOUT);
            let call = (self.key.as_deref(), &body);
            let outcome =
                request_until((&farm.network, &client), self.door, ("POST", "/spawn"), call, hangs_up).await;
            match outcome {
                Outcome::Answered(answer) if answer.status == 200 => {
                    self.use_spawn(&farm, &client, (&answer, began)).await;
                    return;
                }
                Outcome::Answered(answer) => {
                    ended_calls::ended(&farm, tag, (began, Instant::now()), self.door);
                    farm.steps.note(format_args!("caller {number} gets {} {}", answer.status, answer.code()));
                    if answer.status == 500 {
                        farm.steps
                            .violate(&format!("caller {number} got an internal error: {}", answer.body));
                    }
                }
                Outcome::Broken => farm.steps.note(format_args!("caller {number} loses its connection")),
                Outcome::HungUp => {
                    ended_calls::ended(&farm, tag, (began, began + hangs_up), self.door);
                    farm.steps.note(format_args!("caller {number} has hung up"));
                    return;
                }
                // The front door had done its part; no viewer comes.
                Outcome::TooLate(answer) => {
                    farm.steps.note(format_args!("caller {number} has hung up under its answer"));
                    if let Some(id) = answer.body["id"].as_str() {
                        farm.promises.is_unwanted(id);
                    }
                    return;
                }
            }
            if attempt == 0 && (self.key.is_some() || self.random.bool()) {
                sleep(Duration::from_millis(self.random.u64(50..1500))).await;
                self.door = DOORS[self.random.usize(..DOORS.len())];
            } else {
                return;
            }
        }
    }

    /// `asked`: when the call began.
    async fn use_spawn(&mut self, farm: &Arc<Farm>, client: &Process, (answer, asked): (&Answer, Instant)) {
        let text = |name: &str| answer.body[name].as_str().unwrap_or_default().to_owned();
        let (id, node, endpoint) = (text("id"), text("node"), text("endpoint"));
        farm.steps.note(format_args!("caller {} has {id} on {node} at {endpoint}", self.number));
        let got = SpawnAnswer { id: &id, node: &node, endpoint: &endpoint, asked };
        farm.promises.answered(got, self.key.as_deref());
        // Others may have the same spawn by the same key: what becomes of it is decided by its first caller.
        let After::Nothing = self.after else {
            sleep(Duration::from_millis(self.random.u64(5..800))).await;
            let viewed = server_at(farm, &node, &endpoint);
            let Some(server) = viewed else { return };
            server.view(true);
            match self.after {
                After::Views(stay) => {
                    sleep(stay).await;
                    farm.promises.is_unwanted(&id);
                    farm.steps.note(format_args!("the viewer of {id} leaves"));
                    server.view(false);
                }
                After::Stops(stay) => {
                    sleep(stay).await;
                    farm.promises.is_unwanted(&id);
                    self.stop(farm, client, &id).await;
                }
                After::Stays | After::Nothing => {}
            }
            return;
        };
        farm.promises.is_unwanted(&id);
    }

    async fn stop(&mut self, farm: &Arc<Farm>, client: &Process, id: &str) {
        for _ in 0..5 {
            let door = DOORS[self.random.usize(..DOORS.len())];
            farm.steps.note(format_args!("caller {} stops {id} through {door}", self.number));
            let path = format!("/v1/spawns/{id}");
            let call = request((&farm.network, client), door, ("DELETE", &path), None, &Value::Null);
            match timeout(TIMEOUT, call).await {
                Ok(Some(answer)) if matches!(answer.status, 200 | 202 | 404) => return,
                _ => sleep(Duration::from_millis(self.random.u64(200..3000))).await,
            }
        }
    }
}

/// When a caller hangs up: often while its spawn starts.
fn hang_up(random: &mut fastrand::Rng) -> Duration {
    let last = if random.bool() { 300 } else { 3000 };
    Duration::from_millis(random.u64(1..last))
}

fn server_at(farm: &Farm, node: &str, endpoint: &str) -> Option<Arc<crate::server::SimulatedServer>> {
    let port = endpoint.rsplit(':').next();
    farm.machine(node)?.running().into_iter().find(|server| server.option("--sc-port") == port)
}

/// An operator: closes nodes and opens them again, until the end of the run's trouble, and leaves all of them open.
pub(crate) async fn operate(farm: Arc<Farm>, mut random: fastrand::Rng, until: Instant) {
    let operator = Process::on(CALLERS);
    while Instant::now() < until {
        sleep(Duration::from_millis(random.u64(500..8_000))).await;
        let node = NODES[random.usize(..NODES.len())];
        let door = DOORS[random.usize(..DOORS.len())];
        let seconds = random.u64(1..15);
        match random.u32(..3) {
            0 => order(&farm, &operator, door, node, "cordon", Value::Null).await,
            1 => order(&farm, &operator, door, node, "drain", json!({ "deadlineSeconds": seconds })).await,
            _ => order(&farm, &operator, door, node, "uncordon", Value::Null).await,
        };
    }
}

/// Opens every node, however often it has to be asked.
pub(crate) async fn open_all(farm: &Arc<Farm>) {
    let operator = Process::on(CALLERS);
    for node in NODES {
        for turn in 0..20 {
            if order(farm, &operator, DOORS[turn % DOORS.len()], node, "uncordon", Value::Null).await {
                break;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Gives an order; whether it was answered with its agent's acknowledgement.
async fn order(
    farm: &Arc<Farm>,
    operator: &Process,
    door: Host,
    node: Host,
    verb: &str,
    body: Value,
) -> bool {
    farm.steps.note(format_args!("operator: {verb} {node} through {door} {body}"));
    match verb {
        "drain" => {
            let seconds = body["deadlineSeconds"].as_u64().unwrap_or_default();
            farm.promises.draining(node, Duration::from_secs(seconds));
        }
        "uncordon" => farm.promises.opening(node),
        _ => {}
    }
    let path = format!("/v1/nodes/{node}/{verb}");
    let call = request((&farm.network, operator), door, ("POST", &path), None, &body);
    let answer = timeout(TIMEOUT, call).await.ok().flatten();
    let acknowledged = answer
        .as_ref()
        .is_some_and(|answer| answer.status == 200 && answer.body["agentAcknowledged"] == true);
    let status = answer.as_ref().map(|answer| answer.status);
    farm.steps
        .note(format_args!("operator: {verb} {node} is answered {status:?}, acknowledged {acknowledged}"));
    if acknowledged {
        match verb {
            "uncordon" => farm.promises.is_open(node),
            _ => farm.promises.is_closed(node),
        }
    }
    acknowledged
}
