//! The end of an agent, in this order:
//!
//! 1. Admission is closed: new spawns are refused, health says `NOT_SERVING`.
//! 2. What runs is dealt with. `adopt`: starts under way get a moment to answer their callers, the others go on alone.
//!    `drain`: the last one is waited for, until the deadline of the operator's drain or as long as any drain lasts;
//!    then, or hurried, the rest is ended. `kill`: TERM, grace, KILL; hurried, KILL.
//! 3. The tasks that own spawns end.
//! 4. The last changes are reported to the registry.
//! 5. The servers stop, and the state directory is the next agent's.
//!
//! Each step is bounded, and the log says who was late.

use std::time::Duration;

use model::timing;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use wire::v1::node_agent_server::NodeAgentServer;

use crate::config::OnShutdown;
use crate::grpc::Service;
use crate::life::Agent;
use crate::node::Node;
use crate::spawn::exit::Cause;
use crate::table::pool::WarmEnd;
use crate::table::{AdmissionMode, Again, Table};
use crate::task::Task;

/// With `adopt`, how long starts under way may take to answer their callers.
const LAST_STARTS: Duration = Duration::from_secs(5);
/// With `adopt`, how long warm servers may take to end that are being ended.
const LAST_WARM: Duration = Duration::from_secs(2);
/// Beyond the grace of TERM: KILL cannot be refused, but a machine may be slow.
const AFTER_KILL: Duration = Duration::from_secs(5);
/// How long the registry may take to hear the last changes.
const LAST_REPORT: Duration = Duration::from_secs(2);
/// How long the disk may take for the last records.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// How long servers may take to finish their last answers.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

impl Agent {
    /// Ends the agent. `hurry` cuts the wait for spawns short: `adopt` gives up on starts under way, `drain` goes on as
    /// `kill`, and `kill` does without the grace.
    pub async fn shutdown(self, on: OnShutdown, hurry: CancellationToken) {
        let Self { node, health, relay, servers, .. } = self;
        tracing::info!(%on, running = node.table().running(), "agent shutting down");
        let taken = node.table().admission_mode() == AdmissionMode::Taken;
        node.table().set_admission_mode(match on {
            OnShutdown::Drain => AdmissionMode::Emptying,
            OnShutdown::Adopt | OnShutdown::Kill => AdmissionMode::ShuttingDown,
        });
        node.starts.turn_away();
        health.set_not_serving::<NodeAgentServer<Service>>().await;

        match on {
            OnShutdown::Adopt => {
                // Those that are being ended already do not wait for the next agent.
                let settled = |table: &Table| table.ending_warm() == 0;
                wait_until(&node, &hurry, LAST_WARM, settled).await;
                // What an agent adopted that never had the node has no callers here.
                if !taken {
                    finish_starts(&node, &hurry).await;
                }
                node.leaving.cancel();
            }
            OnShutdown::Drain => {
                node.table().end_all_warm(WarmEnd::Closed);
                let deadline = node.table().desired().drain.as_ref().map(|drain| drain.deadline);
                let within = deadline
                    .map_or(timing::DRAIN_DEADLINE, |at| at.saturating_duration_since(Instant::now()));
                wait_until(&node, &hurry, within, |table| table.running() == 0).await;
                end_all(&node, &CancellationToken::new()).await;
            }
            OnShutdown::Kill => end_all(&node, &hurry).await,
        }

        node.drivers.close();
        if tokio::time::timeout(AFTER_KILL, node.drivers.wait()).await.is_err() {
            tracing::warn!(late = node.drivers.len(), "spawns were late, they are left to the next agent");
        }
        node.leftovers.finish().await;
        // Calls that stand for viewers end, and do not keep the server from stopping.
        node.leaving.cancel();
        stop(relay, LAST_REPORT).await;
        let unsent = node.table().backlog_len();
        if unsent > 0 {
            tracing::warn!(unsent, "the registry has not acknowledged the last changes");
        }
        let deadline = Instant::now() + LAST_ANSWERS;
        for task in &servers {
            task.stop.cancel();
        }
        for task in servers {
            stop(task, deadline.saturating_duration_since(Instant::now())).await;
        }
        // The next agent reads what is written; nothing may be written after it has begun.
        if !node.state.journal.written(node.state.journal.last(), LAST_WRITE).await {
            tracing::warn!(
                "the last records of spawns are not written, the next agent will know less of them"
            );
        }
        node.state.release();
        tracing::info!("agent ended");
    }
}

/// Callers that wait get their answers; spawns that take too long for that are ended, because no caller would learn of them.
async fn finish_starts(node: &Node, hurry: &CancellationToken) {
    wait_until(node, hurry, LAST_STARTS, |table| table.launching() == 0).await;
    let late = node.table().launching();
    if late > 0 {
        tracing::warn!(late, "spawns were not ready in time for the agent's end");
        node.table().end_launching(Instant::now());
        let grace = node.config.stop_grace + AFTER_KILL;
        wait_until(node, &CancellationToken::new(), grace, |table| table.ending() == 0).await;
    }
}

async fn end_all(node: &Node, hurry: &CancellationToken) {
    node.table().end_all_warm(WarmEnd::Closed);
    node.table().end_all(Cause::Drained, Again::ChangesNothing, Instant::now());
    let grace = node.config.stop_grace + AFTER_KILL;
    wait_until(node, hurry, grace, |table| table.running() == 0 && table.warm_servers() == 0).await;
    if hurry.is_cancelled() {
        node.table().end_all(Cause::Drained, Again::Hurries, Instant::now());
        wait_until(node, &CancellationToken::new(), AFTER_KILL, |table| table.running() == 0).await;
    }
}

/// Waits until `done`, until `hurry` is cancelled, or for `within`.
async fn wait_until(node: &Node, hurry: &CancellationToken, within: Duration, done: impl Fn(&Table) -> bool) {
    let settle = node.table().settled();
    let settled = async {
        loop {
            let settling = settle.notified();
            if done(&node.table()) {
                return;
            }
            settling.await;
        }
    };
    tokio::select! {
        biased;
        () = settled => {}
        () = hurry.cancelled() => {}
        () = tokio::time::sleep(within) => {}
    }
}

/// Asks a task to stop, and stops it when it does not.
async fn stop(task: Task, within: Duration) {
    let Task { name, stop, mut handle } = task;
    stop.cancel();
    if tokio::time::timeout(within, &mut handle).await.is_err() {
        tracing::warn!(name, "a task was late and was cut off");
        handle.abort();
    }
}
