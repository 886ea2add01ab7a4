//! The attempts of one request, as plain data: what each came to, whether another node is worth a try, what the caller is
//! answered, and what the outcomes say of the nodes.
//!
//! Invariants: an attempt that started a process, or may have, costs one of [`MAX_STARTED`]; a refusal or an agent that
//! cannot be reached costs none. A node has one entry: a later attempt there replaces the one before.

use model::api::{self, ErrorCode};
use model::{Demand, Exit, ExitReason, NodeId, SpawnId, StartFailure, vendor};
use registry::{Outcome, Outcomes, SameEverywhere, Standing};
use wire::v1::refused::Reason;

use super::error::SpawnError;
use crate::agent_client::{Ended, outward, word};

/// Nodes on which one request may start a process.
pub(crate) const MAX_STARTED: usize = 3;
/// Nodes that one request may ask, those included that refuse or cannot be reached.
pub(crate) const MAX_NODES: usize = 64;

/// Exit codes that the vendor documents, see [`vendor::exit_text`].
const INVALID_COMMAND_LINE: i32 = 2;
const LICENSE: [i32; 2] = [6, 7];

/// Why a node gave no spawn.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum AttemptFailure {
    /// The process ended before it was ready.
    Ended(Ended),
    /// The agent started nothing.
    Refused { reason: Reason, detail: String },
    /// The request did not reach the agent.
    Unreachable { why: String },
    /// The agent's answer is missing. The process may have been started; it was given up.
    Unanswered { why: String, deadline: bool },
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another node may do better.
    Another,
    /// The failure is the answer.
    Answer,
}

/// How a failure is recognized on another node.
#[derive(Debug, PartialEq, Eq)]
enum Signature {
    NotReady,
    Ended { code: Option<i32>, signal: Option<String>, reason: String },
    Refused(Reason),
}

impl AttemptFailure {
    /// For programs, see [`api::Attempt`].
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Ended(ended) if !is_ready_timeout(&ended.exit) => ErrorCode::SpawnFailed.as_str(),
            Self::Ended(_) | Self::Unanswered { deadline: true, .. } => ErrorCode::ReadyTimeout.as_str(),
            Self::Refused { reason: Reason::StartsBusy, .. } => ErrorCode::ReadyTimeout.as_str(),
            Self::Refused { .. } => "refused",
            Self::Unreachable { .. } | Self::Unanswered { .. } => ErrorCode::NodeUnreachable.as_str(),
        }
    }

    /// For callers: without what only the log may contain.
    fn outward(&self) -> String {
        match self {
            Self::Unreachable { why } => format!("the agent could not be reached: {}", outward(why)),
            Self::Unanswered { why, deadline: false } => {
                format!("the agent's answer is missing: {}", outward(why))
            }
            _ => self.reason(),
        }
    }

    /// For operators.
    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Ended(ended) if is_ready_timeout(&ended.exit) => "not ready in time".to_owned(),
            Self::Ended(ended) => explain(&ended.exit),
            Self::Refused { reason, detail } if detail.is_empty() => word(*reason).to_owned(),
            Self::Refused { reason, detail } => format!("{}: {detail}", word(*reason)),
            Self::Unreachable { why } => format!("the agent could not be reached: {why}"),
            Self::Unanswered { deadline: true, .. } => "not ready in time".to_owned(),
            Self::Unanswered { why, .. } => format!("the agent's answer is missing: {why}"),
        }
    }

    /// Whether a process was started, or may have been.
    pub(crate) fn is_start(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Unanswered { .. })
    }

    /// Whether a process is known to have failed, and not only its agent's answer to be missing.
    fn is_known(&self) -> bool {
        matches!(self, Self::Ended(_) | Self::Unanswered { deadline: true, .. })
    }

    /// The request itself is at fault: no node would do better, and none is to blame.
    fn is_own_fault(&self) -> bool {
        match self {
            Self::Refused { reason, .. } => *reason == Reason::BadModel,
            Self::Ended(Ended { exit, .. }) => {
                exit.reason == ExitReason::Failed && exit.code == Some(INVALID_COMMAND_LINE)
            }
            Self::Unreachable { .. } | Self::Unanswered { .. } => false,
        }
    }

    /// The spawn was ended on purpose.
    fn is_ordered(&self) -> bool {
        let Self::Ended(ended) = self else { return false };
        matches!(ended.exit.reason, ExitReason::Stopped | ExitReason::Cancelled | ExitReason::Drained)
    }

    /// The server ended after it was ready: the registry counts it against the node when its agent reports it.
    fn is_early_end(&self) -> bool {
        matches!(self, Self::Ended(Ended { exit, was_ready: true, .. }) if exit.reason.is_failure())
    }

    fn next(&self) -> Next {
        if self.is_own_fault() || self.is_ordered() { Next::Answer } else { Next::Another }
    }

    /// What it says of the node, if anything.
    fn blame(&self) -> Option<StartFailure> {
        if self.is_own_fault() || self.is_ordered() || self.is_early_end() {
            return None;
        }
        let (conclusive, whole_node) = match self {
            Self::Ended(ended) if is_ready_timeout(&ended.exit) => (true, false),
            Self::Ended(ended) => (false, ended.exit.code.is_some_and(|code| LICENSE.contains(&code))),
            Self::Unanswered { deadline: true, .. } => (true, false),
            // A file that is missing or a share that hangs is not an accident of one start.
            Self::Refused { reason: Reason::CannotStart, .. } => (true, true),
            Self::Refused { reason: Reason::LowMemory | Reason::NoPort, .. } => (false, true),
            Self::Refused { .. } | Self::Unreachable { .. } | Self::Unanswered { .. } => return None,
        };
        Some(StartFailure { reason: self.reason(), conclusive, whole_node })
    }

    fn signature(&self) -> Option<Signature> {
        match self {
            Self::Ended(ended) if is_ready_timeout(&ended.exit) => Some(Signature::NotReady),
            Self::Ended(Ended { exit, .. }) => {
                let reason = if exit.code.is_some() { String::new() } else { explain(exit) };
                Some(Signature::Ended { code: exit.code, signal: exit.signal.clone(), reason })
            }
            Self::Unanswered { deadline: true, .. } => Some(Signature::NotReady),
            Self::Refused { reason, .. } => Some(Signature::Refused(*reason)),
            Self::Unreachable { .. } | Self::Unanswered { .. } => None,
        }
    }
}

/// One node that gave no spawn.
#[derive(Debug, Clone)]
struct Attempt {
    node: NodeId,
    spawn: SpawnId,
    standing: Standing,
    failure: AttemptFailure,
    time: TimeGiven,
}

/// Whether the deadline left an attempt the time to be ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TimeGiven {
    /// It did.
    Enough,
    /// It did not: that the spawn was not ready says nothing of its node.
    TooLittle,
}

impl Attempt {
    fn blame(&self) -> Option<StartFailure> {
        self.failure.blame().filter(|failure| {
            !(failure.conclusive && self.time == TimeGiven::TooLittle && self.failure.is_start())
        })
    }
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Attempts {
    demand: Demand,
    failed: Vec<Attempt>,
    started: usize,
    /// The attempt that is under way: node, spawn, standing.
    current: Option<(NodeId, SpawnId, Standing)>,
    ready: Option<(NodeId, Standing)>,
}

impl Attempts {
    /// Of a request that wants this of a node.
    pub(crate) fn new(demand: Demand) -> Self {
        Self { demand, failed: Vec::new(), started: 0, current: None, ready: None }
    }

    pub(crate) fn begin(&mut self, node: NodeId, spawn: SpawnId, standing: Standing) {
        self.current = Some((node, spawn, standing));
    }

    pub(crate) fn ready(&mut self) {
        if let Some((node, _, standing)) = self.current.take() {
            self.failed.retain(|attempt| attempt.node != node);
            self.ready = Some((node, standing));
        }
    }

    /// The attempt that is under way has failed.
    pub(crate) fn fail(&mut self, failure: AttemptFailure, time: TimeGiven) -> Next {
        let Some((node, spawn, standing)) = self.current.take() else { return Next::Answer };
        let next = failure.next();
        self.started += usize::from(failure.is_start());
        self.failed.retain(|attempt| attempt.node != node);
        self.failed.push(Attempt { node, spawn, standing, failure, time });
        if self.started >= MAX_STARTED { Next::Answer } else { next }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.failed.is_empty()
    }

    /// Whether more nodes may be asked.
    pub(crate) fn may_go_on(&self) -> bool {
        self.started < MAX_STARTED && self.failed.len() < MAX_NODES
    }

    /// Whether a process has failed, a start waited too long for its turn, or every node that was asked cannot start one: then the failure is the answer
    /// unless another node can be had.
    pub(crate) fn has_answer(&self) -> bool {
        self.failed.iter().any(|attempt| attempt.failure.is_known())
            || self.waited().is_some()
            || self.cannot_start().is_some()
    }

    /// Its start waited for its turn until its time was over.
    fn waited(&self) -> Option<&Attempt> {
        let busy = |attempt: &&Attempt| {
            matches!(attempt.failure, AttemptFailure::Refused { reason: Reason::StartsBusy, .. })
        };
        self.failed.iter().rev().find(busy)
    }

    fn cannot_start(&self) -> Option<&Attempt> {
        let cannot = |attempt: &&Attempt| {
            matches!(attempt.failure, AttemptFailure::Refused { reason: Reason::CannotStart, .. })
        };
        self.failed.last().filter(|_| self.failed.iter().all(|attempt| cannot(&attempt)))
    }

    /// The answer when no other node is tried: the last failure of a process that was started, or the refusal that is final.
    /// `None`: what is short is the answer.
    pub(crate) fn answer(&self) -> Option<SpawnError> {
        let bad_model = self.failed.last().and_then(|attempt| match &attempt.failure {
            AttemptFailure::Refused { reason: Reason::BadModel, detail } => Some(detail.clone()),
            _ => None,
        });
        if let Some(why) = bad_model {
            return Some(SpawnError::BadModel { why });
        }
        if let Some(attempt) = self.failed.iter().rev().find(|attempt| attempt.failure.is_known()) {
            let Attempt { node, spawn, failure, .. } = attempt.clone();
            return Some(match failure {
                AttemptFailure::Ended(ended) if is_ready_timeout(&ended.exit) => {
                    SpawnError::NotReady { node, spawn, log: Some(ended.log) }
                }
                AttemptFailure::Ended(ended) => {
                    SpawnError::Failed { node, spawn, exit: Box::new(ended.exit), log: ended.log }
                }
                _ => SpawnError::NotReady { node, spawn, log: None },
            });
        }
        if let Some(Attempt { node, spawn, .. }) = self.waited().cloned() {
            return Some(SpawnError::NotReady { node, spawn, log: None });
        }
        let Attempt { node, spawn, failure, .. } = self.cannot_start()?.clone();
        let AttemptFailure::Refused { detail: why, .. } = failure else { return None };
        Some(SpawnError::CannotStart { node, spawn, why })
    }

    /// The last node that was tried, where none of them could be reached.
    pub(crate) fn unreached(&self) -> Option<&NodeId> {
        let last = self.failed.last()?;
        let unreached = |attempt: &Attempt| matches!(attempt.failure, AttemptFailure::Unreachable { .. });
        self.failed.iter().all(unreached).then_some(&last.node)
    }

    /// The last attempt in words.
    pub(crate) fn last(&self) -> Option<String> {
        let last = self.failed.last()?;
        Some(format!("{}: {}", last.node, last.failure.outward()))
    }

    /// Every node that gave no spawn, and why.
    pub(crate) fn failures(&self) -> impl Iterator<Item = (&NodeId, &AttemptFailure)> {
        self.failed.iter().map(|attempt| (&attempt.node, &attempt.failure))
    }

    /// For the answer.
    pub(crate) fn listed(&self) -> Vec<api::Attempt> {
        let listed = |attempt: &Attempt| api::Attempt {
            node: attempt.node.clone(),
            code: attempt.failure.code().to_owned(),
            reason: attempt.failure.outward(),
        };
        self.failed.iter().map(listed).collect()
    }

    /// What they say of the nodes; `None` when there is nothing to learn. An attempt that is still under way counts as one
    /// whose caller has left.
    pub(crate) fn outcomes(&self) -> Option<Outcomes> {
        let own_fault = self.failed.iter().any(|attempt| attempt.failure.is_own_fault());
        let common = self.common();
        let mut starts = Vec::new();
        for attempt in &self.failed {
            match attempt.blame().filter(|_| common.is_none() && !own_fault) {
                Some(failure) => starts.push((attempt.node.clone(), Outcome::Failed(failure))),
                None if attempt.standing == Standing::Probe && !attempt.failure.is_early_end() => {
                    starts.push((attempt.node.clone(), Outcome::Nothing));
                }
                None => {}
            }
        }
        if let Some((node, _)) = self.ready.as_ref().filter(|(_, standing)| *standing != Standing::Good) {
            starts.push((node.clone(), Outcome::Ready));
        }
        if let Some((node, _, Standing::Probe)) = &self.current {
            starts.retain(|(other, _)| other != node);
            starts.push((node.clone(), Outcome::Nothing));
        }
        let is_news = !starts.is_empty() || common.is_some();
        let same_everywhere = common.map(|reason| SameEverywhere { reason, demand: self.demand.clone() });
        is_news.then_some(Outcomes { renderer: self.demand.renderer, same_everywhere, starts })
    }

    /// The reason of the failure that two or more nodes had alike while none had a success.
    fn common(&self) -> Option<String> {
        if self.ready.is_some() {
            return None;
        }
        let mut seen: Vec<Signature> = Vec::new();
        for attempt in &self.failed {
            let Some(signature) = attempt.blame().and(attempt.failure.signature()) else { continue };
            if seen.contains(&signature) {
                return Some(attempt.failure.reason());
            }
            seen.push(signature);
        }
        None
    }
}

fn is_ready_timeout(exit: &Exit) -> bool {
    exit.reason == ExitReason::ReadyTimeout
}

/// Why a process ended, in words: the vendor's text, the signal, or the exit reason.
pub(crate) fn cause(exit: &Exit) -> String {
    let text = exit.text.as_deref().filter(|text| !text.is_empty());
    match (text, &exit.signal) {
        (Some(text), _) => text.to_owned(),
        // A signal that was sent on purpose is not the cause.
        (None, Some(signal)) if exit.reason == ExitReason::Signaled => {
            format!("exited because of signal={signal}")
        }
        (None, _) => match exit.code {
            Some(code) if exit.reason == ExitReason::Failed => vendor::exit_text(code).to_owned(),
            _ => exit.reason.as_str().to_owned(),
        },
    }
}

/// The same with the exit code.
pub(crate) fn explain(exit: &Exit) -> String {
    let cause = cause(exit);
    exit.code.map_or_else(|| cause.clone(), |code| format!("{cause} (exit code {code})"))
}

#[cfg(test)]
mod tests;
