//! Which narrowed topics an event may belong to, without a look at each of them: an event costs as much with ten thousand such topics as with ten
//! that it does not belong to.
//!
//! A topic stands under its node, its owner and one of its tags, as far as it has them; under each of its owners where its name stands for several.
//! Of its tags it is the one under which the fewest topics stand, so topics that have one tag in common do not all stand together. An event
//! is looked up under each combination of what its spawn has.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use model::{NodeId, Owner};

use super::narrowed::Narrowed;
use super::protocol::Topic;

/// What a topic stands under. Every one has at least one of them, unless its owner's name stands for no owner: then no event belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Place {
    node: Option<NodeId>,
    owner: Option<Owner>,
    tag: Option<(String, String)>,
}

/// See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct NarrowedIndex {
    topics: HashMap<Place, HashSet<Arc<Topic>>>,
    places: HashMap<Arc<Topic>, Vec<Place>>,
}

impl NarrowedIndex {
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Adds a topic, if it is narrowed and not there.
    pub(super) fn add(&mut self, topic: &Arc<Topic>) {
        let Topic::Narrowed(narrowed) = &**topic else { return };
        if self.places.contains_key(topic) {
            return;
        }
        let places = self.places_for(narrowed);
        for place in &places {
            self.topics.entry(place.clone()).or_default().insert(Arc::clone(topic));
        }
        self.places.insert(Arc::clone(topic), places);
    }

    pub(super) fn remove(&mut self, topic: &Arc<Topic>) {
        for place in self.places.remove(topic).into_iter().flatten() {
            if let Some(topics) = self.topics.get_mut(&place) {
                topics.remove(topic);
                if topics.is_empty() {
                    self.topics.remove(&place);
                }
            }
        }
    }

    fn places_for(&self, narrowed: &Narrowed) -> Vec<Place> {
        let owners = match &narrowed.owners {
            None => vec![None],
            Some(owners) => owners.iter().cloned().map(Some).collect(),
        };
        let under = |owner: Option<Owner>| {
            let under = |tag| Place { node: narrowed.node.clone(), owner: owner.clone(), tag };
            let tagged = narrowed.tags.iter().map(|tag| under(Some((tag.key.clone(), tag.value.clone()))));
            let count = |place: &Place| self.topics.get(place).map_or(0, HashSet::len);
            tagged.min_by_key(count).unwrap_or_else(|| under(None))
        };
        owners.into_iter().map(under).collect()
    }

    /// Adds the topics that an event about such a spawn may belong to.
    pub(super) fn find(
        &self,
        node: Option<&NodeId>,
        owner: Option<&Owner>,
        tags: &BTreeMap<String, String>,
        found: &mut HashSet<Arc<Topic>>,
    ) {
        if self.is_empty() {
            return;
        }
        let nodes = [None, node];
        let owners = [None, owner];
        let pairs = tags.iter().map(|(key, value)| Some((key.clone(), value.clone())));
        for tag in std::iter::once(None).chain(pairs) {
            for node in &nodes[usize::from(node.is_none())..] {
                for owner in &owners[usize::from(owner.is_none())..] {
                    let place = Place { node: node.cloned(), owner: owner.cloned(), tag: tag.clone() };
                    found.extend(self.topics.get(&place).into_iter().flatten().cloned());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::callers::OwnerNames;

    fn topic(text: &str) -> Arc<Topic> {
        Arc::new(text.parse::<Topic>().unwrap().resolved(&OwnerNames::default()).unwrap())
    }

    fn tags(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn found(index: &NarrowedIndex, node: &str, owner: Option<&str>, pairs: &[(&str, &str)]) -> Vec<String> {
        let (node, owner) = (node.parse().unwrap(), owner.map(|owner| owner.parse().unwrap()));
        let mut found = HashSet::new();
        index.find(Some(&node), owner.as_ref(), &tags(pairs), &mut found);
        let mut found: Vec<String> = found.iter().map(ToString::to_string).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn an_event_is_held_against_no_topic_of_another_node_owner_or_tag() {
        let mut index = NarrowedIndex::default();
        for number in 0..1000 {
            index.add(&topic(&format!("spawns?tag=k=v{number}")));
            index.add(&topic(&format!("spawns?node=n{number}")));
            index.add(&topic(&format!("spawns?owner=o{number}")));
            index.add(&topic(&format!("spawns?node=a&tag=user=u{number}")));
            // They have one tag in common, and differ in another.
            index.add(&topic(&format!("spawns?tag=x=y&tag=z=z{number}")));
        }
        assert_eq!(found(&index, "a", Some("web"), &[("k", "w"), ("user", "ann")]), [""; 0]);
        assert_eq!(
            found(&index, "n7", Some("o8"), &[("k", "v9"), ("user", "u1")]),
            ["spawns?node=n7", "spawns?owner=o8", "spawns?tag=k=v9"]
        );
        assert_eq!(found(&index, "a", None, &[("user", "u1")]), ["spawns?node=a&tag=user=u1"]);
        assert!(
            found(&index, "a", None, &[("x", "y"), ("z", "z5")])
                .contains(&"spawns?tag=x=y&tag=z=z5".to_owned())
        );
        assert!(found(&index, "a", None, &[("x", "y")]).len() <= 1);
    }

    #[test]
    fn a_topic_that_was_removed_leaves_nothing() {
        let mut index = NarrowedIndex::default();
        let topics = ["spawns?node=a&owner=b&tag=c=d&tag=e=f", "spawns?owner=b", "spawns?tag=e=f"].map(topic);
        for topic in topics.iter().chain(&topics) {
            index.add(topic);
        }
        assert_eq!(found(&index, "a", Some("b"), &[("c", "d"), ("e", "f")]).len(), 3);
        topics.iter().for_each(|topic| index.remove(topic));
        assert!(index.is_empty() && index.topics.is_empty());
    }
}
