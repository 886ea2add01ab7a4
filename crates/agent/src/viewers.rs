//! What relays say of viewers: the agent decides who may connect to a spawn, and knows who is.
//!
//! One call for each viewer, which lasts as long as the viewer is connected. The agent's word is what keeps two promises:
//! a viewer's URL never reaches another spawn than its own (only the agent knows the token, and it confirms the spawn *after* the
//! relay has connected, so whatever has the port by then is the spawn), and a spawn has one viewer (also one that some other
//! relay has, or that came without a relay: the kernel knows of it).
//!
//! Failure: a call that breaks means that its viewer has gone; a relay whose viewer has not gone attaches it again as `resumed`,
//! at this agent or the next one.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use model::SpawnId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use uuid::Uuid;
use wire::v1;
use wire::v1::attach_refused::Reason;
use wire::v1::attach_reply::Outcome;
use wire::v1::attach_request::Step;

use crate::node::Node;
use crate::state::record::JournalEvent;
use crate::table::viewer::{NotAttached, Shown};

/// How long a relay may take for each step until its viewer is connected.
const STEP_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a viewer waits for it to be known whether the connection to its port is another viewer's, or a relay's that has come too
/// late for the spawn before.
const IN_DOUBT: Duration = Duration::from_secs(3);
/// Between two looks meanwhile.
const PAUSE: Duration = Duration::from_millis(20);

/// The replies of a call.
pub(crate) type Replies = Pin<Box<dyn Stream<Item = Result<v1::AttachReply, Status>> + Send>>;

/// Who asks for what.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) spawn: SpawnId,
    pub(crate) viewer: Uuid,
    pub(crate) shown: Shown,
    pub(crate) resumed: bool,
}

/// The viewer is the spawn's for as long as this lives.
#[derive(Debug)]
struct Attached {
    node: Arc<Node>,
    spawn: SpawnId,
    viewer: Uuid,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if self.node.table().detach(self.spawn, self.viewer) {
            self.node.looks.hurry();
        }
    }
}

/// A relay that has a port and is not confirmed yet.
#[derive(Debug)]
struct Unconfirmed {
    node: Arc<Node>,
    port: u16,
    confirmed: bool,
}

impl Unconfirmed {
    fn new(node: &Arc<Node>, port: u16) -> Self {
        node.table().hand_out_port(port);
        Self { node: Arc::clone(node), port, confirmed: false }
    }

    fn confirmed(mut self) {
        self.confirmed = true;
    }
}

impl Drop for Unconfirmed {
    fn drop(&mut self) {
        self.node.table().settle_port(self.port, self.confirmed, Instant::now());
    }
}

/// Serves the rest of a call whose first message was understood.
pub(crate) fn serve(node: Arc<Node>, ask: Ask, steps: Streaming<v1::AttachRequest>) -> Replies {
    let (replies, receiver) = mpsc::channel(2);
    tokio::spawn(async move {
        let call = attend(&node, &ask, steps, &replies);
        tokio::select! {
            () = call => {}
            // The spawns go on, and so do their viewers, with the next agent.
            () = node.leaving.cancelled() => {
                replies.send(Err(Status::unavailable("the agent is going away"))).await.ok();
            }
            () = node.closed.cancelled() => {}
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

async fn attend(
    node: &Arc<Node>,
    ask: &Ask,
    mut steps: Streaming<v1::AttachRequest>,
    replies: &mpsc::Sender<Result<v1::AttachReply, Status>>,
) {
    let reply = async |outcome| replies.send(Ok(v1::AttachReply { outcome: Some(outcome) })).await.is_ok();
    let Ask { spawn, viewer, .. } = *ask;
    let port = match attach(node, ask).await {
        Ok(port) => port,
        Err(why) => {
            reply(refused(why)).await;
            return;
        }
    };
    let _attached = Attached { node: Arc::clone(node), spawn, viewer };
    let unconfirmed = Unconfirmed::new(node, port);
    if !reply(Outcome::Target(v1::Target { port: port.into() })).await {
        return;
    }
    let news = if ask.resumed {
        node.table().connected(spawn, viewer, Instant::now())
    } else {
        let step = timeout(STEP_TIMEOUT, steps.next()).await;
        let Ok(Some(Ok(v1::AttachRequest { step: Some(Step::Connected(v1::Connected {})) }))) = step else {
            return;
        };
        let confirmed = node.table().confirm(spawn, viewer, port, Instant::now());
        let Some(news) = confirmed else {
            reply(refused(NotAttached::NotFound)).await;
            // It ends the call after its connection.
            timeout(STEP_TIMEOUT, steps.next()).await.ok();
            return;
        };
        if !reply(Outcome::Confirmed(v1::Confirmed {})).await {
            return;
        }
        news
    };
    unconfirmed.confirmed();
    if news {
        node.state.journal.happened(spawn, JournalEvent::Connected(node.state.clock.now()));
    }
    tracing::debug!(spawn.id = %spawn, requestId = node.request_of(spawn), viewer.id = %viewer, resumed = ask.resumed, "viewer connected");
    while let Some(Ok(_)) = steps.next().await {}
    tracing::debug!(spawn.id = %spawn, requestId = node.request_of(spawn), viewer.id = %viewer, "viewer gone");
}

async fn attach(node: &Arc<Node>, ask: &Ask) -> Result<u16, NotAttached> {
    if !ask.resumed {
        let deadline = Instant::now() + IN_DOUBT;
        loop {
            let port = node.table().port_for(ask.spawn, &ask.shown, ask.viewer)?;
            // A kernel that is not heard of in time refuses no viewer: the server itself takes one.
            let Some(look) = node.looks.fresh().await.filter(|look| look.has_connection(port)) else { break };
            if !node.table().may_be_a_relays(port, look.then) || look.then >= deadline {
                return Err(NotAttached::Taken);
            }
            sleep(PAUSE).await;
        }
    }
    node.table().attach(ask.spawn, &ask.shown, ask.viewer, ask.resumed)
}

fn refused(why: NotAttached) -> Outcome {
    let reason = match why {
        NotAttached::NotFound => Reason::NotFound,
        NotAttached::Taken => Reason::Taken,
    };
    Outcome::Refused(v1::AttachRefused { reason: reason.into() })
}
