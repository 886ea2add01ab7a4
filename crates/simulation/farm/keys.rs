//! One idempotency key is worked on once: while nothing goes wrong, no two spawns of a key are on their way at the same time, through whichever
//! front doors its callers come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::{NodeId, SpawnId, SpawnState};
use tokio::time::{Instant, sleep};

use crate::farm::{Farm, NODES};

/// The tag that names the key in its spawns.
pub(crate) const KEY: &str = "key";
/// The registry is looked at this often.
const EVERY: Duration = Duration::from_millis(200);
/// The spawn of a caller that left is ended within this time, while that of the next caller starts.
const HANDED_OVER: Duration = Duration::from_millis(600);
/// What went wrong has no consequences any more after this time.
const CALM: Duration = Duration::from_secs(8);

/// Looks for as long as the farm lasts.
pub(crate) async fn watch(farm: Arc<Farm>) {
    let nodes: Vec<NodeId> = NODES.iter().filter_map(|host| host.parse().ok()).collect();
    let mut twice: BTreeMap<String, Instant> = BTreeMap::new();
    loop {
        sleep(EVERY).await;
        if farm.promises.has_lost_keys() {
            return;
        }
        if farm.trouble.all_calm_for() < CALM {
            twice.clear();
            continue;
        }
        let living = farm.registry.living(&nodes).await.unwrap_or_default();
        let mut spawns: BTreeMap<&str, Vec<SpawnId>> = BTreeMap::new();
        for spawn in &living {
            if let Some(key) = spawn.tags.get(KEY)
                && matches!(spawn.state, SpawnState::Launching | SpawnState::Ready)
            {
                spawns.entry(key).or_default().push(spawn.id);
            }
        }
        spawns.retain(|_, of_one| of_one.len() > 1);
        twice.retain(|key, _| spawns.contains_key(key.as_str()));
        for (key, of_one) in spawns {
            let since = *twice.entry(key.to_owned()).or_insert_with(Instant::now);
            if since.elapsed() >= HANDED_OVER {
                farm.steps.violate(&format!("key {key} has {of_one:?} at the same time"));
                return;
            }
        }
    }
}
