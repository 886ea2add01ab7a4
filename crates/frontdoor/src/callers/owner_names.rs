//! What owners are called: the names of API keys, as their file has them now.
//!
//! Records, events and rights go by the owner itself, which never changes. A name stands in answers only: it may be changed, given
//! to several keys, and is gone with its key.

use access::Access;
use access::api_key::{KeyId, check_name};
use model::api::{Node, Spawn};
use model::{Event, NodeRecord, Owner, SpawnRecord};

/// See the module's documentation. Without credentials owners have no names.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnerNames(Option<Access>);

impl OwnerNames {
    pub(crate) fn new(access: Option<Access>) -> Self {
        Self(access)
    }

    /// The name of the owner, or the owner itself.
    pub(crate) fn shown(&self, owner: &Owner) -> String {
        self.name(owner).unwrap_or_else(|| owner.to_string())
    }

    /// Whether this owner has a name.
    pub(crate) fn knows(&self, owner: Option<&Owner>) -> bool {
        owner.is_some_and(|owner| self.name(owner).is_some())
    }

    fn name(&self, owner: &Owner) -> Option<String> {
        self.0.as_ref()?.name_of(owner)
    }

    /// A spawn as one call shows it, with its history.
    pub(crate) fn whole(&self, record: SpawnRecord) -> Spawn {
        let owner = record.owner.as_ref().map(|owner| self.shown(owner));
        let events = record.events.into_iter().map(|event| self.named(event)).collect();
        Spawn { owner, ..Spawn::whole(SpawnRecord { events, ..record }) }
    }

    /// A spawn as lists show it.
    pub(crate) fn listed(&self, record: SpawnRecord) -> Spawn {
        let owner = record.owner.as_ref().map(|owner| self.shown(owner));
        Spawn { owner, ..Spawn::listed(record) }
    }

    /// A node, with the name of the operator that has it drained.
    pub(crate) fn node(&self, record: NodeRecord) -> Node {
        let mut node = Node::from(record);
        if let Some(by) = node.drain.as_mut().and_then(|drain| drain.by.as_mut())
            && let Some(name) = by.parse::<Owner>().ok().and_then(|owner| self.name(&owner))
        {
            *by = name;
        }
        node
    }

    /// An event with the names of its owner and of the operator that it is by.
    pub(crate) fn named(&self, mut event: Event) -> Event {
        for field in ["owner", "by"].into_iter().filter(|_| self.0.is_some()) {
            if let Some(name) = event.field::<Owner>(field).and_then(|owner| self.name(&owner)) {
                event.data.insert(field.to_owned(), name.into());
            }
        }
        event
    }

    /// The owners that a filter means: that of the key with this id, those of all keys with this name, and the one that is
    /// written so itself.
    ///
    /// # Errors
    /// It can be neither.
    pub(crate) fn meant(&self, text: &str) -> Result<Vec<Owner>, String> {
        let itself = text.parse::<Owner>();
        if let (Err(_), Err(why)) = (&itself, check_name(text)) {
            return Err(why);
        }
        let mut owners: Vec<Owner> = itself.into_iter().collect();
        owners.extend(text.parse::<KeyId>().ok().and_then(|id| id.owner()));
        owners.extend(self.0.iter().flat_map(|access| access.owners_with_name(text)));
        owners.sort_unstable();
        owners.dedup();
        Ok(owners)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use access::Options;

    use super::*;

    fn names() -> (tempfile::TempDir, OwnerNames) {
        let dir = tempfile::tempdir().unwrap();
        let hash = "0".repeat(64);
        let key = |id: &str, name: &str| {
            format!(r#"{{"id":"{id}","name":"{name}","sha256":"{hash}","scopes":["read"]}}"#)
        };
        let path = dir.path().join("keys");
        let lines =
            [key("aaaaaaaaaaaa", "web é"), key("bbbbbbbbbbbb", "web é"), key("cccccccccccc", "aaaaaaaaaaaa")];
        fs::write(&path, lines.join("\n")).unwrap();
        let options = Options { api_keys: Some(path), ..Options::default() };
        (dir, OwnerNames::new(Access::open(&options).unwrap()))
    }

    #[test]
    fn a_filter_takes_names_ids_and_owners() {
        let (_dir, names) = names();
        for (text, owners) in [
            ("web é", &["key:aaaaaaaaaaaa", "key:bbbbbbbbbbbb"][..]),
            ("bbbbbbbbbbbb", &["bbbbbbbbbbbb", "key:bbbbbbbbbbbb"]),
            // One key's id is another one's name.
            ("aaaaaaaaaaaa", &["aaaaaaaaaaaa", "key:aaaaaaaaaaaa", "key:cccccccccccc"]),
            ("key:bbbbbbbbbbbb", &["key:bbbbbbbbbbbb"]),
            ("jwt:ann", &["jwt:ann"]),
            // A key that was revoked.
            ("dddddddddddd", &["dddddddddddd", "key:dddddddddddd"]),
            ("no such name", &[]),
        ] {
            let meant = names.meant(text).unwrap();
            assert_eq!(meant.iter().map(Owner::as_str).collect::<Vec<_>>(), owners, "{text}");
        }
        for wrong in ["", "a\u{1b}b", &"x y".repeat(100)] {
            names.meant(wrong).unwrap_err();
        }
        assert_eq!(OwnerNames::default().meant("web").unwrap().len(), 1);
    }

    #[test]
    fn an_owner_is_shown_by_its_name_or_as_it_is() {
        let (_dir, names) = names();
        let shown = |owner: &str| names.shown(&owner.parse().unwrap());
        assert_eq!(shown("key:aaaaaaaaaaaa"), "web é");
        assert_eq!(
            (shown("key:dddddddddddd"), shown("jwt:ann")),
            ("key:dddddddddddd".into(), "jwt:ann".into())
        );
        assert_eq!(OwnerNames::default().shown(&"key:aaaaaaaaaaaa".parse().unwrap()), "key:aaaaaaaaaaaa");
    }
}
