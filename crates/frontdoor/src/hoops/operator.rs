//! `/api/status` and its kin: what an operator of the vendor's server looks at, without paths, addresses and secrets.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use model::{SpawnId, SpawnState, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};

use super::answer;
use super::parts::Hoops;
use crate::registry_access::snapshot::FarmCapacity;
use crate::settings::{HoopsEndpoint, Origins};

/// Most spawns in one list.
const MAX_LISTED: usize = 10_000;

/// Members in the vendor's order.
#[derive(Debug, Serialize)]
struct Status {
    timestamp: Timestamp,
    status: &'static str,
    config: Value,
    memory: Memory,
    #[serde(rename = "usedSpawnPorts")]
    used: usize,
    #[serde(rename = "availableSpawnPorts")]
    available: usize,
    #[serde(rename = "gpuAllocation", skip_serializing_if = "Option::is_none")]
    gpus: Option<BTreeMap<u32, usize>>,
    #[serde(flatten)]
    counters: Counters,
}

#[derive(Debug, Serialize)]
struct Memory {
    rss: String,
}

/// Spawns by the vendor's states.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct Counters {
    launching: usize,
    ready: usize,
    suspect: usize,
    disconnected: usize,
    nice_killed: usize,
    killed: usize,
    zombie: usize,
    dead: usize,
}

/// The vendor's word for a state.
fn word(state: SpawnState) -> &'static str {
    match state {
        SpawnState::Launching => "launching",
        SpawnState::Ready => "ready",
        SpawnState::Suspect => "suspect",
        SpawnState::Disconnected => "disconnected",
        SpawnState::Stopping => "nice-killed",
        SpawnState::Lost => "zombie",
        SpawnState::Exited => "dead",
    }
}

/// `GET /api/status`.
pub(super) async fn status(hoops: &Hoops, query: Option<&str>) -> Response {
    hoops.spawns.catch_up().await;
    let farm = hoops.edge.snapshot.capacity();
    let max = match hoops.limits() {
        Some(limits) => limits.concurrent.map(|max| usize::try_from(max.get()).unwrap_or(usize::MAX)),
        None => Some(0),
    };
    let (used, gpus, counters) = {
        let index = hoops.spawns.now();
        let counts = index.counts();
        let count = |state| counts.get(&state).copied().unwrap_or_default();
        let counters = Counters {
            launching: count(SpawnState::Launching),
            ready: count(SpawnState::Ready),
            suspect: count(SpawnState::Suspect),
            disconnected: count(SpawnState::Disconnected),
            nice_killed: count(SpawnState::Stopping),
            killed: 0,
            zombie: count(SpawnState::Lost),
            dead: 0,
        };
        (index.len(), (farm.gpus > 0).then(|| index.gpus()), counters)
    };
    let available = max.map_or(farm.free, |max| farm.free.min(max.saturating_sub(used)));
    let status = Status {
        timestamp: Timestamp::now(),
        status: "ok",
        config: config(hoops, max, farm),
        memory: Memory { rss: megabytes(machine::memory::resident()) },
        used,
        available,
        gpus,
        counters,
    };
    answer::readable(StatusCode::OK, &status, query)
}

/// As much of the vendor's settings as there is here; no path, and no secret.
fn config(hoops: &Hoops, max: Option<usize>, farm: FarmCapacity) -> Value {
    let (config, settings) = (&hoops.edge.config, &hoops.settings);
    let port = hoops.listener.port();
    let origin = if settings.origins == Origins::Any { "*" } else { "as --cors-origin says" };
    let files = settings.files.as_ref().map(|_| port);
    json!({
        "spawnServerPort": port,
        "spawnMaxSpawnCount": max.unwrap_or(farm.slots),
        "csrEnabled": farm.csr,
        "ssrEnabled": farm.ssr,
        "spawnServerAccessControlAllowOriginHeader": origin,
        "sslEnableSpawnServer": config.tls.http.is_some(),
        "sslEnableScServer": settings.endpoint == HoopsEndpoint::Relay
            && super::endpoint::is_secure(&hoops.forms.answered),
        "fileServerPort": files,
        "fileServerProxyViewerConnections": files.is_some(),
        "license": "<hidden>",
        "hatchery": {
            "version": env!("CARGO_PKG_VERSION"),
            "endpoint": settings.endpoint.as_str(),
        },
    })
}

fn megabytes(bytes: Option<u64>) -> String {
    let thousandths = bytes.unwrap_or_default() * 1000 / (1 << 20);
    format!("{}.{:03} MB", thousandths / 1000, thousandths % 1000)
}

/// `GET /api/spawns`: the newest, at most [`MAX_LISTED`].
pub(super) async fn spawns(hoops: &Hoops, query: Option<&str>) -> Response {
    hoops.spawns.catch_up().await;
    let newest = hoops.spawns.now().newest(MAX_LISTED);
    let heard = hoops.spawns.heard().await;
    let listed = newest.into_iter().map(|(id, known)| {
        let node = heard.get(&known.node);
        let updated = node.and_then(|heard| heard.last_ping(id, known.state, Some(known.updated)));
        let updated = updated.unwrap_or(known.updated);
        json!({ "id": id, "state": word(known.state), "spawnTime": known.started, "lastUpdateTime": updated })
    });
    let body = json!({ "timestamp": Timestamp::now(), "spawns": listed.collect::<Vec<_>>() });
    answer::readable(StatusCode::OK, &body, query)
}

/// `GET /api/help`.
pub(super) fn help(hoops: &Hoops, query: Option<&str>) -> Response {
    let scheme = if hoops.edge.config.tls.http.is_some() { "https" } else { "http" };
    let command = |name: &str, method: &str, description: &str| {
        let post = if method == "POST" { "-X POST " } else { "" };
        let port = hoops.listener.port();
        // The colon in the first name is the vendor's.
        json!({
            "description:": description,
            "endpoint": format!("api/{name}"),
            "http-command": method,
            "curl": format!("curl {post}{scheme}://localhost:{port}/api/{name}"),
        })
    };
    let body = json!({
        "status": "ok",
        "rest-commands": {
            "help": command("help", "GET", "Lists the commands"),
            "shutdown": command("shutdown", "POST", "Refused here: a farm is not ended by its callers"),
            "status": command("status", "GET", "State of the server, and how many spawns are in which state"),
            "spawns": command("spawns", "GET", "The spawns, with their states and times"),
            "gc": command("gc", "POST", "Refused here: no garbage is collected"),
        },
    });
    answer::readable(StatusCode::OK, &body, query)
}

/// `POST /api/gc`.
pub(super) fn gc(query: Option<&str>) -> Response {
    refused("Manual GC is not enabled", query)
}

/// `POST /api/shutdown`.
pub(super) fn shutdown(query: Option<&str>) -> Response {
    refused("Shutdown is not enabled: the farm's operator ends its processes, and no caller", query)
}

fn refused(reason: &str, query: Option<&str>) -> Response {
    answer::readable(StatusCode::FORBIDDEN, &answer::failure(reason), query)
}

/// `POST /api/spawns/:id?liveliness=`. Servers report to the agents that started them. What anybody else reports changes nothing.
pub(super) async fn report(hoops: &Hoops, id: &str, query: Option<&str>) -> Response {
    hoops.spawns.catch_up().await;
    let wrong = |reason: &str| {
        answer::json(StatusCode::INTERNAL_SERVER_ERROR, &json!({"result": "error", "reason": reason}))
    };
    let known = id.parse::<SpawnId>().is_ok_and(|id| hoops.spawns.now().has(id));
    if !known {
        return wrong("Reported spawn doesn't exist");
    }
    let value = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("liveliness="));
    if matches!(value, Some("ready" | "ping" | "disconnect")) {
        return StatusCode::OK.into_response();
    }
    wrong("Invalid liveliness settings")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_written_as_the_vendor_writes_it() {
        assert_eq!(megabytes(Some(12_945_000)), "12.345 MB");
        assert_eq!(megabytes(Some(1 << 20)), "1.000 MB");
        assert_eq!(megabytes(None), "0.000 MB");
    }
}
