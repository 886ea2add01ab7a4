//! What a live connection may hear, and for how long. Rights end with the credential, also when it is revoked meanwhile; a connection
//! that was to show one has ten seconds for it.

use std::sync::Arc;
use std::time::Duration;

use access::Scope;
use model::Owner;
use tokio::sync::watch;
use tokio::time::timeout;

use super::protocol::Topic;
use crate::callers::{Authenticator, Bearer};

/// A connection without a credential in its handshake has this long to send one.
const AUTHENTICATE_TIMEOUT: Duration = Duration::from_secs(10);

/// What the subscriber may hear.
#[derive(Debug, Clone)]
pub(crate) enum Rights {
    /// Everything: credentials are not required.
    All,
    /// Nothing yet: no credential was shown.
    Nothing,
    /// What this credential allows.
    Of(Arc<Bearer>),
}

/// What a credential lacks.
#[derive(Debug)]
pub(crate) struct Lacking(pub(crate) &'static [Scope]);

impl Rights {
    /// Whether it may subscribe to this.
    pub(crate) fn check(&self, topic: &Topic) -> Result<(), Lacking> {
        let needed: &'static [Scope] = match topic {
            Topic::Nodes | Topic::Node(_) => &[Scope::Read],
            Topic::Spawns | Topic::Narrowed(_) | Topic::Spawn(_) => &[Scope::Spawn, Scope::Read],
        };
        match self {
            Self::All => Ok(()),
            Self::Of(bearer) if bearer.caller.scopes.has_any(needed) => Ok(()),
            Self::Of(_) | Self::Nothing => Err(Lacking(needed)),
        }
    }

    /// The owner whose spawns it hears of; `None`: all spawns.
    pub(crate) fn only(&self) -> Option<&Owner> {
        match self {
            Self::Of(bearer) => bearer.only(),
            Self::All | Self::Nothing => None,
        }
    }
}

/// Why the rights end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// No credential came in time.
    Silence,
    /// The credential is not good any more.
    Over,
}

/// Resolves when the rights end.
pub(super) async fn lapse(
    authenticator: Option<&Authenticator>,
    mut rights: watch::Receiver<Rights>,
) -> Lapse {
    let Some(authenticator) = authenticator else { return std::future::pending().await };
    let known = async {
        let known = rights.wait_for(|rights| matches!(rights, Rights::Of(_))).await;
        known.ok().map(|rights| rights.clone())
    };
    let Ok(Some(Rights::Of(bearer))) = timeout(AUTHENTICATE_TIMEOUT, known).await else {
        return Lapse::Silence;
    };
    authenticator.revoked(&bearer).await;
    Lapse::Over
}
