//! How far a request has come, for those who watch it: its own caller, and callers that repeat it with its `Idempotency-Key`.
//!
//! ```text
//!  begun ─▶ queued (position) ─▶ starting (node) ─▶ the answer
//!              ▲                     │
//!              └── the start failed ─┘
//! ```
//!
//! Invariant: only the newest stage is kept, so a watcher that is slow misses stages and holds nothing up.

use std::convert::Infallible;
use std::sync::Arc;

use model::NodeId;
use tokio::sync::watch;

/// The stage that a request is at.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum Stage {
    #[default]
    Begun,
    /// In line; `None` until its position has been read.
    Queued(Option<LinePosition>),
    /// On this node.
    Starting(NodeId),
}

/// A place in line, as of the last look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LinePosition {
    /// 1: it is next.
    pub(crate) position: u64,
    /// Seconds until its turn, at the pace of the last minute; `None` while that is not known.
    pub(crate) estimate: Option<u64>,
}

/// Where a request reports its stages; cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<watch::Sender<Stage>>);

impl Progress {
    /// The stages from now on; the present one counts as seen.
    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.0.subscribe()
    }

    pub(crate) fn is_watched(&self) -> bool {
        self.0.receiver_count() > 0
    }

    /// It joins the line.
    pub(crate) fn queue(&self) {
        self.0.send_replace(Stage::Queued(None));
    }

    /// Where it stands in line. One that has a slot meanwhile is not put back by a look at the line that was made before.
    pub(crate) fn place(&self, position: LinePosition) {
        let now = Stage::Queued(Some(position));
        self.0.send_if_modified(|stage| {
            let news = !matches!(stage, Stage::Starting(_)) && *stage != now;
            if news {
                *stage = now;
            }
            news
        });
    }

    /// It starts on this node.
    pub(crate) fn start(&self, node: &NodeId) {
        self.0.send_replace(Stage::Starting(node.clone()));
    }

    /// Takes over every stage of another request, for ever.
    pub(crate) async fn follow(&self, other: &Self) -> Infallible {
        let mut stages = other.watch();
        loop {
            self.copy(&stages.borrow_and_update().clone());
            if stages.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Takes over the stage that the other is at.
    fn copy(&self, stage: &Stage) {
        self.0.send_if_modified(|own| {
            // A position is read for each watcher; what has none yet says less than one that is known.
            let less = matches!((&*own, stage), (_, Stage::Begun) | (Stage::Queued(_), Stage::Queued(None)));
            let news = !less && *own != *stage;
            if news {
                own.clone_from(stage);
            }
            news
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> LinePosition {
        LinePosition { position, estimate: None }
    }

    fn stage(progress: &Progress) -> Stage {
        progress.0.borrow().clone()
    }

    #[test]
    fn a_look_at_the_line_that_is_late_does_not_take_a_start_back() {
        let (progress, node) = (Progress::default(), "a".parse().unwrap());
        progress.place(at(2));
        assert_eq!(stage(&progress), Stage::Queued(Some(at(2))));
        progress.start(&node);
        progress.place(at(1));
        assert_eq!(stage(&progress), Stage::Starting(node));
        progress.queue();
        progress.place(at(1));
        assert_eq!(stage(&progress), Stage::Queued(Some(at(1))));
    }

    #[test]
    fn what_is_the_same_is_no_news() {
        let progress = Progress::default();
        assert!(!progress.is_watched());
        let mut stages = progress.watch();
        assert!(progress.is_watched());
        progress.place(at(3));
        assert!(stages.has_changed().unwrap());
        stages.mark_unchanged();
        progress.place(at(3));
        assert!(!stages.has_changed().unwrap());
    }

    #[tokio::test]
    async fn one_that_follows_keeps_a_position_that_the_other_does_not_know() {
        let (own, other) = (Progress::default(), Progress::default());
        own.place(at(4));
        other.queue();
        let mut stages = own.watch();
        let following = async {
            other.start(&"a".parse().unwrap());
            stages.wait_for(|stage| matches!(stage, Stage::Starting(_))).await.unwrap().clone()
        };
        own.copy(&stage(&other));
        assert_eq!(stage(&own), Stage::Queued(Some(at(4))));
        tokio::select! {
            never = own.follow(&other) => match never {},
            seen = following => assert_eq!(seen, Stage::Starting("a".parse().unwrap())),
        }
    }
}
