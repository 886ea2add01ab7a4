//! One viewer that is connected.

use std::sync::Arc;
use std::time::Duration;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use relay::{Passed, relay};
use tokio::time::{Instant, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::Viewers;
use super::attach::Attached;
use super::server::Upgraded;
use crate::listen::Place;

/// Between two looks at how much has passed.
const LOOK: Duration = Duration::from_secs(5);

/// See the module's documentation. Its end closes both connections and tells the agent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) viewers: Arc<Viewers>,
    pub(super) attached: Attached,
    /// The viewer's side, once the 101 is on its way.
    pub(super) upgrade: OnUpgrade,
    pub(super) server: Upgraded,
    /// The viewer's place among the connections.
    pub(super) place: Option<Place>,
}

impl Session {
    /// Relays until one of the two ends it.
    pub(super) async fn run(self) {
        let Self { viewers, mut attached, upgrade, server, place } = self;
        let _counted = viewers.metrics.viewer();
        let began = Instant::now();
        let viewer = match upgrade.await {
            Ok(viewer) => TokioIo::new(viewer),
            Err(error) => return debug!(%error, "the viewer left during the handshake"),
        };
        let (passed, gone) = (Passed::default(), CancellationToken::new());
        let settings = relay::Settings { ping_interval: viewers.settings.ping_interval };
        let relaying = async {
            let _gone = gone.clone().drop_guard();
            relay(viewer, server, settings, &passed, &viewers.cut).await
        };
        let (ended, (), ()) =
            tokio::join!(relaying, attached.keep(&viewers, &gone), measure(&viewers, &passed, &gone));
        drop(place);
        viewers.metrics.ended(ended.reason);
        let error = ended.error.map(|error| error.to_string());
        info!(
            by = ended.reason.as_str(),
            error,
            after = ?began.elapsed(),
            bytes_up = passed.up(),
            bytes_down = passed.down(),
            "viewer disconnected"
        );
    }
}

/// Adds what passes to the metrics while it does.
async fn measure(viewers: &Viewers, passed: &Passed, gone: &CancellationToken) {
    let (mut up, mut down) = (0, 0);
    let mut looks = interval(LOOK);
    loop {
        let over = gone.run_until_cancelled(looks.tick()).await.is_none();
        viewers.metrics.passed(passed.up() - up, passed.down() - down);
        (up, down) = (passed.up(), passed.down());
        if over {
            return;
        }
    }
}
