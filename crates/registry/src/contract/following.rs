//! The calls by which a front door follows what happens: numbered events from a position on, without gaps, or the answer that there
//! is one.

use std::time::Duration;

use super::{Backend, Registry};
use crate::ask::{Follow, Position};
use crate::error::RegistryError;
use crate::pings::WantedPings;

impl Registry {
    /// The events since `after`. When there are none, waits for one for up to `wait`, at most [`crate::ask::MAX_FOLLOW`].
    ///
    /// # Errors
    /// The registry is away.
    pub async fn follow(&self, after: Position, wait: Duration) -> Result<Follow, RegistryError> {
        match &self.0 {
            Backend::Embedded(backend) => Ok(backend.follow(after, wait, None).await),
            Backend::Distant(distant) => {
                distant.wait("follow", async |b| b.follow(after, wait, None).await).await
            }
            Backend::Redis(backend) => backend.follow(after, wait, None).await,
        }
    }

    /// As [`Self::follow`], with pings of these nodes among the events. They may be missing, but come in their order; agents send them
    /// for some seconds after this call.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn follow_with_pings(
        &self,
        after: Position,
        wait: Duration,
        wanted: &WantedPings,
    ) -> Result<Follow, RegistryError> {
        match &self.0 {
            Backend::Embedded(backend) => Ok(backend.follow(after, wait, Some(wanted)).await),
            Backend::Distant(distant) => {
                distant.wait("follow", async |b| b.follow(after, wait, Some(wanted)).await).await
            }
            Backend::Redis(backend) => backend.follow(after, wait, Some(wanted)).await,
        }
    }

    /// How far back the stream of events goes: the age of its oldest event; zero where there is none.
    ///
    /// # Errors
    /// The registry is away.
    pub async fn events_window(&self) -> Result<Duration, RegistryError> {
        both!(self, b => b.events_window())
    }
}
