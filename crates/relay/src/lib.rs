//! Relays one viewer's WebSocket connection after its handshake: every byte is passed on as it came, in both directions, and
//! nothing is understood of it but where frames begin and end.
//!
//! That much is needed for one thing: the relay pings the viewer, between whole frames, and keeps the answers to itself. Browsers
//! answer pings by themselves, so a viewer without traffic survives load balancers that cut idle connections, and one that
//! vanished without a word is noticed through any chain of proxies.
//!
//! Two relays may follow each other, one in front and one on the server's node. The one in front alone pings the viewer, and passes the
//! answers on to the other one, which keeps them to itself: both hear of the viewer, and it is pinged once. The other one pings the
//! one in front, which keeps those pings to itself: so each hears of the other one, too.
//!
//! - `frames`: where frames begin and end, in bytes that come in pieces.
//! - `hop`: where a relay stands.
//! - `pings`: the pings, and the filter that takes them or their answers out of what is passed on.
//! - `passage`: the two directions, [`relay`].
//!
//! Invariants: what is read is written before more is read, so a slow reader slows its writer down and nothing piles up here;
//! bytes are neither lost, added (but for pings, toward the viewer) nor reordered. Failure: whatever ends one direction ends the
//! other one a moment later.
//!
//! ```
//! use std::time::Duration;
//!
//! use relay::{EndedBy, Hop, Passed, Settings, relay};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let (mut viewer, near_viewer) = duplex(1024);
//! let (mut server, near_server) = duplex(1024);
//! let session = tokio::spawn(async move {
//!     let settings = Settings { ping_interval: Duration::from_secs(30), hop: Hop::Alone };
//!     relay(near_viewer, near_server, settings, &Passed::default(), &CancellationToken::new()).await
//! });
//! // One binary frame of a viewer, masked with zeros, with one byte.
//! let frame = [0x82, 0x81, 0, 0, 0, 0, 7];
//! viewer.write_all(&frame).await?;
//! let mut passed = [0; 7];
//! server.read_exact(&mut passed).await?;
//! assert_eq!(passed, frame);
//!
//! drop(viewer);
//! assert_eq!(session.await?.by, EndedBy::Viewer);
//! # Ok(())
//! # }
//! ```

mod frames;
mod hop;
mod passage;
mod pings;

pub use hop::Hop;
pub use passage::{Ended, EndedBy, Passed, Settings, relay};
pub use pings::PingTag;
