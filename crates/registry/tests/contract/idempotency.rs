//! Idempotency records.

use std::time::Duration;

use registry::{Claim, IdempotencyKey};
use uuid::Uuid;

use crate::on_all;
use crate::support::*;

fn key(text: &str) -> IdempotencyKey {
    text.parse().expect("a good key")
}

on_all! {
    async fn one_of_many_claimants_gets_the_key_and_all_get_its_answer(farm: &Farm) {
        let (key, print) = (key("k!~"), Uuid::now_v7());
        let me = Uuid::now_v7();
        assert_eq!(farm.registry.claim(&key, print, me).await.unwrap(), Claim::Mine);
        assert_eq!(farm.registry.claim(&key, print, me).await.unwrap(), Claim::Mine, "renewing is not conflicting");
        for _ in 0..3 {
            assert_eq!(farm.registry.claim(&key, print, Uuid::now_v7()).await.unwrap(), Claim::Running);
        }
        assert_eq!(farm.registry.claim(&key, Uuid::now_v7(), me).await.unwrap(), Claim::Conflict);
        let long = Duration::from_secs(60);
        assert!(!farm.registry.settle(&key, Uuid::now_v7(), Some(("no", long))).await.unwrap());
        assert!(farm.registry.settle(&key, me, Some(("yes", long))).await.unwrap());
        assert!(farm.registry.settle(&key, me, Some(("yes", long))).await.unwrap(), "the first answer was lost");
        assert!(!farm.registry.settle(&key, me, Some(("no", long))).await.unwrap(), "an answer stays");
        assert!(!farm.registry.settle(&key, Uuid::now_v7(), None).await.unwrap(), "it is not anybody's");
        let other = farm.registry.claim(&key, print, Uuid::now_v7()).await.unwrap();
        assert_eq!(other, Claim::Settled("yes".into()));
        assert_eq!(farm.registry.claim(&key, Uuid::now_v7(), me).await.unwrap(), Claim::Conflict);
    }
}

on_all! {
    async fn a_claim_whose_holder_died_is_taken_over(farm: &Farm) {
        let (key, print) = (key("k"), Uuid::now_v7());
        let (dead, successor) = (Uuid::now_v7(), Uuid::now_v7());
        assert_eq!(farm.registry.claim(&key, print, dead).await.unwrap(), Claim::Mine);
        farm.pass(TIMING.claim).await;
        assert_eq!(farm.registry.claim(&key, Uuid::now_v7(), successor).await.unwrap(), Claim::Conflict);
        assert_eq!(farm.registry.claim(&key, print, successor).await.unwrap(), Claim::Mine);
        assert!(!farm.registry.settle(&key, dead, Some(("late", TIMING.claim))).await.unwrap());
    }
}

on_all! {
    async fn a_key_given_free_or_kept_briefly_can_be_used_again(farm: &Farm) {
        let (key, me) = (key("k"), Uuid::now_v7());
        assert_eq!(farm.registry.claim(&key, Uuid::now_v7(), me).await.unwrap(), Claim::Mine);
        assert!(farm.registry.settle(&key, me, None).await.unwrap());
        let print = Uuid::now_v7();
        assert_eq!(farm.registry.claim(&key, print, me).await.unwrap(), Claim::Mine);
        let brief = Duration::from_millis(100);
        assert!(farm.registry.settle(&key, me, Some(("full", brief))).await.unwrap());
        assert_eq!(farm.registry.claim(&key, print, me).await.unwrap(), Claim::Settled("full".into()));
        farm.pass(brief).await;
        assert_eq!(farm.registry.claim(&key, print, me).await.unwrap(), Claim::Mine);
        // Settled, but its claimant has not heard so and does not stand by it.
        assert!(farm.registry.settle(&key, me, Some(("ended since", TIMING.claim))).await.unwrap());
        assert!(farm.registry.settle(&key, me, None).await.unwrap());
        assert_eq!(farm.registry.claim(&key, Uuid::now_v7(), me).await.unwrap(), Claim::Mine);
    }
}

#[test]
fn keys_are_visible_ascii_of_some_length() {
    assert!("x".repeat(255).parse::<IdempotencyKey>().is_ok());
    for bad in ["", "a b", "a\u{7f}", "\u{e9}", &"x".repeat(256)] {
        assert!(bad.parse::<IdempotencyKey>().is_err(), "{bad:?}");
    }
}
