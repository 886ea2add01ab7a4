//! From the files of a crate to the graph of what they name of each other.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{Contents, Path, read};

/// For each file the files that it names something of, and by which paths.
pub(super) type Graph = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// All modules by their paths from the crate's root, each with its file.
type Modules = BTreeMap<Path, (String, Contents)>;

/// The graph of the crate with this root.
pub(super) fn graph(root: &str, files: &BTreeMap<String, String>) -> Graph {
    let mut modules = Modules::new();
    add(Vec::new(), root, read(&files[root]), files, &mut modules);
    let mut graph = Graph::new();
    for (here, (file, contents)) in &modules {
        let edges = graph.entry(file.clone()).or_default();
        for path in contents.paths.iter().filter_map(|path| absolute(path, here, &modules)) {
            let Some(to) = definition(&path, &modules, 0).filter(|to| to != file) else { continue };
            // Up to the item: what is below it, variants and functions, says no more.
            let item = path.len().min(module_of(&path, &modules).len() + 1);
            edges.entry(to).or_default().insert(format!("crate::{}", path[..item].join("::")));
        }
    }
    graph
}

/// Adds a module and those below it. What is only there for tests was left out when its parent was read.
fn add(
    path: Path,
    file: &str,
    mut contents: Contents,
    files: &BTreeMap<String, String>,
    modules: &mut Modules,
) {
    let (directory, name) = file.rsplit_once('/').unwrap_or(("", file));
    let mut below: Path = directory.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    if !matches!(name, "lib.rs" | "main.rs" | "mod.rs") {
        below.push(name.trim_end_matches(".rs").to_owned());
    }
    for (child, given) in std::mem::take(&mut contents.files) {
        let candidates = match given {
            Some(given) if directory.is_empty() => vec![given],
            Some(given) => vec![format!("{directory}/{given}")],
            None => {
                let base = [below.as_slice(), std::slice::from_ref(&child)].concat().join("/");
                vec![format!("{base}.rs"), format!("{base}/mod.rs")]
            }
        };
        // Generated code has no file among the sources.
        if let Some(found) = candidates.into_iter().find(|candidate| files.contains_key(candidate)) {
            let inner = read(&files[&found]);
            add([path.as_slice(), &[child]].concat(), &found, inner, files, modules);
        }
    }
    for (child, inner) in std::mem::take(&mut contents.inline) {
        add([path.as_slice(), &[child]].concat(), file, inner, files, modules);
    }
    modules.insert(path, (file.to_owned(), contents));
}

/// A path of the module `here` from the crate's root; `None` when it leads to another crate, or to what is no module's.
fn absolute(path: &[String], here: &[String], modules: &Modules) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    let child = [here, std::slice::from_ref(first)].concat();
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([here, rest].concat()),
        "super" => {
            let mut base = here.to_vec();
            base.pop()?;
            let mut rest = rest;
            while let Some((first, after)) = rest.split_first()
                && first == "super"
            {
                base.pop()?;
                rest = after;
            }
            Some([base.as_slice(), rest].concat())
        }
        _ if modules.contains_key(&child) => Some([child.as_slice(), rest].concat()),
        _ => {
            let imported = modules.get(here)?.1.imported.get(first)?;
            // `use a::b as a` names another crate's module.
            if imported.first() == Some(first) {
                return None;
            }
            Some([absolute(imported, here, modules)?.as_slice(), rest].concat())
        }
    }
}

/// The longest beginning of a path that is a module.
fn module_of<'a>(path: &'a [String], modules: &Modules) -> &'a [String] {
    let beginnings = (0..=path.len()).rev().map(|end| &path[..end]);
    beginnings.into_iter().find(|start| modules.contains_key(*start)).unwrap_or_default()
}

/// The file that defines what a path names: that of the module, of the item in it, or of what the module re-exports.
fn definition(path: &[String], modules: &Modules, depth: usize) -> Option<String> {
    let module = module_of(path, modules);
    let (file, contents) = modules.get(module)?;
    let Some(name) = path.get(module.len()).filter(|name| !contents.defined.contains(*name)) else {
        return Some(file.clone());
    };
    // A re-export may go through several modules, but never in a circle: the compiler refuses that.
    let re_exported = contents.imported.get(name).filter(|_| depth < 8);
    if let Some(path) = re_exported.and_then(|path| absolute(path, module, modules)) {
        return definition(&path, modules, depth + 1);
    }
    let globs = contents.globs.iter().filter_map(|glob| absolute(glob, module, modules));
    let from_glob =
        globs.into_iter().find(|glob| modules.get(glob).is_some_and(|(_, of)| of.defined.contains(name)));
    match from_glob {
        Some(glob) => Some(modules[&glob].0.clone()),
        None => Some(file.clone()),
    }
}
