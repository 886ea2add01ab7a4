//! A crowd of clients that behave as clients do: they look at models, stop what they started, hang up, ask again.
//!
//! Every call leaves a note. The session token carries the caller's number to the command line of whatever was started
//! for it, so that processes can be held against calls afterwards.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::http::{Client, Request};
use crate::viewer::Viewer;

/// The longest that clients ask to wait in line.
pub const MAX_WAIT: Duration = Duration::from_secs(3);
/// Callers at once; whoever comes while there are more goes away.
const MAX_CALLERS: usize = 80;
/// Viewers that stay to the end.
const MAX_STAYING: usize = 6;
/// Tries of whoever has a key, or wants something stopped.
const TRIES: usize = 8;

/// What a call was answered.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// 200.
    Ready {
        /// The spawn.
        id: String,
        /// Where it is.
        node: String,
    },
    /// Anything else, with its code.
    Refused(u16, String),
    /// Nobody listened, or the connection broke.
    Broken(String),
    /// The caller went away.
    HungUp,
}

/// One call of `POST /spawn`.
#[derive(Debug, Clone)]
pub struct Call {
    /// The caller's number; calls with the same key have the same.
    pub caller: u64,
    /// Its key.
    pub key: Option<String>,
    /// When it was made.
    pub asked: Instant,
    /// How long the answer took.
    pub took: Duration,
    /// How long it was willing to wait in line.
    pub wait: Duration,
    /// The answer.
    pub outcome: Outcome,
}

impl Call {
    /// The spawn it was given.
    pub fn id(&self) -> Option<&str> {
        match &self.outcome {
            Outcome::Ready { id, .. } => Some(id),
            _ => None,
        }
    }
}

/// A viewer that stays to the end.
#[derive(Debug)]
pub struct Stays {
    /// What it looks at.
    pub id: String,
    /// The viewer.
    pub viewer: Viewer,
}

/// What is noted.
#[derive(Debug, Default)]
pub struct Notes {
    /// Every call that is over.
    pub calls: Vec<Call>,
    /// Viewers that have not left.
    pub stays: Vec<Stays>,
    /// Spawns whose end a client has asked for, or whose viewer has left.
    pub given_up: Vec<String>,
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    notes: Arc<Mutex<Notes>>,
    going: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone)]
struct Crowd {
    doors: Vec<SocketAddr>,
    notes: Arc<Mutex<Notes>>,
}

impl Load {
    /// Starts it: so many callers a second through all these doors.
    pub fn start(doors: Vec<Client>, seed: u64, per_second: f64) -> Self {
        let notes = Arc::default();
        let doors = doors.into_iter().map(|door| door.addr).collect();
        let crowd = Crowd { doors, notes: Arc::clone(&notes) };
        let (going, stopped) = watch::channel(true);
        let task = tokio::spawn(crowd.come(Rng::with_seed(seed), per_second, stopped));
        Self { notes, going, task }
    }

    /// What was noted so far.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody comes any more; waits until all have gone, but those who stay.
    pub async fn stop(&mut self, limit: Duration) {
        self.going.send_replace(false);
        let gone = timeout(limit, &mut self.task).await;
        gone.expect("every caller is answered in time").expect("no caller panics");
    }

    /// How many have been given a spawn so far.
    pub fn served(&self) -> usize {
        self.notes().calls.iter().filter(|call| call.id().is_some()).count()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Crowd {
    async fn come(self, mut rng: Rng, per_second: f64, mut stopped: watch::Receiver<bool>) {
        let mut callers = JoinSet::new();
        for number in 0.. {
            let pause = -(1.0 - rng.f64()).ln() / per_second;
            tokio::select! {
                () = sleep(Duration::from_secs_f64(pause.min(0.5))) => {}
                _ = stopped.wait_for(|going| !going) => break,
            }
            while callers.try_join_next().is_some_and(|ended| ended.is_ok()) {}
            if callers.len() < MAX_CALLERS {
                callers.spawn(self.clone().caller(number, rng.fork()));
            }
        }
        while let Some(ended) = callers.join_next().await {
            ended.expect("no caller panics");
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self, rng: &mut Rng) -> Client {
        Client::new(self.doors[rng.usize(..self.doors.len())])
    }

    async fn caller(self, number: u64, mut rng: Rng) {
        // The second setting has no effect, so it can be anybody's number.
        let token = format!("sim:ready_delay_ms={},exit_delay_ms={number}", rng.u32(0..60));
        let mut body = json!({"sessionToken": token});
        let server_side = rng.u32(..100) < 15;
        if server_side {
            body["rendererType"] = json!("ssr");
        }
        let what = rng.u32(..100);
        let mut wait = Duration::ZERO;
        if rng.u32(..100) < 20 {
            wait = Duration::from_secs(rng.u64(1..=MAX_WAIT.as_secs()));
            body["waitSeconds"] = json!(wait.as_secs());
        }
        if (60..75).contains(&what) {
            return self.hang_up(number, &body, rng).await;
        }
        let answer = if (75..90).contains(&what) {
            self.keyed(number, &body, wait, &mut rng).await
        } else {
            let call = self.door(&mut rng).post("/spawn").json(&body);
            self.ask(number, call, None, wait).await
        };
        let Some(answer) = answer else { return };
        let text = |member: &str| answer[member].as_str().expect("the contract has it").to_owned();
        let (id, endpoint) = (text("id"), text("endpoint"));
        let protocol = server_side.then_some("binary");
        match what {
            0..30 => {
                if let Ok(mut viewer) = Viewer::connect(&endpoint, protocol).await {
                    viewer.greet().await;
                    sleep(Duration::from_millis(rng.u64(50..1500))).await;
                    self.notes().given_up.push(id);
                    drop(viewer);
                }
            }
            90..93 => {}
            93..96 if self.notes().stays.len() < MAX_STAYING => {
                if let Ok(mut viewer) = Viewer::connect(&endpoint, protocol).await {
                    viewer.greet().await;
                    self.notes().stays.push(Stays { id, viewer });
                }
            }
            _ => {
                sleep(Duration::from_millis(rng.u64(..400))).await;
                self.stop(id, &mut rng).await;
            }
        }
    }

    /// Asks again as long as nobody listens or the promise cannot be kept, and sometimes once more for nothing.
    async fn keyed(&self, number: u64, body: &Value, wait: Duration, rng: &mut Rng) -> Option<Value> {
        let key = format!("key-{number}");
        let mut answer = None;
        for _ in 0..TRIES {
            let call = self.door(rng).post("/spawn").header("idempotency-key", &key).json(body);
            answer = self.ask(number, call, Some(key.clone()), wait).await;
            let again = match self.notes().calls.iter().rfind(|call| call.caller == number)?.outcome {
                Outcome::Broken(_) => true,
                Outcome::Refused(_, ref code) => code == "registry-unavailable",
                Outcome::Ready { .. } => rng.u32(..4) == 0,
                Outcome::HungUp => false,
            };
            if !again {
                break;
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        answer
    }

    async fn ask(&self, caller: u64, request: Request, key: Option<String>, wait: Duration) -> Option<Value> {
        let asked = Instant::now();
        let answer = request.try_send().await;
        let took = asked.elapsed();
        let mut json = None;
        let outcome = match answer {
            Ok(answer) if answer.status == 200 => {
                let answer = json.insert(answer.json());
                let text = |member: &str| answer[member].as_str().expect("the contract has it").to_owned();
                Outcome::Ready { id: text("id"), node: text("node") }
            }
            Ok(answer) => {
                let code = answer.json()["code"].as_str().unwrap_or_default().to_owned();
                Outcome::Refused(answer.status, code)
            }
            Err(error) => Outcome::Broken(error.to_string()),
        };
        self.notes().calls.push(Call { caller, key, asked, took, wait, outcome });
        json
    }

    async fn hang_up(&self, caller: u64, body: &Value, mut rng: Rng) {
        let door = self.door(&mut rng);
        let asked = Instant::now();
        let limit = Duration::from_millis(rng.u64(..100));
        let call = self.ask(caller, door.post("/spawn").json(body), None, Duration::ZERO);
        // Whoever was answered before that has a spawn like any other, and lets it end by itself.
        if timeout(limit, call).await.is_err() {
            let (took, wait, outcome) = (asked.elapsed(), Duration::ZERO, Outcome::HungUp);
            self.notes().calls.push(Call { caller, key: None, asked, took, wait, outcome });
        }
    }

    async fn stop(&self, id: String, rng: &mut Rng) {
        let path = format!("/v1/spawns/{id}");
        self.notes().given_up.push(id);
        for _ in 0..TRIES {
            let answer = self.door(rng).delete(&path).try_send().await;
            if answer.is_ok_and(|answer| [200, 202].contains(&answer.status)) {
                return;
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        // Whatever nobody connects to ends by itself.
    }
}
