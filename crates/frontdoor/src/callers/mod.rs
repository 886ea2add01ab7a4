//! Callers: their credentials, and what each of them takes of this front door.

mod accounts;
mod authenticator;
mod denial_log;
mod owner_names;
mod rate;

pub(crate) use self::accounts::{Account, Caller, Callers, Kind, LimitExceeded, Share};
pub(crate) use self::authenticator::{Authenticator, Bearer, one_of};
pub(crate) use self::owner_names::OwnerNames;
pub(crate) use self::rate::Rate;
