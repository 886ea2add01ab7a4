//! The task of one spawn: its start, and then its driver.
//!
//! A start ends in one of three ways, and exactly one of them answers the callers: the process was published and has a driver; nothing was
//! started, and [`Hold`] has given everything back; or the start was given up because a disk hangs. In the last case slot, port and GPU stay
//! taken until the disk answers, and a process that comes about after all is ended ([`super::hold::StartedProcess`]).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use traces::Span;

use super::RefusalKind;
use super::body::Body;
use super::driver::Driver;
use super::hold::{self, Hold};
use super::start::{Order, start_within};
use crate::node::Node;
use crate::table::Liveliness;
use crate::table::entrance::Admitted;

/// How long a spawn waits for its first record to be written before others learn of it.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// Starts the process of an admitted spawn within this time, and owns it until its end. Runs as a task of its own, so that a
/// caller that goes away leaves nothing half done. `part` is the start's part of the trace.
pub(crate) async fn run(
    node: Arc<Node>,
    admitted: Admitted,
    (order, part): (Order, Option<Span>),
    within: Duration,
    ready_by: Instant,
) {
    let (id, answer) = (admitted.facts.id, admitted.answer.clone());
    let hold = Hold::new(Arc::clone(&node), admitted);
    let refusal = match start_within(&node, hold, &order, within, ready_by).await {
        Ok((started, line)) => {
            if let Some(line) = line
                && !node.state.journal.written(line, RECORD_TIMEOUT).await
            {
                tracing::warn!(
                    "the record of a spawn is not written yet, the next agent may know less of it"
                );
            }
            let now = Instant::now();
            if let Some((body, admitted)) = started.launched(now) {
                if let Some(part) = part {
                    part.end();
                }
                node.metrics.started.inc();
                if let Body::Nothing { .. } = body {
                    node.table().heard(id, Liveliness::Ready, now);
                }
                let (port, gpu, renderer) =
                    (admitted.facts.port, admitted.facts.gpu, admitted.facts.renderer);
                tracing::debug!(port, gpu, %renderer, "spawn started");
                return Driver::new(node, admitted, body, order, ready_by).run().await;
            }
            RefusalKind::CannotStart.because("its start was given up, because it took too long")
        }
        Err(refusal) => refusal,
    };
    // What a start that hangs holds stays taken until the disk answers.
    node.table().give_up_start(id);
    node.metrics.refused(refusal.kind);
    if let Some(part) = part {
        part.end_failed(refusal.kind.as_str(), &refusal.detail);
    }
    tracing::warn!(reason = refusal.kind.as_str(), detail = refusal.detail, "spawn refused");
    hold::refuse(&answer, refusal);
}
