//! What all calls to agents have in common: the request's id, and the outcome of a spawn.

use model::{Exit, ExitReason, RequestId};
use tonic::metadata::MetadataValue;
use wire::v1;

/// The outcome of a spawn that the agent has admitted.
#[derive(Debug)]
pub(crate) enum StartOutcome {
    Ready(v1::Ready),
    Ended(Ended),
}

/// How a process that was started has ended before its caller was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) exit: Exit,
    /// The last lines that it wrote.
    pub(crate) log: Vec<String>,
    /// It was ready before: its agent's report of the end counts against the node, and not this answer.
    pub(crate) was_ready: bool,
}

impl From<v1::Ended> for Ended {
    fn from(ended: v1::Ended) -> Self {
        let exit = ended.exit.unwrap_or_default();
        let exit = Exit::try_from(exit.clone()).unwrap_or_else(|_| Exit {
            // A newer agent may have a word that this front door does not know.
            reason: ExitReason::Failed,
            code: exit.code,
            signal: exit.signal,
            text: exit.text.or((!exit.reason.is_empty()).then_some(exit.reason)),
        });
        Self { exit, log: ended.log, was_ready: false }
    }
}

/// A call that carries the id of the request that it is made for.
pub(super) fn tagged<T>(message: T, request: &RequestId) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    if let Ok(id) = MetadataValue::try_from(request.as_str()) {
        call.metadata_mut().insert(wire::REQUEST_ID, id);
    }
    call
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_that_a_newer_agent_has_a_word_for_is_a_failure_with_that_word() {
        let of = |reason: &str, text: Option<&str>| {
            let exit = v1::Exit {
                reason: reason.into(),
                code: Some(3),
                signal: None,
                text: text.map(str::to_owned),
            };
            Ended::from(v1::Ended { exit: Some(exit), log: Vec::new() }).exit
        };
        assert_eq!(of("ready-timeout", None).reason, ExitReason::ReadyTimeout);
        let (newer, said) = (of("melted", None), of("melted", Some("it was too warm")));
        assert_eq!(
            (newer.reason, newer.code, newer.text.as_deref()),
            (ExitReason::Failed, Some(3), Some("melted"))
        );
        assert_eq!(said.text.as_deref(), Some("it was too warm"));
        assert_eq!(Ended::from(v1::Ended::default()).exit.text, None);
    }
}
