//! Whether a model that a request names stays inside the model directories, links resolved. It blocks: directories are often on a
//! share, so [`crate::admission`] calls it on the disk's threads. What is in none of the directories is left to the server.

use std::path::{Component, Path, PathBuf};

use crate::spawn::{Refusal, RefusalKind};

/// Checks a model path. A model that is in none of the directories passes: the server says what it thinks of it.
pub(crate) fn check(model: &str, dirs: &[PathBuf]) -> Result<(), Refusal> {
    let bad = |what: &str| Err(RefusalKind::BadModel.because(format!("the model {model:?} {what}")));
    if model.is_empty() {
        return bad("has no name");
    }
    if model.contains('\0') {
        return bad("contains NUL");
    }
    let relative = Path::new(model);
    for part in relative.components() {
        match part {
            Component::Normal(_) | Component::CurDir => {}
            Component::ParentDir => return bad("contains `..`"),
            Component::RootDir | Component::Prefix(_) => return bad("is an absolute path"),
        }
    }
    let mut inside: Option<Vec<PathBuf>> = None;
    for dir in dirs {
        let Ok(real) = dir.join(relative).canonicalize() else { continue };
        let inside =
            inside.get_or_insert_with(|| dirs.iter().filter_map(|d| d.canonicalize().ok()).collect());
        if !inside.iter().any(|dir| real.starts_with(dir)) {
            return bad("leads outside the model directories");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_model_stays_inside_the_directories() {
        let root = tempfile::tempdir().unwrap();
        let [a, b, outside] = ["a", "b", "outside"].map(|name| root.path().join(name));
        for dir in [&a, &b, &outside] {
            std::fs::create_dir(dir).unwrap();
            std::fs::write(dir.join("model.scz"), "x").unwrap();
        }
        symlink(b.join("model.scz"), a.join("other-dir.scz")).unwrap();
        symlink(outside.join("model.scz"), a.join("leak.scz")).unwrap();
        symlink(&outside, a.join("sub")).unwrap();
        let dirs = [a, b];
        for (model, good) in [
            ("model.scz", true),
            ("./model.scz", true),
            ("deep/er/missing.scz", true),
            ("other-dir.scz", true),
            ("-dash.scz", true),
            ("leak.scz", false),
            ("sub/model.scz", false),
            ("../outside/model.scz", false),
            ("x/../model.scz", false),
            ("/etc/passwd", false),
            ("a\0b", false),
            ("", false),
        ] {
            let result = check(model, &dirs);
            assert_eq!(result.is_ok(), good, "{model:?}: {result:?}");
        }
        assert!(check("model.scz", &[]).is_ok());
    }
}
