//! The call to a node's agent that stands for one viewer: its messages are in `proto/hatchery/v1/agent.proto`.

use std::time::Duration;

use model::{NodeId, RequestId, SpawnId, jittered};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{debug, warn};
use uuid::Uuid;
use wire::v1;
use wire::v1::attach_refused::Reason;
use wire::v1::attach_reply::Outcome;
use wire::v1::attach_request::Step;

use super::reach::Reach;
use crate::agent_client::AgentError;

/// How long a viewer waits for a connection to the agent, and for each of its answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two attempts to attach a viewer again, at first and at last.
const MIN_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a viewer's URL names.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) node: NodeId,
    pub(crate) spawn: SpawnId,
    pub(crate) shown: Shown,
}

/// What a viewer's URL shows the agent, so that it may connect.
#[derive(Debug, Clone)]
pub(crate) enum Shown {
    Token(String),
    /// The spawn's port, where its endpoint is no more than that.
    Port(u16),
}

/// Why the agent does not have it.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no such spawn with this token that could be connected to.
    NotFound,
    /// The spawn has a viewer.
    Taken,
    /// The agent could not be asked.
    Agent(AgentError),
}

/// A viewer that its agent knows of. Dropping it reports to the agent that the viewer has gone.
#[derive(Debug)]
pub(super) struct Attached {
    node: NodeId,
    spawn: SpawnId,
    shown: Shown,
    viewer: Uuid,
    request: RequestId,
    call: Call,
}

#[derive(Debug)]
struct Call {
    steps: mpsc::Sender<v1::AttachRequest>,
    replies: Streaming<v1::AttachReply>,
}

impl Attached {
    /// Asks the agent at `advertise`, and returns the port of the spawn's server.
    pub(super) async fn ask(
        reach: &Reach,
        wanted: &Wanted,
        advertise: &str,
        viewer: Uuid,
        request: &RequestId,
    ) -> Result<(Self, u16), Refused> {
        let Wanted { node, spawn, shown } = wanted;
        let (call, port) = Call::open(reach, advertise, message(wanted, viewer, false), request).await?;
        let (node, spawn, shown) = (node.clone(), *spawn, shown.clone());
        Ok((Self { node, spawn, shown, viewer, request: request.clone(), call }, port))
    }

    /// There is a connection to the port: has the agent confirm that it is to the spawn.
    pub(super) async fn confirm(&mut self) -> Result<(), Refused> {
        let connected = v1::AttachRequest { step: Some(Step::Connected(v1::Connected {})) };
        if self.call.steps.send(connected).await.is_err() {
            return Err(lost("the call has ended"));
        }
        match self.call.reply().await? {
            Outcome::Confirmed(v1::Confirmed {}) => Ok(()),
            Outcome::Refused(refused) => Err(refusal(&refused)),
            Outcome::Target(_) => Err(lost("the answer is not understood")),
        }
    }

    /// Keeps the agent knowing of the viewer, until `gone`: an agent that takes the node over gets it anew.
    pub(super) async fn keep(&mut self, reach: &Reach, gone: &CancellationToken) {
        gone.run_until_cancelled(self.keep_for_good(reach)).await;
    }

    async fn keep_for_good(&mut self, reach: &Reach) {
        loop {
            while let Ok(Some(_)) = self.call.replies.message().await {}
            debug!("the agent does not know of the viewer any more, it is reported again");
            let mut pause = MIN_PAUSE;
            loop {
                sleep(jittered(pause)).await;
                pause = (pause * 2).min(MAX_PAUSE);
                match self.resume(reach).await {
                    Ok(call) => {
                        self.call = call;
                        break;
                    }
                    // The spawn is ending, or it is another viewer's: its server closes one of the connections.
                    Err(why @ (Refused::NotFound | Refused::Taken)) => {
                        let taken = matches!(why, Refused::Taken);
                        debug!(taken, "the viewer is not attached again");
                        return std::future::pending().await;
                    }
                    Err(Refused::Agent(error)) => warn!(%error, "the viewer is not attached again yet"),
                }
            }
        }
    }

    async fn resume(&self, reach: &Reach) -> Result<Call, Refused> {
        let wanted = Wanted { node: self.node.clone(), spawn: self.spawn, shown: self.shown.clone() };
        let addresses = reach.find(&self.node).await.map_err(|_| lost("where the node is is not known"))?;
        let message = message(&wanted, self.viewer, true);
        Call::open(reach, &addresses.advertise, message, &self.request).await.map(|(call, _)| call)
    }
}

impl Call {
    async fn open(
        reach: &Reach,
        advertise: &str,
        viewer: v1::Viewer,
        request: &RequestId,
    ) -> Result<(Self, u16), Refused> {
        let node: NodeId = viewer.node.parse().map_err(|_| Refused::NotFound)?;
        let link = reach.agents.link(&node, advertise, ANSWER_TIMEOUT).await.map_err(Refused::Agent)?;
        let (steps, outbound) = mpsc::channel(2);
        steps.try_send(v1::AttachRequest { step: Some(Step::Viewer(viewer)) }).ok();
        let opened = timeout(ANSWER_TIMEOUT, link.attach(outbound, request)).await;
        let replies = opened.map_err(|_| lost("no answer in time"))?.map_err(Refused::Agent)?;
        let mut call = Self { steps, replies };
        match call.reply().await? {
            Outcome::Target(v1::Target { port }) => match u16::try_from(port) {
                Ok(port) => Ok((call, port)),
                Err(_) => Err(lost("the answer names no port")),
            },
            Outcome::Refused(refused) => Err(refusal(&refused)),
            Outcome::Confirmed(_) => Err(lost("the answer is not understood")),
        }
    }

    async fn reply(&mut self) -> Result<Outcome, Refused> {
        match timeout(ANSWER_TIMEOUT, self.replies.message()).await {
            Ok(Ok(Some(v1::AttachReply { outcome: Some(outcome) }))) => Ok(outcome),
            Ok(Ok(_)) => Err(lost("the call has ended")),
            Ok(Err(status)) => Err(Refused::Agent(crate::agent_client::failure(&status))),
            Err(_) => Err(lost("no answer in time")),
        }
    }
}

fn message(wanted: &Wanted, viewer: Uuid, resumed: bool) -> v1::Viewer {
    let (token, port) = match &wanted.shown {
        Shown::Token(token) => (token.clone(), 0),
        Shown::Port(port) => (String::new(), u32::from(*port)),
    };
    v1::Viewer {
        node: wanted.node.to_string(),
        spawn_id: wanted.spawn.to_string(),
        token,
        viewer_id: viewer.to_string(),
        resumed,
        port,
    }
}

fn lost(why: &str) -> Refused {
    Refused::Agent(AgentError::Unknown { why: why.to_owned(), deadline: false })
}

fn refusal(refused: &v1::AttachRefused) -> Refused {
    match refused.reason() {
        Reason::Taken => Refused::Taken,
        Reason::NotFound | Reason::Unspecified => Refused::NotFound,
    }
}
