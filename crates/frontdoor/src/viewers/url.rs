//! The path of a viewer's URL, `/s/{node}/{spawn}/{token}`. It is read as it came, without decoding, so that there is one way to
//! write each.

use model::{NodeId, SpawnId};

/// No token is as long; a longer one is not looked at.
const MAX_TOKEN: usize = 128;

/// The node, the spawn and the token that a path names; `None` when it is no viewer's path.
pub(crate) fn parts(path: &str) -> Option<(NodeId, SpawnId, &str)> {
    let mut parts = path.strip_prefix("/s/")?.split('/');
    let (node, spawn, token) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?, parts.next()?);
    let fits = !token.is_empty() && token.len() <= MAX_TOKEN && parts.next().is_none();
    fits.then_some((node, spawn, token))
}
