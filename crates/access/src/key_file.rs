//! The file of API keys: JSON, one key a line; lines that are blank or begin with `#` are for people. Read whole, so that one bad
//! line is found before any of it counts; edited by writing a new file beside it and putting it in its place.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::api_key::{ApiKey, KeyId, PREFIX};

/// The largest file: a hundred thousand keys and more.
const LARGEST: u64 = 64 * 1024 * 1024;

/// What is wrong with a file of keys.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It is no file of keys.
    #[error("{0}")]
    Unfit(&'static str),
    /// One of its lines is no key.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it; names the field.
        why: String,
    },
}

/// All keys of a file.
#[derive(Debug, Clone, Default)]
pub struct ApiKeys {
    by_id: HashMap<KeyId, ApiKey>,
    order: Vec<KeyId>,
}

impl ApiKeys {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is no key.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let mut keys = Self::default();
        let mut lines: HashMap<KeyId, usize> = HashMap::new();
        for (at, text) in text.lines().enumerate() {
            let line = at + 1;
            let Some(key) = parse_line(text).map_err(|why| FileError::Line { line, why })? else { continue };
            if let Some(before) = lines.insert(key.id.clone(), line) {
                let why = format!("id: {} is the key of line {before} already", key.id);
                return Err(FileError::Line { line, why });
            }
            keys.order.push(key.id.clone());
            keys.by_id.insert(key.id.clone(), key);
        }
        Ok(keys)
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is no key.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::parse(&text_of(&mut File::open(path)?)?)
    }

    /// The key of this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ApiKey> {
        id.parse::<KeyId>().ok().and_then(|id| self.by_id.get(&id))
    }

    /// All of them, as they stand in the file.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.order.iter().filter_map(|id| self.by_id.get(id))
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// The key that a line stands for; a line for people stands for none.
fn parse_line(text: &str) -> Result<Option<ApiKey>, String> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    // Arrays would otherwise be taken for structs whose field names were left out.
    if !text.starts_with('{') {
        return Err("must be a JSON object, or a comment that begins with #".to_owned());
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let key = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let said = error.into_inner().to_string();
        // Its own place within the one line says nothing.
        let why = said.split_once(" at line ").map_or(said.as_str(), |(why, _)| why);
        // Whoever put a credential where it does not belong does not want it in a log as well.
        let why = if why.contains(PREFIX) { "does not fit" } else { why };
        if matches!(path.as_str(), "." | "?") { why.to_owned() } else { format!("{path}: {why}") }
    })?;
    json.end().map_err(|_| "must be one JSON object and nothing more".to_owned())?;
    Ok(Some(key))
}

fn text_of(file: &mut File) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(FileError::Unfit("it has more than 64 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| FileError::Unfit("it is not UTF-8"))
}

/// Adds a key, at the end; makes the file, for its owner alone, where there is none.
///
/// # Errors
/// The file cannot be written, or is no file of keys as it is.
pub fn append(path: &Path, key: &ApiKey) -> Result<(), FileError> {
    let locked = Locked::open(path, true)?;
    let mut text = locked.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&key.line());
    text.push('\n');
    ApiKeys::parse(&text)?;
    locked.replace(&text)
}

/// Removes a key; gives it back if there was one.
///
/// # Errors
/// The file cannot be written, or is no file of keys as it is.
pub fn revoke(path: &Path, id: &KeyId) -> Result<Option<ApiKey>, FileError> {
    let locked = Locked::open(path, false)?;
    let Some(key) = ApiKeys::parse(&locked.text)?.by_id.remove(id) else { return Ok(None) };
    let is_it = |line: &str| matches!(parse_line(line), Ok(Some(found)) if found.id == *id);
    let rest: String = locked.text.split_inclusive('\n').filter(|line| !is_it(line)).collect();
    locked.replace(&rest)?;
    Ok(Some(key))
}

/// A file that nobody else edits for as long as this lives.
struct Locked {
    /// Links followed, so that what they lead to is replaced and not they.
    path: PathBuf,
    file: File,
    text: String,
}

impl Locked {
    fn open(path: &Path, create: bool) -> Result<Self, FileError> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true);
            if create {
                options.append(true).create(true).mode(0o600);
            }
            let mut file = options.open(path)?;
            let path = fs::canonicalize(path)?;
            file.lock()?;
            // Whoever held the lock before may have put another file in its place.
            let (here, there) = (file.metadata()?, fs::metadata(&path)?);
            if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
                let text = text_of(&mut file)?;
                return Ok(Self { path, file, text });
            }
        }
    }

    /// Puts this text in its place: whoever reads sees the old file or the new one. Its owner and group stay, and nobody is let
    /// in who was not.
    fn replace(self, text: &str) -> Result<(), FileError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let mut new = NamedTempFile::new_in(directory)?;
        new.write_all(text.as_bytes())?;
        let (old, made) = (self.file.metadata()?, new.as_file().metadata()?);
        if (old.uid(), old.gid()) != (made.uid(), made.gid()) {
            std::os::unix::fs::fchown(new.as_file(), Some(old.uid()), Some(old.gid()))?;
        }
        new.as_file().set_permissions(fs::Permissions::from_mode(old.mode() & 0o640 | 0o600))?;
        new.as_file().sync_all()?;
        new.persist(&self.path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()?;
        Ok(())
    }
}

#[cfg(test)]
#[path = "key_file_tests.rs"]
mod tests;
