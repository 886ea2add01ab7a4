//! Who is at the other end of a connection, what it may hear, and for how long.

use std::sync::Arc;
use std::time::Duration;

use access::Scope;
use model::Owner;
use tokio::sync::watch;
use tokio::time::timeout;

use super::protocol::Topic;
use crate::callers::Bearer;
use crate::start::door::Door;

/// Who shows nothing with the handshake has this long to show it.
const AUTHENTICATE: Duration = Duration::from_secs(10);

/// Who is at the other end.
#[derive(Debug, Clone)]
pub(crate) enum Rights {
    /// Anybody: callers do not have to say who they are.
    All,
    /// Nobody yet.
    Nothing,
    /// Somebody with a good credential.
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
            Topic::Spawns | Topic::Spawn(_) => &[Scope::Spawn, Scope::Read],
        };
        match self {
            Self::All => Ok(()),
            Self::Of(bearer) if bearer.caller.scopes.has_any(needed) => Ok(()),
            Self::Of(_) | Self::Nothing => Err(Lacking(needed)),
        }
    }

    /// Whose spawns it hears of, where not everybody's.
    pub(crate) fn only(&self) -> Option<&Owner> {
        match self {
            Self::Of(bearer) => bearer.only(),
            Self::All | Self::Nothing => None,
        }
    }
}

/// Why somebody has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lapse {
    /// It has not said who it is in time.
    Silence,
    /// Its credential is good no more.
    Over,
}

/// Ends when the rights do.
pub(crate) async fn lapse(door: &Door, mut rights: watch::Receiver<Rights>) -> Lapse {
    let Some(access) = &door.config.access else { return std::future::pending().await };
    let known = async {
        let known = rights.wait_for(|rights| matches!(rights, Rights::Of(_))).await;
        known.ok().map(|rights| rights.clone())
    };
    let Ok(Some(Rights::Of(bearer))) = timeout(AUTHENTICATE, known).await else { return Lapse::Silence };
    bearer.revoked(access).await;
    Lapse::Over
}
