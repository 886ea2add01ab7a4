//! Which spawns a command means: the flags that `spawns` and `stop` share, as a query, for people, and held against a spawn.

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use model::api::Spawn;
use model::tags::Tag;
use model::{ExitReason, NodeId, RendererType, SpawnState};

use crate::args::{reason, renderer, state};

/// What a spawn must be like: all that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Filter {
    /// Only those with this tag; may be repeated, all must hold
    #[arg(long = "tag", value_name = "KEY=VALUE")]
    pub(crate) tags: Vec<Tag>,
    /// Only those of this owner: the name or id of a key, or an owner as `hatchery show` has it
    #[arg(long, value_name = "OWNER", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) owner: Option<String>,
    /// Only those of this node
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<NodeId>,
    /// Only those in this state
    #[arg(long, value_name = "STATE", value_parser = state())]
    pub(crate) state: Option<SpawnState>,
    /// Only those that are rendered so
    #[arg(long, value_name = "TYPE", value_parser = renderer())]
    pub(crate) renderer: Option<RendererType>,
    /// How and when they ended, where a command asks for that
    #[arg(skip)]
    pub(crate) ends: Ends,
}

/// How and when a spawn must have ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
#[command(next_help_heading = "Filter")]
pub(crate) struct Ends {
    /// Only those that ended for this reason
    #[arg(long, value_name = "REASON", value_parser = reason())]
    pub(crate) reason: Option<ExitReason>,
    /// Only those that ended at this time (2026-01-31T08:00:00Z) or later, or so long ago at the most (24h)
    #[arg(long, value_name = "TIME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) since: Option<String>,
    /// Only those that ended before this time, written as --since
    #[arg(long, value_name = "TIME", value_parser = NonEmptyStringValueParser::new())]
    pub(crate) until: Option<String>,
}

impl Filter {
    /// Those of one node, in one state, or both.
    pub(crate) fn of(node: Option<&NodeId>, state: Option<SpawnState>) -> Self {
        Self { node: node.cloned(), state, ..Self::default() }
    }

    /// Whether it leaves nothing out.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The same for another state.
    pub(crate) fn with_state(&self, state: SpawnState) -> Self {
        Self { state: Some(state), ..self.clone() }
    }

    /// Names and values of the query.
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        query.extend(self.node.as_ref().map(|node| ("node", node.to_string())));
        query.extend(self.state.map(|state| ("state", state.to_string())));
        query.extend(self.owner.clone().map(|owner| ("owner", owner)));
        query.extend(self.tags.iter().map(|tag| ("tag", tag.to_string())));
        query.extend(self.renderer.map(|renderer| ("renderer", renderer.to_string())));
        query.extend(self.ends.reason.map(|reason| ("reason", reason.to_string())));
        query.extend(self.ends.since.clone().map(|since| ("since", since)));
        query.extend(self.ends.until.clone().map(|until| ("until", until)));
        query
    }

    /// Whether a spawn is meant. An owner by the id of a key that has a name is known to the front door alone.
    pub(crate) fn takes(&self, spawn: &Spawn) -> bool {
        let owned = |wanted: &String| {
            let owner = spawn.owner.as_deref();
            owner == Some(wanted) || owner.and_then(|owner| owner.strip_prefix("key:")) == Some(wanted)
        };
        self.node.as_ref().is_none_or(|node| *node == spawn.node)
            && self.state.is_none_or(|state| state == spawn.state)
            && self.renderer.is_none_or(|renderer| renderer == spawn.renderer_type)
            && self.owner.as_ref().is_none_or(owned)
            && self.tags.iter().all(|tag| tag.is_in(&spawn.tags))
    }

    /// For people: ` with tag user=ann, of owner web, on node-a, in state ready`.
    pub(crate) fn words(&self) -> String {
        let mut words: Vec<String> = self.tags.iter().map(|tag| format!("with tag {tag}")).collect();
        words.extend(self.owner.as_ref().map(|owner| format!("of owner {owner}")));
        words.extend(self.node.as_ref().map(|node| format!("on node {node}")));
        words.extend(self.state.map(|state| format!("in state {state}")));
        words.extend(self.renderer.map(|renderer| format!("rendered as {renderer}")));
        if words.is_empty() { String::new() } else { format!(" {}", words.join(", ")) }
    }
}
