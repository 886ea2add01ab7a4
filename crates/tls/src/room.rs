//! A bounded number of places. When all are taken, whoever has waited longest with nothing to do makes room.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The places; cloning is cheap.
#[derive(Debug, Clone)]
pub struct Room {
    places: Arc<Semaphore>,
    /// One permit for each place that somebody waits for. Both semaphores serve in the order of asking.
    leave: Arc<Semaphore>,
}

/// A place that was taken; free again when this is dropped.
#[derive(Debug)]
pub struct Seat(#[expect(dead_code, reason = "it is there to be dropped")] Option<OwnedSemaphorePermit>);

/// A request that somebody leaves, withdrawn when this is dropped.
#[derive(Debug)]
pub struct Plea<'a>(&'a Semaphore);

impl Drop for Plea<'_> {
    fn drop(&mut self) {
        if let Ok(permit) = self.0.try_acquire() {
            permit.forget();
        }
    }
}

impl Room {
    /// With so many places.
    #[must_use]
    pub fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), leave: Arc::new(Semaphore::new(0)) }
    }

    /// Takes a place; when there is none, asks one of those who can to leave.
    pub async fn enter(&self) -> Seat {
        if let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() {
            return Seat(Some(permit));
        }
        let _plea = self.plead();
        // Nobody ever closes it.
        Seat(Arc::clone(&self.places).acquire_owned().await.ok())
    }

    /// Asks one of those who can to leave.
    #[must_use = "it is withdrawn when this is dropped"]
    pub fn plead(&self) -> Plea<'_> {
        self.leave.add_permits(1);
        Plea(&self.leave)
    }

    /// Waits until whoever asks has to leave: to be asked from when there is nothing to do until there is something, for
    /// the longest to have asked is the first who has to.
    pub async fn asked_to_leave(&self) {
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
        let room = Room::new(2);
        let (gone, mut left) = tokio::sync::mpsc::channel(2);
        for name in ["first", "second"] {
            let seat = room.enter().await;
            let (room, gone) = (room.clone(), gone.clone());
            tokio::spawn(async move {
                room.asked_to_leave().await;
                gone.send(name).await.unwrap();
                drop(seat);
            });
            tokio::task::yield_now().await;
        }
        let _third = room.enter().await;
        assert_eq!(left.recv().await, Some("first"));
        let _fourth = room.enter().await;
        assert_eq!(left.recv().await, Some("second"));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_leaves_for_who_no_longer_waits() {
        let room = Room::new(1);
        let seat = room.enter().await;
        assert!(timeout(Duration::from_secs(1), room.enter()).await.is_err(), "nobody can leave");
        assert!(timeout(Duration::from_secs(1), room.asked_to_leave()).await.is_err(), "nobody has to");
        drop(seat);
        let _seat = timeout(Duration::from_secs(1), room.enter()).await.unwrap();
    }
}
