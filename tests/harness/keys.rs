//! The API keys of a farm whose callers have to show one.

use std::path::PathBuf;

use crate::command;
use crate::farm::Farm;
use crate::wait::{Look, TIMEOUT, until};

/// What whoever shows a key that was good is told.
pub const EXPIRED: &str = "the credential has expired";

impl Farm {
    /// The file of API keys.
    pub fn keys(&self) -> PathBuf {
        self.mark().join("keys")
    }

    /// Makes an API key with these flags, and waits until every front door knows it; its credential.
    pub async fn key(&self, flags: &[&str]) -> String {
        let credential = command::new_key(self.mark(), &self.keys(), flags);
        for door in &self.doors {
            let client = door.http.showing(&credential);
            until("the front door takes in the new key", TIMEOUT, async || {
                let answer = client.get("/v1/spawns").send().await;
                // A key may be good for a shorter time than it takes to look.
                let known = answer.status != 401 || answer.json()["detail"] == EXPIRED;
                Look::when(known, || format!("{answer:?}"))
            })
            .await;
        }
        credential
    }
}
