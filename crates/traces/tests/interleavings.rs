//! The count of spans that wait in every order in which threads can change it, by loom.

/// What the count is built on: here the types of loom, which runs a model in all orders.
mod sync {
    pub(crate) use loom::sync::atomic::{AtomicUsize, Ordering};
}

#[path = "../src/room.rs"]
mod room;

use loom::sync::Arc;
use loom::thread;

use self::room::Room;

#[test]
fn no_more_enter_than_there_is_room_for() {
    loom::model(|| {
        let room = Arc::new(Room::new(2));
        let others: Vec<_> = (0..2)
            .map(|_| {
                let room = Arc::clone(&room);
                thread::spawn(move || room.enter())
            })
            .collect();
        let mut entered = usize::from(room.enter());
        entered +=
            others.into_iter().filter_map(|other| other.join().ok()).filter(|entered| *entered).count();
        assert_eq!(entered, 2);
    });
}

#[test]
fn none_is_refused_because_of_another_that_was_refused() {
    loom::model(|| {
        let room = Arc::new(Room::new(1));
        let theirs = Arc::clone(&room);
        assert!(room.enter());
        let other = thread::spawn(move || theirs.enter());
        room.leave(1);
        let again = room.enter();
        assert!(other.join().unwrap() ^ again, "one of the two has the room");
    });
}
