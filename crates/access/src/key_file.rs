//! The file of API keys: one key a line, as JSON. Blank lines and lines that begin with `#` are comments.
//!
//! A file is read whole, so a bad line is found before any key of it counts. It is edited under a lock, by writing a new
//! file and renaming it into its place: readers see the old file or the new one, and a crash leaves one of them.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::api_key::{ApiKey, KeyId, PREFIX};

/// The largest file, in bytes: room for more than a hundred thousand keys.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// Why a file of keys cannot be used. The texts never quote a secret.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read or written.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The file is too large, or no text.
    #[error("{0}")]
    Unfit(&'static str),
    /// A line is no key.
    #[error("line {line}: {why}")]
    Line {
        /// The line's number, from 1.
        line: usize,
        /// The field, and what is wrong with it.
        why: String,
    },
}

/// All keys of a file, in its order.
///
/// ```
/// use access::key_file::ApiKeys;
///
/// let hash = "0".repeat(64);
/// let line = format!(r#"{{"id":"abcdefghij01","sha256":"{hash}","scopes":["read"]}}"#);
/// let keys = ApiKeys::parse(&format!("# the dashboard\n{line}\n")).unwrap();
/// assert_eq!(keys.len(), 1);
/// let error = ApiKeys::parse(&format!("{line}\n{line}\n")).unwrap_err();
/// assert!(error.to_string().starts_with("line 2: id: "), "{error}");
/// ```
#[derive(Debug, Clone, Default)]
pub struct ApiKeys {
    by_id: HashMap<KeyId, ApiKey>,
    order: Vec<KeyId>,
}

impl ApiKeys {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// The first line that is no key, or that repeats an id.
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
    /// The file cannot be read, is too large, or has a line that is no key.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Self::parse(&text_of(&mut File::open(path)?)?)
    }

    /// The key with this id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&ApiKey> {
        id.parse::<KeyId>().ok().and_then(|id| self.by_id.get(&id))
    }

    /// All keys, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &ApiKey> {
        self.order.iter().filter_map(|id| self.by_id.get(id))
    }

    /// The number of keys.
    #[must_use]
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether the file has no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

/// The key on a line; `None` on a comment.
fn parse_line(text: &str) -> Result<Option<ApiKey>, String> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).trim();
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
        // The column within the one line helps no one.
        let why = said.split_once(" at line ").map_or(said.as_str(), |(why, _)| why);
        // A credential in the wrong place must not get into the log as well.
        let why = if why.contains(PREFIX) { "does not fit" } else { why };
        if matches!(path.as_str(), "." | "?") { why.to_owned() } else { format!("{path}: {why}") }
    })?;
    json.end().map_err(|_| "must be one JSON object and nothing more".to_owned())?;
    Ok(Some(key))
}

fn text_of(file: &mut File) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(FileError::Unfit("it has more than 64 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| FileError::Unfit("it is not UTF-8"))
}

/// Appends a key. Creates the file with mode 0600 when there is none.
///
/// # Errors
/// The file cannot be written, holds a bad line, or has a key with this id.
pub fn append(path: &Path, key: &ApiKey) -> Result<(), FileError> {
    let locked = Locked::open(path, Absent::Create)?;
    let mut text = locked.text.clone();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&key.line());
    text.push('\n');
    ApiKeys::parse(&text)?;
    locked.replace(&text)
}

/// Removes a key. Returns it, or `None` when there is no key with this id.
///
/// # Errors
/// The file cannot be written, or holds a bad line.
pub fn revoke(path: &Path, id: &KeyId) -> Result<Option<ApiKey>, FileError> {
    let locked = Locked::open(path, Absent::Fail)?;
    let Some(key) = ApiKeys::parse(&locked.text)?.by_id.remove(id) else { return Ok(None) };
    let is_it = |line: &str| matches!(parse_line(line), Ok(Some(found)) if found.id == *id);
    let rest: String = locked.text.split_inclusive('\n').filter(|line| !is_it(line)).collect();
    locked.replace(&rest)?;
    Ok(Some(key))
}

/// Changes a key in its place: the lines around it stay as they are. Returns the key as it is now, or `None` when there is none with
/// this id. Its id and its secret stay, whatever `change` does.
///
/// # Errors
/// The file cannot be written, holds a bad line, or would hold one.
pub fn change(
    path: &Path,
    id: &KeyId,
    change: impl FnOnce(&mut ApiKey),
) -> Result<Option<ApiKey>, FileError> {
    let locked = Locked::open(path, Absent::Fail)?;
    let Some(before) = ApiKeys::parse(&locked.text)?.by_id.remove(id) else { return Ok(None) };
    let mut key = before.clone();
    change(&mut key);
    (key.id, key.sha256) = (before.id, before.sha256);
    let mut text = String::with_capacity(locked.text.len());
    for line in locked.text.split_inclusive('\n') {
        match parse_line(line) {
            Ok(Some(found)) if found.id == *id => {
                text.push_str(&key.line());
                text.push('\n');
            }
            _ => text.push_str(line),
        }
    }
    ApiKeys::parse(&text)?;
    locked.replace(&text)?;
    Ok(Some(key))
}

/// What happens where there is no key file yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Absent {
    Create,
    Fail,
}

/// A file under an exclusive lock: no other edit of it is under way while this lives.
struct Locked {
    /// The path with links resolved, so that their target is replaced and not the links.
    path: PathBuf,
    file: File,
    text: String,
}

impl Locked {
    fn open(path: &Path, absent: Absent) -> Result<Self, FileError> {
        loop {
            let mut options = OpenOptions::new();
            options.read(true);
            if absent == Absent::Create {
                options.append(true).create(true).mode(0o600);
            }
            let mut file = options.open(path)?;
            let path = fs::canonicalize(path)?;
            file.lock()?;
            // The holder of the lock before may have renamed another file into its place. Then this one is no longer the
            // key file.
            let (here, there) = (file.metadata()?, fs::metadata(&path)?);
            if (here.dev(), here.ino()) == (there.dev(), there.ino()) {
                let text = text_of(&mut file)?;
                return Ok(Self { path, file, text });
            }
        }
    }

    /// Replaces the file by this text, atomically. Owner and group stay, and no further permissions are given.
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
