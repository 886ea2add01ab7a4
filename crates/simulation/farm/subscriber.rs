//! A subscriber of the live feed: it comes back when its connection is lost, resumes where it was, and keeps a view. None of what the registry
//! publishes may be missing or come twice, and its view ends as the registry's.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::callers::CALLERS;
use crate::farm::{DOORS, Farm};
use crate::network::Process;

/// A subscriber hears something at least this often, or connects anew.
const SILENCE: Duration = Duration::from_secs(35);

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
pub(crate) async fn follow(farm: Arc<Farm>, mut random: fastrand::Rng) {
    let client = Process::on(CALLERS);
    loop {
        let door = DOORS[random.usize(..DOORS.len())];
        // An error only means that it connects anew.
        connected(&farm, &client, door).await;
        sleep(Duration::from_millis(random.u64(100..3000))).await;
    }
}

async fn connected(farm: &Arc<Farm>, client: &Process, door: &'static str) -> Option<()> {
    let opening = async {
        let stream = farm.network.connect(client, door, &format!("{door}:8080")).await.ok()?;
        Some(client_async("ws://localhost/v1/live", stream).await.ok()?.0)
    };
    let mut socket = timeout(SILENCE, opening).await.ok()??;
    let since = farm.view.state().last;
    let mut subscribe = json!({ "type": "subscribe", "topic": "spawns" });
    if let Some(since) = since {
        subscribe["since"] = since.into();
    }
    socket.send(Message::text(subscribe.to_string())).await.ok()?;
    loop {
        let message = timeout(SILENCE, socket.next()).await.ok()??.ok()?;
        let Message::Text(text) = message else { continue };
        take_in(farm, &serde_json::from_str(&text).ok()?);
    }
}

fn take_in(farm: &Arc<Farm>, message: &Value) {
    let kind = message["type"].as_str().unwrap_or_default();
    if kind != "subscribed" && kind != "event" {
        return;
    }
    let seq = message["seq"].as_u64().unwrap_or_default();
    let mut state = farm.view.state();
    if kind == "subscribed" {
        if let Value::Array(spawns) = &message["snapshot"] {
            let ids = spawns.iter().filter_map(|spawn| spawn["id"].as_str().map(str::to_owned));
            state.living = ids.collect();
            state.last = Some(seq);
        }
        let (count, has_snapshot) = (state.living.len(), message["snapshot"].is_array());
        drop(state);
        farm.steps
            .note(format_args!("subscriber begins at {seq} with {count} spawns, snapshot {has_snapshot}"));
        return;
    }
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
    drop(state);
    if seq <= last {
        farm.steps.violate(&format!("a subscriber gets event {seq} after {last}"));
    }
    if let Some(missed) = farm.events.between(true, last, seq) {
        farm.steps.violate(&format!("a subscriber gets event {seq} after {last}, and {missed} is missing"));
    }
}
