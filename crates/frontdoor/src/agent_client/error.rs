//! Errors of calls to agents, by what the caller may do next: try another node, or first make sure that nothing was started. Only
//! what is certain to have changed nothing is said to have changed nothing; every unknown status counts as a lost answer.

use tonic::{Code, Status};
use wire::v1;

/// Metadata key of an agent's own node, in the answer to a call that was meant for another.
pub(super) const NODE: &str = "x-hatchery-node";

/// Why a call failed. The variants differ in what the caller may do next.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum AgentError {
    /// Nothing reached the agent. Another node may be tried.
    #[error("the agent could not be reached: {why}")]
    NotSent {
        why: String,
        /// The attempt to connect goes on.
        connecting: bool,
    },
    /// The agent said no: nothing was started. Another node may be tried.
    #[error("the agent refused ({}): {detail}", word(*reason))]
    Refused { reason: v1::refused::Reason, detail: String },
    /// The request was sent, the answer is missing: it may have been started.
    #[error("the agent's answer is missing: {why}")]
    Unknown {
        why: String,
        /// There was none before the deadline.
        deadline: bool,
    },
}

/// A call the connection did not carry to its end.
#[derive(Debug, thiserror::Error)]
#[error("the connection was lost")]
pub(super) struct Lost {
    /// Whether the request may have left.
    pub(super) sent: bool,
    #[source]
    pub(super) error: hyper::Error,
}

/// A refusal's reason in words that end up in front of a person.
pub(crate) fn word(reason: v1::refused::Reason) -> &'static str {
    use v1::refused::Reason as R;
    match reason {
        R::Unspecified => "no reason given",
        R::Full => "every slot is taken",
        R::GpusFull => "every GPU slot is taken",
        R::NoPort => "every port is taken",
        R::NotEligible => "cordoned or draining",
        R::RendererOff => "the renderer is switched off there",
        R::Abandoned => "the reservation is over",
        R::LowMemory => "too little free memory",
        R::CannotStart => "the server cannot be started there",
        R::BadModel => "the model leads outside the model directories",
        R::ShuttingDown => "its agent is going away",
        R::WrongNode => "another node is at its address",
        R::StartsBusy => "others were still starting when its time was over",
    }
}

/// What a failed call means. Only what is certain to have changed nothing is called `NotSent` or `Refused`.
pub(crate) fn failure(status: &Status) -> AgentError {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if let Some(Lost { sent: false, error }) = error.downcast_ref() {
            return AgentError::NotSent { why: error.to_string(), connecting: false };
        }
        cause = error.source();
    }
    if status.code() == Code::FailedPrecondition
        && let Some(found) = status.metadata().get(NODE)
    {
        let found = found.to_str().unwrap_or("another node");
        return AgentError::NotSent { why: format!("{found} is at its address"), connecting: false };
    }
    match status.code() {
        Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument => {
            AgentError::Refused {
                reason: v1::refused::Reason::Unspecified,
                detail: status.message().to_owned(),
            }
        }
        code => AgentError::Unknown { why: format!("{code:?}: {}", status.message()), deadline: false },
    }
}
