//! One viewer that is connected: frames pass until either side ends, the viewer vanishes, or the front door cuts it. Owns both
//! connections and the agent's knowledge of the viewer; its end gives all three back.

use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay::{Passed, relay};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::attach::Attached;
use super::node_relay::NodeRelays;
use super::reach::Reach;
use super::server::Upgraded;
use crate::listen::ConnectionPlace;
use crate::metrics::RelayMetrics;

/// Between two looks at how much has passed.
const LOOK: Duration = Duration::from_secs(5);

/// What all sessions have.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) reach: Reach,
    pub(super) relays: NodeRelays,
    /// Time between two pings of a viewer.
    pub(super) ping_interval: Duration,
    /// Cancelled when the sessions that are left must end.
    pub(super) cut: CancellationToken,
    pub(super) metrics: RelayMetrics,
}

/// See the module's documentation. Its end closes both connections and reports it to the agent, or the relay of the node does.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Shared,
    /// `None`: the relay of the node has attached the viewer.
    pub(super) attached: Option<Attached>,
    /// The viewer's side, once the 101 is on its way.
    pub(super) upgrade: OnUpgrade,
    pub(super) server: Upgraded,
    pub(super) settings: relay::Settings,
    /// The viewer's place among the connections.
    pub(super) place: Option<ConnectionPlace>,
}

impl Session {
    /// Relays until one of the two ends it.
    pub(super) async fn run(self) {
        let Self { shared, mut attached, upgrade, server, settings, place } = self;
        let _counted = shared.metrics.viewer();
        let began = Instant::now();
        let viewer = match upgrade.await {
            Ok(viewer) => TokioIo::new(viewer),
            Err(error) => return debug!(%error, "the viewer left during the handshake"),
        };
        let (passed, gone) = (Passed::default(), CancellationToken::new());
        let relaying = async {
            let _gone = gone.clone().drop_guard();
            relay(viewer, server, settings, &passed, &shared.cut).await
        };
        let attaching = async {
            if let Some(attached) = &mut attached {
                attached.keep(&shared.reach, &gone).await;
            }
        };
        let (ended, (), ()) = tokio::join!(relaying, attaching, measure(&shared.metrics, &passed, &gone));
        drop(place);
        shared.metrics.ended(ended.by);
        let error = ended.error.map(|error| error.to_string());
        info!(
            by = ended.by.as_str(),
            error,
            after_ms = began.elapsed().as_millis(),
            bytes_up = passed.up(),
            bytes_down = passed.down(),
            "viewer disconnected"
        );
    }
}

/// Adds what passes to the metrics while it does.
async fn measure(metrics: &RelayMetrics, passed: &Passed, gone: &CancellationToken) {
    let (mut up, mut down) = (0, 0);
    let mut looks = interval(LOOK);
    loop {
        let over = gone.run_until_cancelled(looks.tick()).await.is_none();
        metrics.passed(passed.up() - up, passed.down() - down);
        (up, down) = (passed.up(), passed.down());
        if over {
            return;
        }
    }
}
