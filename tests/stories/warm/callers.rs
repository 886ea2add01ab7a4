//! Callers that ask for what needs nothing special, hold each spawn for a moment, see that it lives, and give it up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use hatchery_tests::faults::Incidents;
use hatchery_tests::http::{Client, Request};
use hatchery_tests::{Farm, Viewer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// Tries of a caller that has a key, or wants a spawn stopped.
const TRIES: usize = 10;
/// As long as callers may take to end.
const LEAVES: Duration = Duration::from_secs(90);
/// Codes that nothing which happens here explains.
const ODD: [&str; 4] = ["internal", "invalid-request", "not-found", ""];

/// Callers at work.
#[derive(Debug)]
pub(super) struct Callers {
    notes: Arc<Mutex<Notes>>,
    going: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// A time during which a spawn had this port.
#[derive(Debug, Clone)]
struct Span {
    id: String,
    port: u16,
    from: Instant,
    to: Instant,
}

/// What callers have seen.
#[derive(Debug, Default)]
pub(super) struct Notes {
    answered: BTreeSet<String>,
    /// The spawns that are held, by their ports.
    held: BTreeMap<u16, (String, Instant)>,
    /// Spawns that were not there when their callers looked.
    gone: Vec<Span>,
    /// Spawns that got the port of another one that was held.
    doubled: Vec<(Span, String)>,
    /// Keys with several answers, and when each was used.
    keys: Vec<(BTreeSet<String>, Instant, Instant)>,
    odd: Vec<String>,
    /// Refusals by code.
    pub(super) refused: BTreeMap<String, usize>,
}

impl Notes {
    /// Spawns that were answered.
    pub(super) fn answers(&self) -> usize {
        self.answered.len()
    }

    pub(super) fn was_answered(&self, id: &str) -> bool {
        self.answered.contains(id)
    }

    /// Spawns that were answered, and no server was started for.
    pub(super) fn claims(&self, started: &BTreeSet<String>) -> usize {
        self.answered.difference(started).count()
    }

    /// What no kill explains.
    pub(super) fn wrong(&self, incidents: &Incidents) -> Vec<String> {
        let was_shot = |span: &&Span| {
            let is_in = |at: &Instant| (span.from..=span.to).contains(at);
            incidents.shot.iter().any(|(port, at)| *port == span.port && is_in(at))
        };
        let gone = self
            .gone
            .iter()
            .filter(|span| !was_shot(span))
            .map(|span| format!("lost: {} ({span:?})", span.id));
        let doubled = self.doubled.iter().filter(|(span, _)| !was_shot(&span));
        let doubled =
            doubled.map(|(span, other)| format!("doubled: {other} has the server of {} ({span:?})", span.id));
        let keys = self
            .keys
            .iter()
            .filter(|(_, from, to)| !incidents.wiped.iter().any(|at| (*from..=*to).contains(at)));
        let keys = keys.map(|(ids, ..)| format!("one key, several spawns: {ids:?}"));
        gone.chain(doubled).chain(keys).chain(self.odd.iter().cloned()).collect()
    }
}

#[derive(Debug, Clone)]
struct Caller {
    doors: Vec<Client>,
    notes: Arc<Mutex<Notes>>,
    going: watch::Receiver<bool>,
}

impl Callers {
    /// So many, through all front doors.
    pub(super) fn start(farm: &Farm, seed: u64, count: u64) -> Self {
        let notes: Arc<Mutex<Notes>> = Arc::default();
        let (going, still) = watch::channel(true);
        let doors: Vec<Client> = farm.doors.iter().map(|door| door.http).collect();
        let caller = Caller { doors, notes: Arc::clone(&notes), going: still };
        let tasks =
            (0..count).map(|number| caller.clone().run(number, Rng::with_seed(seed ^ (number << 32))));
        Self { notes, going, tasks: tasks.collect() }
    }

    pub(super) fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// No more calls; what was seen.
    pub(super) async fn stop(mut self) -> Notes {
        self.going.send_replace(false);
        timeout(LEAVES, async {
            while let Some(ended) = self.tasks.join_next().await {
                ended.expect("no caller panics");
            }
        })
        .await
        .expect("every caller is answered in time");
        std::mem::take(&mut *self.notes())
    }
}

impl Caller {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn door(&self, rng: &mut Rng) -> Client {
        self.doors[rng.usize(..self.doors.len())]
    }

    async fn run(self, number: u64, mut rng: Rng) {
        for call in 0.. {
            if !*self.going.borrow() {
                return;
            }
            let renderer = if rng.u32(..100) < 15 { "ssr" } else { "csr" };
            let key = rng.bool().then(|| format!("claims-{number}-{call}"));
            let asked = Instant::now();
            match self.ask(&json!({"rendererType": renderer}), key.as_deref(), &mut rng).await {
                Some(answer) => self.use_it(&answer, asked, renderer, &mut rng).await,
                None => sleep(Duration::from_millis(rng.u64(20..200))).await,
            }
        }
    }

    /// Asks again with its key as long as nothing answers or the promise cannot be kept, and sometimes once more for nothing.
    async fn ask(&self, body: &Value, key: Option<&str>, rng: &mut Rng) -> Option<Value> {
        let (from, mut ids, mut answer) = (Instant::now(), BTreeSet::new(), None);
        for _ in 0..if key.is_some() { TRIES } else { 1 } {
            let request = self.door(rng).post("/spawn").json(body);
            let request = match key {
                Some(key) => request.header("idempotency-key", key),
                None => request,
            };
            let is_settled = match self.send(request).await {
                Some(Ok(ready)) => {
                    ids.insert(text(&ready, "id").to_owned());
                    answer = Some(ready);
                    rng.u32(..4) > 0
                }
                Some(Err(code)) => code != "registry-unavailable",
                None => false,
            };
            if is_settled {
                break;
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        if ids.len() > 1 {
            self.notes().keys.push((ids, from, Instant::now()));
        }
        answer
    }

    /// The answer, or the code of the refusal; `None` when nothing answers.
    async fn send(&self, request: Request) -> Option<Result<Value, String>> {
        let answer = request.try_send().await.ok()?;
        let json = answer.json();
        let mut notes = self.notes();
        if answer.status == 200 {
            notes.answered.insert(text(&json, "id").to_owned());
            return Some(Ok(json));
        }
        let code = json["code"].as_str().unwrap_or_default().to_owned();
        *notes.refused.entry(code.clone()).or_default() += 1;
        if ODD.contains(&code.as_str()) {
            notes.odd.push(format!("an answer that nothing explains: {answer:?}"));
        }
        Some(Err(code))
    }

    /// Holds the spawn for a moment, connects to it, and gives it up.
    async fn use_it(&self, answer: &Value, asked: Instant, renderer: &str, rng: &mut Rng) {
        let (id, endpoint) = (text(answer, "id"), text(answer, "endpoint"));
        let port = port_of(endpoint);
        let before = self.notes().held.insert(port, (id.to_owned(), asked));
        if let Some((other, from)) = before {
            let span = Span { id: other, port, from, to: Instant::now() };
            self.notes().doubled.push((span, id.to_owned()));
        }
        sleep(Duration::from_millis(rng.u64(..120))).await;
        let viewer = Viewer::connect(endpoint, (renderer == "ssr").then_some("binary")).await;
        if viewer.is_err() {
            let span = Span { id: id.to_owned(), port, from: asked, to: Instant::now() };
            self.notes().gone.push(span);
        }
        {
            let mut notes = self.notes();
            if notes.held.get(&port).is_some_and(|(holder, _)| holder == id) {
                notes.held.remove(&port);
            }
        }
        if rng.bool()
            && let Ok(mut viewer) = viewer
        {
            viewer.greet().await;
            return;
        }
        for _ in 0..TRIES {
            let answer = self.door(rng).delete(&format!("/v1/spawns/{id}")).try_send().await;
            if answer.is_ok_and(|answer| [200, 202].contains(&answer.status)) {
                return;
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        // What no viewer uses ends by itself.
    }
}

fn text<'a>(answer: &'a Value, member: &str) -> &'a str {
    answer[member].as_str().unwrap_or_else(|| panic!("no {member} in {answer}"))
}

fn port_of(endpoint: &str) -> u16 {
    let (_, rest) = endpoint.split_once("://").expect("a URL");
    let authority = rest.split(['/', '?']).next().unwrap_or(rest);
    authority.rsplit(':').next().and_then(|port| port.parse().ok()).expect("an endpoint names its port")
}
