//! All nodes as of one moment, and what stands against each of them: for refusals, which count, and for callers that ask why.
//!
//! The registry, or the snapshot, has assessed each node with the code that places. Here the assessments meet one demand.
//!
//! Invariant: counts are made once for each demand, so that refusals share them, however many there are.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use model::api::{ExplainedNode, ExplanationSource};
use model::{Demand, NodeId, Placement};
use registry::{Assessment, Forecast, Foreseen, Judge, Verdict};

use super::why::{Chosen, passed_over, why};

/// Demands whose counts are kept. Callers choose labels freely.
const MAX_DEMANDS: usize = 64;

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Assessed {
    /// By name.
    nodes: Vec<Assessment>,
    pub(crate) source: ExplanationSource,
    /// Never held across an await.
    counted: Mutex<HashMap<Demand, Arc<BTreeMap<String, u32>>>>,
}

/// The verdicts on all nodes.
#[derive(Debug)]
pub(crate) struct Verdicts {
    /// Why the chosen node is chosen.
    pub(crate) chosen: Option<String>,
    /// Nodes that are not chosen, by verdict.
    pub(crate) reasons: BTreeMap<String, u32>,
    /// The nearest to being chosen first.
    pub(crate) nodes: Vec<ExplainedNode>,
    /// Nodes that are not listed.
    pub(crate) unlisted: usize,
}

impl Assessed {
    /// `nodes` are sorted by name.
    pub(crate) fn new(nodes: Vec<Assessment>, source: ExplanationSource) -> Self {
        Self { nodes, source, counted: Mutex::default() }
    }

    fn node(&self, node: &NodeId) -> Option<&Assessment> {
        let at = self.nodes.binary_search_by(|known| known.node.cmp(node)).ok()?;
        self.nodes.get(at)
    }

    /// How many nodes could not take a spawn that was refused, by reason. `passed_over`: nodes that gave nothing to this very
    /// request, and why, as a key.
    pub(crate) fn reasons(
        &self,
        demand: &Demand,
        passed_over: &[(NodeId, &'static str)],
    ) -> BTreeMap<String, u32> {
        let forecast = Forecast { outcome: Foreseen::Full, promised: Vec::new() };
        let judge = Judge::new(demand, &forecast, &[]);
        let mut reasons = (*self.counted(demand, &judge)).clone();
        for (node, key) in passed_over {
            let verdict = self.node(node).map(|of| self.against(&judge, of));
            if let Some(verdict) = verdict.filter(is_open) {
                if let Some(count) = reasons.get_mut(&*verdict.key()) {
                    *count -= 1;
                }
                *reasons.entry((*key).to_owned()).or_default() += 1;
            }
        }
        reasons.retain(|_, count| *count > 0);
        reasons
    }

    /// What spoke against a node when a request was refused. A snapshot is older than the refusal: what it shows as free was full.
    fn against<'a>(&self, judge: &Judge<'a>, of: &'a Assessment) -> Verdict<'a> {
        match (judge.verdict(of), self.source) {
            (Verdict::InLine, ExplanationSource::Snapshot) => Verdict::Full,
            (verdict, _) => verdict,
        }
    }

    fn counted<'a>(&'a self, demand: &Demand, judge: &Judge<'a>) -> Arc<BTreeMap<String, u32>> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = counted.get(demand) {
            return Arc::clone(known);
        }
        let mut reasons = BTreeMap::new();
        for of in &self.nodes {
            count(&mut reasons, self.against(judge, of).key());
        }
        let reasons = Arc::new(reasons);
        if counted.len() >= MAX_DEMANDS {
            counted.clear();
        }
        counted.insert(demand.clone(), Arc::clone(&reasons));
        reasons
    }

    /// The verdict on every node, of which at most `most` are listed.
    pub(crate) fn verdicts(
        &self,
        demand: &Demand,
        forecast: &Forecast,
        placement: Placement,
        passed: &[(NodeId, &'static str)],
        most: usize,
    ) -> Verdicts {
        let judge = Judge::new(demand, forecast, &self.nodes);
        let mut reasons = BTreeMap::new();
        let mut listed: Vec<(u8, Cow<'static, str>, Option<Verdict<'_>>, &Assessment)> = Vec::new();
        for of in &self.nodes {
            let verdict = judge.verdict(of);
            let passed_over = passed.iter().find(|(node, _)| *node == of.node && is_open(&verdict));
            let (key, verdict_of, rank) = match passed_over {
                Some((_, key)) => (Cow::Borrowed(*key), None, Verdict::Cordoned.rank()),
                None => (verdict.key(), Some(verdict), verdict.rank()),
            };
            if verdict != Verdict::Chosen {
                count(&mut reasons, key.clone());
            }
            listed.push((rank, key, verdict_of, of));
        }
        let equals = reasons.get(&*Verdict::Equal.key()).copied().unwrap_or_default();
        let slower = self.nodes.iter().filter(|of| judge.is_slower(of)).count();
        let chosen =
            Chosen::of(forecast, placement).map(|chosen| chosen.beside(equals, slower, judge.is_warm()));
        // The nodes come by name, and the order of those that are as near stays.
        listed.sort_by_key(|(rank, ..)| *rank);
        let unlisted = listed.len().saturating_sub(most);
        let say = |verdict: Option<Verdict<'_>>, key: &str, of: &Assessment| match verdict {
            Some(verdict) => why(&verdict, of, demand, chosen.as_ref(), judge.is_slower(of)),
            None => passed_over(key).to_owned(),
        };
        let node_of_choice = chosen.as_ref().map(|chosen| chosen.node);
        let first = listed.first().filter(|(.., of)| Some(&of.node) == node_of_choice);
        let why_chosen = first.map(|(_, key, verdict, of)| say(*verdict, key, of));
        let nodes = listed.into_iter().take(most).map(|(_, key, verdict, of)| ExplainedNode {
            node: of.node.clone(),
            why: say(verdict, &key, of),
            verdict: key.into_owned(),
        });
        Verdicts { nodes: nodes.collect(), chosen: why_chosen, reasons, unlisted }
    }
}

/// Whether it is the state of its slots or health that speaks against the node, which one request may know better.
fn is_open(verdict: &Verdict<'_>) -> bool {
    *verdict != Verdict::Chosen && verdict.rank() <= Verdict::Full.rank()
}

fn count(reasons: &mut BTreeMap<String, u32>, key: Cow<'static, str>) {
    match reasons.get_mut(&*key) {
        Some(count) => *count += 1,
        None => {
            reasons.insert(key.into_owned(), 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use model::{Availability, Eligibility, NodeKind, RendererType};
    use registry::{Offer, Room, Standing};

    use super::*;

    fn node(name: &str, used: u32) -> Assessment {
        let room = if used < 4 { Room::Free(f64::from(used) / 4.0) } else { Room::Full };
        let kind = NodeKind {
            pool: "default".into(),
            labels: [("sdk".into(), "1".into())].into(),
            dedicated: false,
        };
        Assessment {
            node: name.parse().unwrap(),
            kind: Some(Arc::new(kind)),
            eligibility: Eligibility::Eligible,
            availability: Availability::Up,
            slots: (used, 4),
            gpus: None,
            csr: Offer { room, failing: None, handicap: 1 },
            ssr: Offer::not_offered(),
        }
    }

    fn demand(sdk: &str) -> Demand {
        Demand { renderer: RendererType::Csr, pool: None, labels: [("sdk".into(), sdk.into())].into() }
    }

    fn counts(reasons: &BTreeMap<String, u32>) -> Vec<(&str, u32)> {
        reasons.iter().map(|(key, count)| (key.as_str(), *count)).collect()
    }

    #[test]
    fn a_refusal_counts_every_node_and_believes_what_the_request_met_itself() {
        let cordoned = Assessment { eligibility: Eligibility::Cordoned, ..node("c", 0) };
        let nodes = vec![node("a", 4), node("b", 2), cordoned, node("d", 4)];
        let assessed = Assessed::new(nodes, ExplanationSource::Registry);
        let reasons = assessed.reasons(&demand("1"), &[]);
        assert_eq!(counts(&reasons), [("cordoned", 1), ("full", 2), ("in line", 1)]);
        let met = ["b", "c", "gone"].map(|name| (name.parse().unwrap(), "memory")).to_vec();
        let reasons = assessed.reasons(&demand("1"), &met);
        assert_eq!(counts(&reasons), [("cordoned", 1), ("full", 2), ("memory", 1)]);
        assert_eq!(counts(&assessed.reasons(&demand("2"), &met)), [("label sdk", 4)]);
        let old = Assessed::new(vec![node("a", 2)], ExplanationSource::Snapshot);
        assert_eq!(counts(&old.reasons(&demand("1"), &[])), [("full", 1)], "it is older than the refusal");
    }

    #[test]
    fn between_nodes_that_are_as_loaded_the_reasons_name_the_warm_server_or_the_shorter_wait() {
        let with = |name: &str, handicap| {
            let of = node(name, 1);
            Assessment { csr: Offer { handicap, ..of.csr.clone() }, ..of }
        };
        for (best, what) in [(0, "has a warm server"), (2, "has fewer starts that wait")] {
            let assessed = Assessed::new(vec![with("a", 3), with("b", best)], ExplanationSource::Registry);
            let outcome = Foreseen::Slot { node: "b".parse().unwrap(), standing: Standing::Good };
            let forecast = Forecast { outcome, promised: Vec::new() };
            let verdicts = assessed.verdicts(&demand("1"), &forecast, Placement::Spread, &[], 4);
            let listed: Vec<_> =
                verdicts.nodes.iter().map(|one| (one.verdict.as_str(), one.why.as_str())).collect();
            let chosen = format!("1 of 4 slots are in use; 1 more node is as loaded, and this one {what}");
            let other = format!("1 of 4 slots are in use; b is as loaded and {what}");
            assert_eq!(listed, [("chosen", chosen.as_str()), ("outranked", other.as_str())]);
        }
    }

    #[test]
    fn the_nearest_nodes_are_listed_and_all_are_counted() {
        let nodes = (0..9).map(|n| node(&format!("n{n}"), [4, 1, 0][n % 3])).collect();
        let assessed = Assessed::new(nodes, ExplanationSource::Registry);
        let outcome = Foreseen::Slot { node: "n5".parse().unwrap(), standing: Standing::Good };
        let forecast = Forecast { outcome, promised: Vec::new() };
        let verdicts = assessed.verdicts(&demand("1"), &forecast, Placement::Spread, &[], 4);
        let listed: Vec<_> =
            verdicts.nodes.iter().map(|one| (one.node.as_str(), one.verdict.as_str())).collect();
        assert_eq!(listed, [("n5", "chosen"), ("n2", "equal"), ("n8", "equal"), ("n1", "outranked")]);
        assert_eq!(counts(&verdicts.reasons), [("equal", 2), ("full", 3), ("outranked", 3)]);
        assert_eq!(verdicts.unlisted, 5);
        let unreachable =
            vec![("n2".parse().unwrap(), "unreachable"), ("n5".parse().unwrap(), "unreachable")];
        let verdicts = assessed.verdicts(&demand("1"), &forecast, Placement::Spread, &unreachable, 9);
        let of = |name: &str| verdicts.nodes.iter().find(|one| one.node.as_str() == name).unwrap();
        assert_eq!((of("n2").verdict.as_str(), of("n5").verdict.as_str()), ("unreachable", "chosen"));
    }
}
