//! A part of all spawns as a topic: `spawns?node=node-a&owner=web&tag=user=ann`, in the words of `GET /v1/spawns`.

use std::collections::BTreeMap;

use model::tags::MAX_TAGS;
use model::{NodeId, Owner, Tag};

use crate::callers::OwnerNames;

/// Bytes of such a topic.
const MAX_TEXT: usize = 1024;

/// Which spawns. Equal ones are one topic; what is sent on it names it as the subscriber wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Narrowed {
    text: String,
    /// Those of this node.
    pub(super) node: Option<NodeId>,
    owner: Option<String>,
    /// Those of one of these owners; see [`Self::resolved`].
    pub(super) owners: Option<Vec<Owner>>,
    /// Those that have all of these.
    pub(super) tags: Vec<Tag>,
}

impl Narrowed {
    /// Reads what stands after `spawns?`.
    pub(super) fn parse(text: &str, query: &str) -> Result<Self, String> {
        if text.len() > MAX_TEXT {
            return Err(format!("a topic has at most {MAX_TEXT} bytes, not {}", text.len()));
        }
        let mut narrowed =
            Self { text: text.to_owned(), node: None, owner: None, owners: None, tags: Vec::new() };
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let once = |given: bool| if given { Err(format!("{name} must be given once")) } else { Ok(()) };
            match &*name {
                "node" => {
                    once(narrowed.node.is_some())?;
                    narrowed.node = Some(value.parse().map_err(|why| format!("the node's name {why}"))?);
                }
                "owner" => {
                    once(narrowed.owner.is_some())?;
                    narrowed.owner = Some(value.into_owned());
                }
                "tag" if narrowed.tags.len() == MAX_TAGS => {
                    return Err(format!("tag must be given at most {MAX_TAGS} times"));
                }
                "tag" => narrowed.tags.push(value.parse().map_err(|why| format!("tag: {why}"))?),
                _ => return Err("spawns are narrowed by node, owner and tag".to_owned()),
            }
        }
        if narrowed.node.is_none() && narrowed.owner.is_none() && narrowed.tags.is_empty() {
            return Err("after spawns? comes node, owner or tag".to_owned());
        }
        Ok(narrowed)
    }

    /// The topic as its subscriber wrote it.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// With the owners that its name stands for now.
    ///
    /// # Errors
    /// It can be no owner's.
    pub(super) fn resolved(self, names: &OwnerNames) -> Result<Self, String> {
        let owners = self.owner.as_ref().map(|owner| names.meant(owner)).transpose();
        Ok(Self { owners: owners.map_err(|why| format!("owner: {why}"))?, ..self })
    }

    /// Whether it takes a spawn of this node, owner and tags.
    pub(super) fn takes(
        &self,
        node: Option<&NodeId>,
        owner: Option<&Owner>,
        tags: &BTreeMap<String, String>,
    ) -> bool {
        let owned = |owners: &Vec<Owner>| owner.is_some_and(|owner| owners.contains(owner));
        self.node.as_ref().is_none_or(|wanted| node == Some(wanted))
            && self.owners.as_ref().is_none_or(owned)
            && self.tags.iter().all(|tag| tag.is_in(tags))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Narrowed, String> {
        Narrowed::parse(&format!("spawns?{query}"), query)
    }

    #[test]
    fn spawns_are_narrowed_in_the_words_of_the_list() {
        let narrowed = parse("node=a&tag=user%3Dann%26bob&tag=x=y&owner=web").unwrap();
        let narrowed = narrowed.resolved(&OwnerNames::default()).unwrap();
        let [a, b]: [NodeId; 2] = ["a", "b"].map(|name| name.parse().unwrap());
        let [web, other]: [Owner; 2] = ["web", "key:other"].map(|name| name.parse().unwrap());
        let tags = BTreeMap::from([("user", "ann&bob"), ("x", "y"), ("z", "")]);
        let tags = tags.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        assert!(narrowed.takes(Some(&a), Some(&web), &tags));
        for (node, owner, tags) in [
            (Some(&b), Some(&web), &tags),
            (None, Some(&web), &tags),
            (Some(&a), Some(&other), &tags),
            (Some(&a), None, &tags),
            (Some(&a), Some(&web), &BTreeMap::new()),
        ] {
            assert!(!narrowed.takes(node, owner, tags), "{node:?} {owner:?} {tags:?}");
        }
        assert_eq!(narrowed.text(), "spawns?node=a&tag=user%3Dann%26bob&tag=x=y&owner=web");
        for wrong in
            ["", "node=", "node=a b", "node=a&node=b", "owner=a&owner=b", "tag=x", "state=ready", "nodes"]
        {
            parse(wrong).unwrap_err();
        }
        let long = "x".repeat(MAX_TEXT);
        parse(&format!("owner={long}")).unwrap_err();
        let many = "tag=a=b&".repeat(MAX_TAGS + 1);
        parse(&many).unwrap_err();
        parse("owner=%07").unwrap().resolved(&OwnerNames::default()).unwrap_err();
    }
}
