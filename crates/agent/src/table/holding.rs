//! What a spawn holds, and where it has it from: its port, user, GPU slot, and a warm server that was claimed or must end first.
//! Taken and given back under the table's lock alone, all of it in one step.

use model::SpawnId;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::secret::Secret;
use crate::spawn::body::Body;
use crate::users::user::Ids;

/// What a spawn holds until its end.
#[derive(Debug)]
pub(super) struct Holding {
    pub(super) port: u16,
    pub(super) user: Option<Ids>,
    pub(super) gpu: Option<u32>,
    /// Cancelled once a warm server has ended that has to end before.
    pub(super) after: Option<CancellationToken>,
}

/// A server that a spawn has got from the pool.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) holding: Holding,
    pub(super) secret: Option<Secret>,
    pub(super) server: SpawnId,
    pub(super) body: oneshot::Receiver<Body>,
}
