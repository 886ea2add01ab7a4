//! Deliveries to webhooks: one holder at a time, and a cursor that only the holder moves.

use std::time::Duration;

use registry::Cursor;
use uuid::Uuid;

use crate::on_all;

/// Long enough for a busy machine to make two calls in it, and short enough to be waited for.
const LEASE: Duration = Duration::from_millis(700);

on_all! {
    async fn one_holder_at_a_time_moves_the_cursor_of_a_webhook(farm: &Farm) {
        let registry = &farm.registry;
        let [hook, other, first, second] = [(); 4].map(|()| Uuid::new_v4());
        let long = Some(Duration::from_secs(60));
        let incarnation = Some(registry.incarnation().await.unwrap());
        let at = |seq| Some(Cursor { seq, incarnation });
        let taken = registry.delivery(hook, first, long, None).await.unwrap();
        assert!(taken.mine && taken.cursor.is_none(), "{taken:?}");
        let moved = registry.delivery(hook, first, long, at(7)).await.unwrap();
        assert!(moved.mine && moved.cursor == at(7), "{moved:?}");
        let refused = registry.delivery(hook, second, long, at(9)).await.unwrap();
        assert!(!refused.mine && refused.cursor == at(7), "{refused:?}");
        let elsewhere = registry.delivery(other, second, long, at(3)).await.unwrap();
        assert!(elsewhere.mine && elsewhere.cursor == at(3), "{elsewhere:?}");
        // Given back with the last word on it.
        assert!(registry.delivery(hook, first, None, at(8)).await.unwrap().mine);
        let next = registry.delivery(hook, second, Some(LEASE), None).await.unwrap();
        assert!(next.mine && next.cursor == at(8), "{next:?}");
        assert!(!registry.delivery(hook, first, None, at(1)).await.unwrap().mine);
        farm.pass(LEASE * 2).await;
        let last = registry.delivery(hook, first, long, None).await.unwrap();
        assert!(last.mine && last.cursor == at(8), "the holder was silent for too long: {last:?}");
        let now = registry.now().await.unwrap();
        assert!(now.since(last.now) < Duration::from_secs(60), "{now:?} {last:?}");
    }
}
