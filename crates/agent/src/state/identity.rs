//! Which state directory this is, and which of its agents' lives: with it the registry distinguishes a restarted agent from another machine
//! with the same name, see [`AgentIdentity`].

use std::io;
use std::path::Path;

use registry::AgentIdentity;
use uuid::Uuid;

use super::file::replace;

/// The identity of the agent that starts now, and whether the disk has it.
///
/// A life that cannot be written is counted all the same; an instance that cannot be written is another one with every start.
pub(super) fn next(dir: &Path) -> (AgentIdentity, io::Result<()>) {
    let (instance, kept) = instance(dir);
    let path = dir.join("life");
    let before = std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let life = before.unwrap_or(0).saturating_add(1);
    let written = replace(&path, format!("{life}\n").as_bytes());
    (AgentIdentity { instance, life }, kept.and(written))
}

fn instance(dir: &Path) -> (Uuid, io::Result<()>) {
    let path = dir.join("instance");
    let known = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse::<Uuid>().ok().filter(|known| !known.is_nil()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        // It may be there all the same; it must not be replaced.
        Err(error) => return (Uuid::new_v4(), Err(error)),
    };
    match known {
        Some(known) => (known, Ok(())),
        None => {
            let made = Uuid::new_v4();
            (made, replace(&path, format!("{made}\n").as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_keeps_its_instance_and_counts_its_lives() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let lives: Vec<AgentIdentity> = (0..3).map(|_| next(dir.path()).0).collect();
        assert_eq!(lives.iter().map(|identity| identity.life).collect::<Vec<_>>(), [1, 2, 3]);
        assert!(lives.iter().all(|identity| identity.instance == lives[0].instance));
        assert!(!lives[0].instance.is_nil());
        assert_ne!(next(other.path()).0.instance, lives[0].instance);
    }

    #[test]
    fn a_life_that_cannot_be_written_is_counted() {
        let dir = tempfile::tempdir().unwrap();
        let (first, kept) = next(dir.path());
        kept.unwrap();
        // A directory in the place of the new file stands for a disk that takes nothing.
        std::fs::create_dir(dir.path().join("life.new")).unwrap();
        for _ in 0..2 {
            let (identity, kept) = next(dir.path());
            assert_eq!(identity, AgentIdentity { life: 2, ..first });
            assert!(kept.is_err());
        }
    }

    #[test]
    fn garbage_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("instance", "x"), ("life", "-1")] {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let (first, _) = next(dir.path());
        assert_eq!((first.life, next(dir.path()).0.instance), (1, first.instance));
    }
}
