//! Subscribers of the live feed: they come and go, read quickly or slowly, begin anew on a connection, resume where they were, and keep a view.
//! None of what the registry publishes may be missing or come twice, and every view ends as the registry's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::callers::CALLERS;
use crate::farm::{DOORS, Farm};
use crate::network::Process;

/// A subscriber hears something at least this often, or connects anew.
const SILENCE: Duration = Duration::from_secs(35);
/// It gives up a connection that does not take a message for so long.
const SENDING: Duration = Duration::from_secs(10);
/// Bytes under way to a subscriber, each way.
const WINDOW: usize = 64 << 10;
/// The same of one that reads slowly, so that what is sent waits for it at the front door.
const SMALL_WINDOW: usize = 1 << 10;
/// Events of a registry that was replaced have left a slow reader's connection after this time.
const REPLACED: Duration = Duration::from_secs(5);

/// What a subscriber is like while things go wrong; afterwards all read quickly and stay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Habit {
    /// Between two messages.
    pause: Duration,
    /// It leaves after this time, and comes back.
    stay: Option<Duration>,
    /// After one of so many messages it subscribes again on its connection.
    again_of: Option<u32>,
}

impl Habit {
    /// One that stays and reads as fast as it can.
    pub(crate) const QUICK: Self = Self { pause: Duration::ZERO, stay: None, again_of: None };

    pub(crate) fn random(random: &mut fastrand::Rng) -> Self {
        let pause = if random.bool() { random.u64(5..100) } else { 0 };
        Self {
            pause: Duration::from_millis(pause),
            stay: random.bool().then(|| Duration::from_millis(random.u64(100..8_000))),
            again_of: random.bool().then(|| random.u32(2..20)),
        }
    }
}

/// What it knows.
#[derive(Debug, Default)]
pub(crate) struct View {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The last event that it has.
    last: Option<u64>,
    /// Spawns that live.
    living: BTreeSet<String>,
    /// When it last subscribed.
    asked: Option<Instant>,
}

impl View {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The spawns that live, as far as it knows.
    pub(crate) fn living(&self) -> BTreeSet<String> {
        self.state().living.clone()
    }
}

/// Follows the spawns of a farm for as long as it lasts.
pub(crate) async fn follow(farm: Arc<Farm>, number: usize, habit: Habit, mut random: fastrand::Rng) {
    let Some(view) = farm.views.get(number).cloned() else { return };
    let client = Process::on(CALLERS);
    loop {
        let door = DOORS[random.usize(..DOORS.len())];
        let habit = if farm.settled.is_cancelled() { Habit::QUICK } else { habit };
        let name = format!("subscriber {number}");
        let follower = Follower { farm: &farm, view: &view, habit, name };
        // An error only means that it connects anew.
        let connected = follower.connected(&client, door, &mut random);
        match habit.stay {
            Some(stay) => drop(timeout(stay, connected).await),
            None => drop(connected.await),
        }
        sleep(Duration::from_millis(random.u64(100..3000))).await;
    }
}

struct Follower<'a> {
    farm: &'a Arc<Farm>,
    view: &'a View,
    habit: Habit,
    name: String,
}

impl Follower<'_> {
    async fn connected(
        &self,
        client: &Process,
        door: &'static str,
        random: &mut fastrand::Rng,
    ) -> Option<()> {
        let window = if self.habit.pause.is_zero() { WINDOW } else { SMALL_WINDOW };
        let opening = async {
            let address = format!("{door}:8080");
            let stream = self.farm.network.connect_with(client, door, &address, window).await.ok()?;
            Some(client_async("ws://localhost/v1/live", stream).await.ok()?.0)
        };
        let mut socket = timeout(SILENCE, opening).await.ok()??;
        let since = self.view.state().last;
        self.subscribe(&mut socket, since).await?;
        loop {
            let message = timeout(SILENCE, socket.next()).await.ok()??.ok()?;
            let Message::Text(text) = message else { continue };
            self.take_in(&serde_json::from_str(&text).ok()?);
            if self.farm.settled.is_cancelled() {
                continue;
            }
            if self.habit.again_of.is_some_and(|of| random.u32(..of) == 0) {
                let since = self.view.state().last.filter(|_| random.bool());
                self.subscribe(&mut socket, since).await?;
            }
            if !self.habit.pause.is_zero() {
                sleep(self.habit.pause).await;
            }
        }
    }

    async fn subscribe(&self, socket: &mut WebSocketStream<DuplexStream>, since: Option<u64>) -> Option<()> {
        let mut subscribe = json!({ "type": "subscribe", "topic": "spawns" });
        if let Some(since) = since {
            subscribe["since"] = since.into();
        }
        self.view.state().asked = Some(Instant::now());
        // It does not read meanwhile, and the front door may wait for it to read.
        timeout(SENDING, socket.send(Message::text(subscribe.to_string()))).await.ok()?.ok()
    }

    fn take_in(&self, message: &Value) {
        let kind = message["type"].as_str().unwrap_or_default();
        let seq = message["seq"].as_u64().unwrap_or_default();
        match kind {
            "subscribed" => self.begins(message, seq),
            "event" => self.happened(message, seq),
            _ => {}
        }
    }

    fn begins(&self, message: &Value, seq: u64) {
        let mut state = self.view.state();
        if let Value::Array(spawns) = &message["snapshot"] {
            state.living =
                spawns.iter().filter_map(|spawn| spawn["id"].as_str().map(str::to_owned)).collect();
        }
        // Without a snapshot it goes on after the event that it named, also with what came since the question.
        state.last = Some(seq);
        let (count, has_snapshot) = (state.living.len(), message["snapshot"].is_array());
        drop(state);
        self.farm
            .steps
            .note(format_args!("{} begins at {seq} with {count} spawns, snapshot {has_snapshot}", self.name));
    }

    fn happened(&self, message: &Value, seq: u64) {
        let farm = self.farm;
        let mut state = self.view.state();
        let last = state.last.unwrap_or_default();
        state.last = Some(seq);
        let (word, spawn) = (message["kind"].as_str().unwrap_or_default(), message["spawn"].as_str());
        if let Some(spawn) = spawn {
            match word {
                "spawn.exited" | "spawn.lost" => state.living.remove(spawn),
                "spawn.ping" => false,
                _ => state.living.insert(spawn.to_owned()),
            };
        }
        let asked = state.asked;
        drop(state);
        if seq <= last {
            farm.steps.violate(&format!("{} gets event {seq} {word} {spawn:?} after {last}", self.name));
        }
        // A slow reader may still get what a registry published that is gone: its numbers say nothing of those of today.
        let is_of_today =
            self.habit.pause.is_zero() || asked > farm.events.replaced().map(|at| at + REPLACED);
        if is_of_today && let Some(missed) = farm.events.between(true, last, seq) {
            farm.steps.violate(&format!(
                "{} gets event {seq} {word} after {last}, and {missed} is missing",
                self.name
            ));
        }
    }
}
