//! Verdicts on nodes in the words of a person, with the key that programs compare. It explains what the placement's own code has
//! judged and decides nothing.

use model::{Demand, Misfit, NodeId, Placement, RendererType};
use registry::{Assessment, Forecast, Foreseen, Standing, Verdict};
use wire::v1::refused::Reason;

use super::attempts::AttemptFailure;

/// The node that is chosen, and how.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    pub(super) node: &'a NodeId,
    standing: Standing,
    placement: Placement,
    /// Nodes that are as good.
    equals: u32,
    /// Nodes that are as loaded, and give a spawn later.
    slower: usize,
    /// It has a warm server.
    is_warm: bool,
}

impl<'a> Chosen<'a> {
    /// `None` where no node is.
    pub(super) fn of(forecast: &'a Forecast, placement: Placement) -> Option<Self> {
        match &forecast.outcome {
            Foreseen::Slot { node, standing } => {
                Some(Self { node, standing: *standing, placement, equals: 0, slower: 0, is_warm: false })
            }
            Foreseen::Full | Foreseen::NoMatch { .. } | Foreseen::OverQuota => None,
        }
    }

    /// Beside so many nodes that are as good, and so many that are as loaded and slower.
    pub(super) fn beside(self, equals: u32, slower: usize, is_warm: bool) -> Self {
        Self { equals, slower, is_warm, ..self }
    }

    fn is_first(&self, of: &Assessment, renderer: RendererType) -> String {
        let in_use = in_use(of, renderer);
        let failing = of.offer(renderer).failing.as_deref().unwrap_or("the reason is not known");
        match (self.standing, self.placement) {
            (Standing::Probe, _) => {
                format!("starts have failed there ({failing}), and it is due for another try; {in_use}")
            }
            (Standing::LastChoice, _) => {
                format!("starts fail there ({failing}), and no other suitable node has room; {in_use}")
            }
            (Standing::Good | Standing::Watched, _) if self.equals > 0 => {
                let nodes = if self.equals == 1 { "node is" } else { "nodes are" };
                format!("{in_use}; {} more {nodes} as good, and chance decides", self.equals)
            }
            (Standing::Good | Standing::Watched, _) if self.slower > 0 => {
                let nodes = if self.slower == 1 { "node is" } else { "nodes are" };
                format!("{in_use}; {} more {nodes} as loaded, and this one {}", self.slower, self.sooner())
            }
            (Standing::Good | Standing::Watched, Placement::Spread) => {
                format!("it is the least loaded: {in_use}")
            }
            (Standing::Good | Standing::Watched, Placement::Pack) => {
                format!("it is the most loaded that has room: {in_use}")
            }
        }
    }

    /// What decides between nodes that are as loaded.
    fn sooner(&self) -> &'static str {
        if self.is_warm { "has a warm server" } else { "has fewer starts that wait" }
    }

    fn is_before(&self, is_slower: bool) -> String {
        let node = self.node;
        match (self.standing, self.placement) {
            (Standing::Good | Standing::Watched, _) if is_slower => {
                format!("{node} is as loaded and {}", self.sooner())
            }
            (Standing::Probe, _) => format!("{node} is due for another try"),
            (Standing::LastChoice, _) => format!("{node} goes first"),
            (Standing::Good | Standing::Watched, Placement::Spread) => format!("{node} is less loaded"),
            (Standing::Good | Standing::Watched, Placement::Pack) => format!("{node} is more loaded"),
        }
    }
}

/// Why a node has this verdict. `is_slower`: it is as loaded as the chosen one, and gives a spawn later.
pub(super) fn why(
    verdict: &Verdict<'_>,
    of: &Assessment,
    demand: &Demand,
    chosen: Option<&Chosen<'_>>,
    is_slower: bool,
) -> String {
    let in_use = || in_use(of, demand.renderer);
    match *verdict {
        Verdict::Chosen => chosen.map_or_else(in_use, |chosen| chosen.is_first(of, demand.renderer)),
        Verdict::Equal => match chosen {
            Some(chosen) => format!("as good as {}, and chance decides: {}", chosen.node, in_use()),
            None => in_use(),
        },
        Verdict::Outranked => match chosen {
            Some(chosen) => format!("{}; {}", in_use(), chosen.is_before(is_slower)),
            None => in_use(),
        },
        Verdict::InLine => format!(
            "{}; what is free came free a moment ago, or is promised to requests that wait in line",
            in_use()
        ),
        Verdict::OverQuota => "it has room, but the caller has as many spawns as it may have".to_owned(),
        Verdict::Failing(reason) => format!("starts fail there: {reason}"),
        Verdict::GpuFull | Verdict::Full => in_use(),
        Verdict::Draining => "an operator is emptying it".to_owned(),
        Verdict::Cordoned => "an operator has closed it to new spawns".to_owned(),
        Verdict::Stale => "its heartbeats are late".to_owned(),
        Verdict::Down => "it has been silent for too long".to_owned(),
        Verdict::Renderer => format!("it does not offer {}", demand.renderer),
        Verdict::Misfit(misfit) => {
            let pool = of.kind.as_ref().map_or("", |kind| kind.pool.as_str());
            lacks(misfit, pool, demand.pool.as_deref().unwrap_or_default())
        }
        Verdict::Unreadable => {
            "what the registry keeps of it is damaged; its next heartbeat repairs it".to_owned()
        }
    }
}

fn lacks(misfit: Misfit<'_>, pool: &str, wanted_pool: &str) -> String {
    match misfit {
        Misfit::Pool => format!("its pool is {pool}, not {wanted_pool}"),
        Misfit::Dedicated => format!("its pool, {pool}, is only for requests that name it"),
        Misfit::Label { name, wanted, found: None } => {
            format!("it has no label {name}; the request wants {name}={wanted}")
        }
        Misfit::Label { name, wanted, found: Some(found) } => {
            format!("its label {name} is {found}, not {wanted}")
        }
    }
}

/// `3 of 4 slots are in use`.
fn in_use(of: &Assessment, renderer: RendererType) -> String {
    let (used, total) = of.slots;
    match of.gpus.filter(|_| renderer == RendererType::Ssr) {
        Some((gpu_used, gpus)) => {
            format!("{used} of {total} slots and {gpu_used} of {gpus} GPU slots are in use")
        }
        None => format!("{used} of {total} slots are in use"),
    }
}

/// The key for a node that its agent cannot be reached on.
pub(super) const UNREACHABLE: &str = "unreachable";
/// The key for a node that an operator has closed.
pub(super) const CORDONED: &str = "cordoned";

/// What a node that gave nothing to one request counts as.
pub(super) fn key_of(failure: &AttemptFailure) -> &'static str {
    match failure {
        AttemptFailure::Ended(_) | AttemptFailure::Unanswered { .. } => "failed",
        AttemptFailure::Unreachable { .. } => UNREACHABLE,
        AttemptFailure::Refused { reason, .. } => match reason {
            Reason::Full => "full",
            Reason::GpusFull => "gpu full",
            Reason::NoPort => "no port",
            Reason::NotEligible => CORDONED,
            Reason::RendererOff => "renderer",
            Reason::LowMemory => "memory",
            Reason::CannotStart => "cannot start",
            Reason::StartsBusy => "busy starting",
            Reason::Unspecified
            | Reason::Abandoned
            | Reason::BadModel
            | Reason::ShuttingDown
            | Reason::WrongNode => "refused",
        },
    }
}

/// The same in words, for a node that a request would not be sent to.
pub(super) fn passed_over(key: &str) -> &'static str {
    match key {
        UNREACHABLE => "its agent could not be reached a moment ago",
        CORDONED => "an operator has closed it, and the registry has not got that back yet",
        _ => "it would not be asked",
    }
}
