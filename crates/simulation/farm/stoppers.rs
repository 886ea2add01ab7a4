//! Those who end what others have asked for: they learn of a spawn while it starts, and have it stopped.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{sleep, timeout};

use crate::callers::{CALLERS, TIMEOUT};
use crate::farm::{DOORS, Farm};
use crate::http::request;
use crate::network::Process;

/// Has one of `of` spawns stopped that start.
pub(crate) async fn stop_some(farm: Arc<Farm>, mut random: fastrand::Rng, of: u32) {
    let mut starts = farm.events.starts();
    loop {
        let id = match starts.recv().await {
            Ok(id) => id,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        if random.u32(..of) > 0 {
            continue;
        }
        let (farm, after) = (Arc::clone(&farm), Duration::from_millis(random.u64(..250)));
        let door = DOORS[random.usize(..DOORS.len())];
        tokio::spawn(async move {
            sleep(after).await;
            let id = id.to_string();
            farm.promises.is_unwanted(&id);
            farm.steps.note(format_args!("a stranger stops {id} through {door}"));
            let (client, path) = (Process::on(CALLERS), format!("/v1/spawns/{id}"));
            let call = request((&farm.network, &client), door, ("DELETE", &path), None, &Value::Null);
            if let Ok(Some(answer)) = timeout(TIMEOUT, call).await
                && answer.status == 500
            {
                farm.steps.violate(&format!("a stop got an internal error: {}", answer.body));
            }
        });
    }
}
