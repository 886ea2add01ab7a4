//! What all calls to agents have in common: the request's id, and the outcome of a spawn.

use model::RequestId;
use tonic::metadata::MetadataValue;
use wire::v1;

/// The outcome of a spawn that the agent has admitted.
#[derive(Debug)]
pub(crate) enum Outcome {
    Ready(v1::Ready),
    Ended(v1::Ended),
}

/// A call that carries the id of the request that it is made for.
pub(super) fn tagged<T>(message: T, request: &RequestId) -> tonic::Request<T> {
    let mut call = tonic::Request::new(message);
    if let Ok(id) = MetadataValue::try_from(request.as_str()) {
        call.metadata_mut().insert(wire::REQUEST_ID, id);
    }
    call
}
