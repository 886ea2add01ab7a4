//! The task of one spawn: its start, and then its driver.
//!
//! A start waits for its turn first ([`crate::start_gate`]), and holds its permit until it is ready or has ended. What must not start any more
//! when its turn comes, or whose callers have left before, is refused: nothing was started.
//!
//! A start ends in one of three ways, and exactly one of them answers the callers: the process was published and has a driver; nothing was
//! started, and [`Hold`] has given everything back; or the start was given up because a disk hangs. In the last case slot, port and GPU stay
//! taken until the disk answers, and a process that comes about after all is ended ([`super::hold::StartedProcess`]).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use model::SpawnId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use traces::Span;

use super::driver::Driver;
use super::hold::{self, Hold};
use super::start::{START_TIMEOUT, StartRequest, start_within, take_over};
use crate::node::Node;
use crate::spawn::body::Body;
use crate::spawn::{Refusal, RefusalKind, SpawnOutcome};
use crate::start_gate::{StartPermit, Turn};
use crate::table::Liveliness;
use crate::table::claim::Miss;
use crate::table::entrance::{Admitted, Source};

/// How long a spawn waits for its first record to be written before others learn of it.
const RECORD_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a warm server may take to end that makes room: longer than the grace that its keeper gives it.
const ROOM: Duration = Duration::from_secs(5);

/// Starts the process of an admitted spawn once its turn has come, and owns it until its end. It has until then to be ready. Runs as a
/// task of its own, so that a caller that goes away leaves nothing half done. `part` is the start's part of the trace.
pub(crate) async fn run(
    node: Arc<Node>,
    mut admitted: Admitted,
    (order, part): (StartRequest, Option<Span>),
    until: Instant,
) {
    let (id, answer) = (admitted.facts.id, admitted.answer.clone());
    let notify = Arc::clone(&admitted.notify);
    let source = std::mem::take(&mut admitted.source);
    let mut hold = Hold::new(Arc::clone(&node), admitted);
    let after = match source {
        Source::Start { after } => after,
        // Its keeper hands it over or is gone with it. A wait that was given up could leave two processes at one port.
        Source::Warm(handed) => match handed.await {
            Ok(body) => return claim(node, hold, body, (order, part), (id, answer, until)).await,
            // It has ended in this moment.
            Err(_) => {
                node.metrics.warm_missed(Miss::Died);
                hold.start_cold();
                None
            }
        },
    };
    let permit = match wait_for_turn(&node, id, &notify, after).await {
        Ok(permit) => permit,
        Err(refusal) => {
            refused(&node, part, &refusal);
            return hold.refuse(refusal);
        }
    };
    let began = Instant::now();
    let left = until.saturating_duration_since(began);
    let ready_by = began + left.min(node.config.ready_timeout);
    // The caller's own time is over at `until`; a start that hangs is refused before.
    let within = left.mul_f64(0.9).min(START_TIMEOUT);
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
                return Driver::new(node, admitted, body, order, (began, ready_by), Some(permit)).run().await;
            }
            RefusalKind::CannotStart.because("its start was given up, because it took too long")
        }
        Err(refusal) => refusal,
    };
    // What a start that hangs holds stays taken until the disk answers.
    node.table().give_up_start(id);
    refused(&node, part, &refusal);
    hold::refuse(&answer, refusal);
}

/// Waits until it may start. An error: it must not start any more, and nothing was started.
async fn wait_for_turn(
    node: &Node,
    id: SpawnId,
    notify: &Notify,
    after: Option<CancellationToken>,
) -> Result<StartPermit, Refusal> {
    // A warm server makes room: with it there would be more processes than slots.
    if let Some(after) = after
        && timeout(ROOM, after.cancelled()).await.is_err()
    {
        return Err(RefusalKind::Full.because("a warm server does not end that has its slot"));
    }
    let mut turn = pin!(node.starts.enter(Turn::Spawn));
    loop {
        tokio::select! {
            biased;
            permit = &mut turn => match permit {
                Some(permit) => {
                    node.table().begin_start(id)?;
                    return Ok(permit);
                }
                // What turned it away may be over.
                None => {
                    node.table().may_start(id)?;
                    turn.set(node.starts.enter(Turn::Spawn));
                }
            },
            // Its end may be wanted.
            () = notify.notified() => {
                if let Some(refusal) = node.table().unwanted(id) {
                    return Err(refusal);
                }
            }
            () = node.leaving.cancelled() => {
                return Err(RefusalKind::ShuttingDown.because("the agent is going away"));
            }
        }
    }
}

/// Gives a spawn the warm server that its keeper has handed over. The server is ended if anything fails: no caller has heard of it, and it is
/// no pool's any more.
async fn claim(
    node: Arc<Node>,
    hold: Hold,
    body: Body,
    (order, part): (StartRequest, Option<Span>),
    (id, answer, until): (SpawnId, watch::Sender<Option<SpawnOutcome>>, Instant),
) {
    let began = Instant::now();
    let ready_by = began + until.saturating_duration_since(began).min(node.config.ready_timeout);
    let within = until.saturating_duration_since(began).mul_f64(0.9).min(START_TIMEOUT);
    let may_start = node.table().begin_start(id);
    let result = match take_over(&node, hold, &order, body, (within, ready_by)).await {
        Ok((taken, line)) => match may_start {
            // An agent that did not know of the claim would give the server to another spawn.
            Ok(()) if !node.state.journal.written(line, RECORD_TIMEOUT).await => {
                Err(RefusalKind::CannotStart.because("the claim of a warm server cannot be written down"))
            }
            Ok(()) if node.state.journal.trouble().is_some() => {
                Err(RefusalKind::CannotStart.because("the claim of a warm server cannot be written down"))
            }
            Ok(()) => taken.launched(Instant::now()).ok_or_else(|| {
                RefusalKind::CannotStart.because("its start was given up, because it took too long")
            }),
            Err(refusal) => Err(refusal),
        },
        Err(refusal) => Err(refusal),
    };
    match result {
        Ok((body, admitted)) => {
            if let Some(part) = part {
                part.end();
            }
            node.metrics.warm_claimed.inc();
            node.table().heard(id, Liveliness::Ready, Instant::now());
            Driver::new(node, admitted, body, order, (began, ready_by), None).run().await;
        }
        Err(refusal) => {
            node.table().give_up_start(id);
            refused(&node, part, &refusal);
            hold::refuse(&answer, refusal);
        }
    }
}

fn refused(node: &Node, part: Option<Span>, refusal: &Refusal) {
    node.metrics.refused(refusal.kind);
    if let Some(part) = part {
        part.end_failed(refusal.kind.as_str(), &refusal.detail);
    }
    tracing::warn!(reason = refusal.kind.as_str(), detail = refusal.detail, "spawn refused");
}
