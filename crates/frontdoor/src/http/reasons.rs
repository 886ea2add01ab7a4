//! All nodes assessed, for `POST /v1/explain` and for the reasons that refusals of `POST /spawn` carry.
//!
//! Invariant: all nodes are assessed once for all callers that ask at the same time, refused ones included, with a pause between two
//! assessments. So refusals cost the registry the same however many there are. A farm of more than [`MAX_READ`] nodes is not read for
//! refusals at all: their reasons are those of the snapshot, which is about a second old.
//!
//! Failure: while the registry is away, or slow, the front door's snapshot says what it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use model::api::ExplanationSource;
use registry::RegistryError;
use tokio::time::timeout;

use super::edge::Edge;
use super::error::ApiError;
use crate::spawning::assessed::Assessed;
use crate::spawning::error::Rejection;
use crate::spawning::order::SpawnOrder;

/// The registry reads no more nodes for refusals: 10 000 kept Redis busy for 0.2 s on two busy cores.
const MAX_READ: usize = 1000;
/// A refusal waits no longer for its reasons; then they are those of the snapshot.
const REASONS_TIMEOUT: Duration = Duration::from_millis(500);

/// All nodes, assessed after this was called; by the snapshot where the registry cannot be asked.
pub(super) async fn assessed(edge: &Edge) -> Result<Arc<Assessed>, ApiError> {
    let read = async {
        let (nodes, source) = match edge.registry.assess().await {
            Ok(nodes) => (nodes, ExplanationSource::Registry),
            Err(RegistryError::Away(outage)) => match edge.snapshot.assess() {
                Some(nodes) => (nodes, ExplanationSource::Snapshot),
                None => return Err(RegistryError::Away(outage)),
            },
            Err(error) => return Err(error),
        };
        Ok(Arc::new(Assessed::new(nodes, source)))
    };
    Ok(edge.answers.assessed.get(read).await?)
}

/// How many nodes could not take the spawn, by reason, where that is what the caller is refused for. `None` where nothing is known.
pub(super) async fn reasons(
    edge: &Edge,
    order: &SpawnOrder,
    rejection: &Rejection,
) -> Option<BTreeMap<String, u32>> {
    if !rejection.error.is_shortage() {
        return None;
    }
    let read = match edge.snapshot.len() {
        0..=MAX_READ => timeout(REASONS_TIMEOUT, assessed(edge)).await.ok().and_then(Result::ok),
        _ => None,
    };
    let assessed = match read {
        Some(read) => Some(read),
        None => edge.answers.remembered.get(remembered(edge)).await,
    };
    assessed.map(|assessed| assessed.reasons(&order.demand, &rejection.passed_over))
}

/// All nodes as the snapshot has them.
async fn remembered(edge: &Edge) -> Option<Arc<Assessed>> {
    let nodes = edge.snapshot.assess()?;
    Some(Arc::new(Assessed::new(nodes, ExplanationSource::Snapshot)))
}
