//! A connection limit. When every place is taken, the connection that has been idle longest closes and makes room.
//!
//! ```text
//! a newcomer           enter: no place left ── request an eviction ──▶ waits for a place
//! an idle connection   eviction_requested: waits ── gets the request ────▶ closes, drops its Permit
//! ```
//!
//! Both semaphores are fair (first in, first out), so the longest idle connection is evicted first and the first newcomer
//! gets the place. Connections that are busy do not poll `eviction_requested` and stay.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A limit on connections; clones share it.
#[derive(Debug, Clone)]
pub struct ConnectionLimit {
    places: Arc<Semaphore>,
    /// One permit for each pending eviction request.
    leave: Arc<Semaphore>,
}

/// A connection's place. Dropping it frees the place.
#[derive(Debug)]
pub struct Permit(#[expect(dead_code, reason = "it is there to be dropped")] Option<OwnedSemaphorePermit>);

/// A request that an idle connection closes. Dropping it withdraws the request.
#[derive(Debug)]
struct EvictionRequest<'a>(&'a Semaphore);

impl Drop for EvictionRequest<'_> {
    fn drop(&mut self) {
        // Without a permit left, a connection has taken the request already.
        if let Ok(permit) = self.0.try_acquire() {
            permit.forget();
        }
    }
}

impl ConnectionLimit {
    /// A limit of this many connections.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), leave: Arc::new(Semaphore::new(0)) }
    }

    /// Takes a place. When there is none, requests the eviction of an idle connection and waits. Cancel-safe: a caller that
    /// gives up withdraws its request.
    pub async fn enter(&self) -> Permit {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Permit(Some(permit));
        }
        let _request = self.request_eviction();
        // The semaphore is never closed, so this is always a permit.
        Permit(Arc::clone(&self.places).acquire_owned().await.ok())
    }

    fn request_eviction(&self) -> EvictionRequest<'_> {
        self.leave.add_permits(1);
        EvictionRequest(&self.leave)
    }

    /// Resolves when this connection must close to make room. Poll it only while idle; the longest idle connection is
    /// closed first.
    pub async fn eviction_requested(&self) {
        if let Ok(permit) = Arc::clone(&self.leave).acquire_owned().await {
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_makes_room_for_who_comes() {
        let room = ConnectionLimit::new(2);
        let (gone, mut left) = tokio::sync::mpsc::channel(2);
        for name in ["first", "second"] {
            let permit = room.enter().await;
            let (room, gone) = (room.clone(), gone.clone());
            tokio::spawn(async move {
                room.eviction_requested().await;
                gone.send(name).await.unwrap();
                drop(permit);
            });
            tokio::task::yield_now().await;
        }
        let _third = room.enter().await;
        assert_eq!(left.recv().await, Some("first"));
        let _fourth = room.enter().await;
        assert_eq!(left.recv().await, Some("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn no_place_is_left_for_a_caller_that_no_longer_waits() {
        let room = ConnectionLimit::new(1);
        let permit = room.enter().await;
        assert!(timeout(Duration::from_secs(1), room.enter()).await.is_err(), "nobody can leave");
        assert!(
            timeout(Duration::from_secs(1), room.eviction_requested()).await.is_err(),
            "no connection has to close"
        );
        drop(permit);
        let _permit = timeout(Duration::from_secs(1), room.enter()).await.unwrap();
    }
}
