//! Callers: their credentials, and what each of them takes of this front door.
//!
//! Owns an account for each caller that was heard of lately: calls, live connections and places in line, within its limits. Limits count here
//! alone; those of spawns are the registry's. Failure: a key file that cannot be read keeps its last keys for a minute, and then denies.

mod accounts;
mod authenticator;
mod owner_names;
mod rate;

pub(crate) use self::accounts::{Account, AccountHolder, Callers, LimitExceeded, Share, ShareKind};
pub(crate) use self::authenticator::{Authenticator, Bearer, one_of};
pub(crate) use self::owner_names::OwnerNames;
pub(crate) use self::rate::Rate;
