//! The problems that each kind of operation may answer with, as parts of the description of the surface.

use std::collections::BTreeMap;

use model::api::ErrorCode;
use utoipa::IntoResponses;
use utoipa::openapi::{Content, Ref, RefOr, Response, ResponseBuilder};

use super::error::PROBLEM_JSON;

fn problems(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let everywhere = [
        ErrorCode::OriginNotAllowed,
        ErrorCode::MethodNotAllowed,
        ErrorCode::HostNotAllowed,
        ErrorCode::Internal,
    ];
    answers(&[codes, &everywhere].concat())
}

pub(super) fn answers(codes: &[ErrorCode]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<String, Vec<ErrorCode>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().to_string()).or_default().push(*code);
    }
    let schema = Ref::from_schema_name("Problem");
    by_status
        .into_iter()
        .map(|(status, codes)| {
            let words: Vec<_> = codes.iter().map(|c| format!("`{}`: {}", c.as_str(), c.title())).collect();
            let response = ResponseBuilder::new()
                .description(words.join(" · "))
                .content(PROBLEM_JSON, Content::new(Some(RefOr::Ref(schema.clone()))));
            (status, RefOr::T(response.build()))
        })
        .collect()
}

macro_rules! problem_sets {
    ($($(#[$doc:meta])* $name:ident [$($code:ident),*];)+) => {
        $(
            $(#[$doc])*
            pub(super) struct $name;

            impl IntoResponses for $name {
                fn responses() -> BTreeMap<String, RefOr<Response>> {
                    problems(&[$(ErrorCode::$code),*])
                }
            }
        )+
    };
}

problem_sets! {
    /// Of `POST /spawn`.
    SpawnProblems [
        InvalidRequest, IdempotencyConflict, SpawnEnded, BodyTooLarge, UnsupportedMediaType, RateLimited, QuotaExceeded,
        SpawnFailed, NoCapacity, NoMatchingNode, RegistryUnavailable, NodeUnreachable, ShuttingDown, ReadyTimeout
    ];
    /// Of `POST /v1/explain`.
    ExplainProblems [InvalidRequest, BodyTooLarge, UnsupportedMediaType, RegistryUnavailable];
    /// Of lists.
    ListProblems [InvalidRequest, RegistryUnavailable];
    /// Of one spawn or node.
    OneProblems [InvalidRequest, NotFound, RegistryUnavailable];
    /// Of what is changed of a spawn.
    ChangeProblems [
        InvalidRequest, NotFound, SpawnEnded, BodyTooLarge, UnsupportedMediaType, RegistryUnavailable, NodeUnreachable
    ];
    /// Of what operators want of a node.
    OperateProblems [InvalidRequest, NotFound, BodyTooLarge, UnsupportedMediaType, RegistryUnavailable];
    /// Of having a node forgotten.
    ForgetProblems [InvalidRequest, NotFound, NodeUp, RegistryUnavailable];
    /// Of what only a node's agent knows.
    LogProblems [InvalidRequest, NotFound, RegistryUnavailable, NodeUnreachable];
    /// Of the live feed's handshake.
    LiveProblems [InvalidRequest, UpgradeRequired, ShuttingDown];
    /// Of the readiness probe.
    ReadyProblems [RegistryUnavailable, NodeUnreachable, ShuttingDown];
    /// Of what always works.
    NoProblems [];
}
