//! What one source file says: the modules it declares, the names it defines and imports, and the paths it names.

use std::collections::{BTreeMap, BTreeSet};
use std::iter::Peekable;
use std::vec::IntoIter;

use proc_macro2::{Delimiter, TokenStream, TokenTree};

type Tokens = Peekable<IntoIter<TokenTree>>;

/// A path as it stands in the source, segment by segment.
pub(super) type Path = Vec<String>;

/// What stands in one module.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// Items that are defined here.
    pub(super) defined: BTreeSet<String>,
    /// Names that a `use` brings here, with their paths.
    pub(super) imported: BTreeMap<String, Path>,
    /// Modules all of whose names a `use` brings here.
    pub(super) globs: Vec<Path>,
    /// Every path of more than one segment.
    pub(super) paths: BTreeSet<Path>,
    /// Modules with files of their own, and what `#[path]` says of those files.
    pub(super) files: Vec<(String, Option<String>)>,
    /// Modules with their contents in braces.
    pub(super) inline: Vec<(String, Self)>,
}

/// Reads a source file.
pub(super) fn read(text: &str) -> Contents {
    let tokens: TokenStream = text.parse().unwrap_or_else(|error| panic!("{error}: {text}"));
    let mut contents = Contents::default();
    scan(tokens, &mut contents, true);
    contents
}

/// `top` says whether these tokens are items of the module, and not inside one of them.
fn scan(stream: TokenStream, contents: &mut Contents, top: bool) {
    let mut tokens: Tokens = stream.into_iter().collect::<Vec<_>>().into_iter().peekable();
    let mut file = None;
    // Whether the token before ends a path or a value, so that what follows is no beginning of a path.
    let mut after_dot = false;
    while let Some(token) = tokens.next() {
        let dot = std::mem::take(&mut after_dot);
        match token {
            TokenTree::Punct(punct) if punct.as_char() == '#' => match attribute(&mut tokens) {
                Some(Attribute::TestOnly) => skip_item(&mut tokens),
                Some(Attribute::File(path)) => file = Some(path),
                None => {}
            },
            TokenTree::Punct(punct) => after_dot = matches!(punct.as_char(), '.' | '\''),
            TokenTree::Group(group) => scan(group.stream(), contents, false),
            TokenTree::Literal(_) => {}
            TokenTree::Ident(ident) => {
                let word = ident.to_string();
                match word.as_str() {
                    _ if dot => {}
                    "mod" if top => module(&mut tokens, contents, file.take()),
                    "use" => {
                        for (alias, path) in use_tree(&mut tokens, Vec::new()) {
                            import(contents, alias, path, top);
                        }
                    }
                    "struct" | "enum" | "union" | "trait" | "fn" | "const" | "static" | "type"
                    | "macro_rules"
                        if top =>
                    {
                        if matches!(tokens.peek(), Some(TokenTree::Punct(punct)) if punct.as_char() == '!') {
                            tokens.next();
                        }
                        if let Some(TokenTree::Ident(name)) = tokens.peek() {
                            contents.defined.insert(name.to_string());
                        }
                    }
                    _ => {
                        let path = path(word, &mut tokens);
                        if path.len() > 1 {
                            contents.paths.insert(path);
                        }
                    }
                }
            }
        }
    }
}

enum Attribute {
    /// `#[cfg(test)]`
    TestOnly,
    /// `#[path = "…"]`
    File(String),
}

/// The attribute after a `#` or `#!`.
fn attribute(tokens: &mut Tokens) -> Option<Attribute> {
    tokens.next_if(|token| matches!(token, TokenTree::Punct(punct) if punct.as_char() == '!'));
    let Some(TokenTree::Group(group)) = tokens.next_if(|token| matches!(token, TokenTree::Group(_))) else {
        return None;
    };
    let text: String = group.stream().to_string().split_whitespace().collect();
    if text == "cfg(test)" {
        return Some(Attribute::TestOnly);
    }
    let path = text.strip_prefix("path=\"")?.strip_suffix('"')?;
    Some(Attribute::File(path.to_owned()))
}

/// Passes over an item, which ends with `;` or a block.
fn skip_item(tokens: &mut Tokens) {
    for token in tokens.by_ref() {
        match token {
            TokenTree::Punct(punct) if punct.as_char() == ';' => return,
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => return,
            _ => {}
        }
    }
}

fn module(tokens: &mut Tokens, contents: &mut Contents, file: Option<String>) {
    let Some(TokenTree::Ident(name)) = tokens.next() else { return };
    match tokens.next() {
        Some(TokenTree::Group(group)) => {
            let mut inner = Contents::default();
            scan(group.stream(), &mut inner, true);
            contents.inline.push((name.to_string(), inner));
        }
        _ => contents.files.push((name.to_string(), file)),
    }
}

fn import(contents: &mut Contents, alias: Option<String>, path: Path, top: bool) {
    match alias {
        Some(alias) if top => {
            contents.imported.insert(alias, path.clone());
        }
        None => contents.globs.push(path.clone()),
        Some(_) => {}
    }
    contents.paths.insert(path);
}

/// The paths of a `use` from here on, each with the name that it gets; `None` stands for all names.
fn use_tree(tokens: &mut Tokens, mut prefix: Path) -> Vec<(Option<String>, Path)> {
    let mut found = Vec::new();
    loop {
        match tokens.next() {
            Some(TokenTree::Ident(ident)) if ident == "as" => {
                let alias = tokens.next().map(|alias| alias.to_string());
                found.push((alias, prefix));
                return found;
            }
            Some(TokenTree::Ident(ident)) if ident == "self" && !prefix.is_empty() => {}
            Some(TokenTree::Ident(ident)) => prefix.push(ident.to_string()),
            Some(TokenTree::Punct(punct)) if punct.as_char() == ':' => {}
            Some(TokenTree::Punct(punct)) if punct.as_char() == '*' => {
                found.push((None, prefix));
                return found;
            }
            Some(TokenTree::Group(group)) => {
                let mut inner: Tokens = group.stream().into_iter().collect::<Vec<_>>().into_iter().peekable();
                while inner.peek().is_some() {
                    found.extend(use_tree(&mut inner, prefix.clone()));
                }
                // The comma or semicolon after it.
                tokens.next();
                return found;
            }
            // A comma, a semicolon, or the end of a brace list.
            _ => {
                found.extend(prefix.last().cloned().map(|name| (Some(name), prefix)));
                return found;
            }
        }
    }
}

/// A path that begins with this word.
fn path(first: String, tokens: &mut Tokens) -> Path {
    let mut path = vec![first];
    let is_colon = |token: &TokenTree| matches!(token, TokenTree::Punct(punct) if punct.as_char() == ':');
    loop {
        let mut ahead = tokens.clone();
        let colons = ahead.next_if(is_colon).is_some() && ahead.next_if(is_colon).is_some();
        let Some(TokenTree::Ident(next)) = ahead.next().filter(|_| colons) else { return path };
        path.push(next.to_string());
        *tokens = ahead;
    }
}
