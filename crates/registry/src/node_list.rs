//! Lists of nodes in pages, by name: what is asked for, what comes back, and the cursor between two pages, which is the last name looked at.

use model::{Availability, Eligibility, HealthState, NodeId, NodeRecord};

use crate::ask::MAX_LOOKED_AT;

/// Which nodes to list: those for which all that is given holds.
#[derive(Debug, Clone, Default)]
pub struct NodeFilter {
    /// Only those of this pool.
    pub pool: Option<String>,
    /// Only those that carry all of these labels.
    pub labels: Vec<(String, String)>,
    /// Only those that are so.
    pub availability: Option<Availability>,
    /// Only those that are so.
    pub eligibility: Option<Eligibility>,
    /// Only those that are so.
    pub health: Option<HealthState>,
    /// The most to return; 0 counts as 1.
    pub limit: usize,
    /// Continue after this node, see [`NodePage::next`].
    pub cursor: Option<NodeId>,
}

impl NodeFilter {
    /// Whether a node is wanted.
    #[must_use]
    pub fn takes(&self, node: &NodeRecord) -> bool {
        let kind = &node.description.kind;
        self.pool.as_ref().is_none_or(|pool| *pool == kind.pool)
            && self.availability.is_none_or(|wanted| wanted == node.availability)
            && self.eligibility.is_none_or(|wanted| wanted == node.eligibility)
            && self.health.is_none_or(|wanted| wanted == node.health.state)
            && self.labels.iter().all(|(key, value)| kind.labels.get(key) == Some(value))
    }

    fn is_sifting(&self) -> bool {
        self.pool.is_some()
            || !self.labels.is_empty()
            || self.availability.is_some()
            || self.eligibility.is_some()
            || self.health.is_some()
    }
}

/// One page of nodes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodePage {
    /// By name. May be fewer than were asked for, or none, and not be the last page: so many are looked at for one page.
    pub nodes: Vec<NodeRecord>,
    /// Where the next page starts; absent on the last.
    pub next: Option<NodeId>,
    /// Nodes that were looked at for it.
    pub looked_at: usize,
}

/// A page that is being made.
#[derive(Debug)]
pub(crate) struct Paging<'a> {
    filter: &'a NodeFilter,
    page: NodePage,
    last: Option<NodeId>,
}

impl<'a> Paging<'a> {
    pub(crate) fn new(filter: &'a NodeFilter) -> Self {
        Self { filter, page: NodePage::default(), last: None }
    }

    /// How many to read next, of so many at the most: no more than fit if all of them are wanted, and one to know whether more are there.
    pub(crate) fn wants(&self, most: usize) -> usize {
        if self.filter.is_sifting() {
            return most;
        }
        self.filter.limit.max(1).saturating_sub(self.page.nodes.len()).saturating_add(1).min(most)
    }

    /// Looks at the next node; returns `false` when it finds no room.
    pub(crate) fn look_at(&mut self, node: NodeRecord) -> bool {
        if self.page.nodes.len() >= self.filter.limit.max(1) || self.page.looked_at >= MAX_LOOKED_AT {
            return false;
        }
        self.page.looked_at += 1;
        self.last = Some(node.id.clone());
        if self.filter.takes(&node) {
            self.page.nodes.push(node);
        }
        true
    }

    /// The page, which others follow.
    pub(crate) fn more(self) -> NodePage {
        NodePage { next: self.last, ..self.page }
    }

    /// The page, which is the last.
    pub(crate) fn last(self) -> NodePage {
        self.page
    }
}
