//! What says who calls: an API key or a token, and where it is kept. Its text is never printed.
//!
//! Tokens live for minutes, so a file is read again before it is used once it may have another one.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::header::HeaderValue;
use tokio::time::Instant;

use crate::failure::Failure;

/// Holds the credential itself.
const VARIABLE: &str = "HATCHERY_TOKEN";
/// Names the file that holds it.
const FILE_VARIABLE: &str = "HATCHERY_TOKEN_FILE";
/// No key or token is longer.
const MAX_BYTES: usize = 16 << 10;
/// How long what was read from a file is good.
const GOOD: Duration = Duration::from_secs(1);

/// What said to try when none was given and one is wanted.
pub(crate) const WHERE: &str =
    "--token-file FILE, HATCHERY_TOKEN_FILE or HATCHERY_TOKEN gives the API key or token to call with";

#[derive(Debug, Default)]
pub(crate) struct Credential(Option<Shown>);

#[derive(Debug)]
struct Shown {
    /// The whole line of the header, and when it was read; marked as one that is not to be printed.
    header: Mutex<(HeaderValue, Instant)>,
    /// A file that can be read again; a pipe cannot.
    file: Option<PathBuf>,
}

impl Credential {
    /// The one in the file that the flag names, else in the environment, else none.
    ///
    /// # Errors
    /// There is no credential where one should be.
    pub(crate) fn find(flag: Option<&Path>) -> Result<Self, Failure> {
        let variable = |name| std::env::var_os(name).filter(|text| !text.is_empty());
        if let Some(path) = flag {
            return Self::in_file("--token-file", path);
        }
        if let Some(text) = variable(VARIABLE) {
            let text = text.to_str().unwrap_or_default();
            let header = header(text).map_err(|why| Failure::usage(format!("invalid {VARIABLE}: {why}")))?;
            return Ok(Self::held(header, None));
        }
        match variable(FILE_VARIABLE) {
            Some(path) => Self::in_file(FILE_VARIABLE, Path::new(&path)),
            None => Ok(Self::default()),
        }
    }

    fn in_file(name: &str, path: &Path) -> Result<Self, Failure> {
        let header =
            read(path).map_err(|why| Failure::usage(format!("invalid {name} {}: {why}", path.display())))?;
        let file = fs::metadata(path).is_ok_and(|file| file.is_file()).then(|| path.to_owned());
        Ok(Self::held(header, file))
    }

    fn held(header: HeaderValue, file: Option<PathBuf>) -> Self {
        Self(Some(Shown { header: Mutex::new((header, Instant::now())), file }))
    }

    /// Whether there is one.
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    /// Whether there may be another one later.
    pub(crate) fn can_change(&self) -> bool {
        self.0.as_ref().is_some_and(|held| held.file.is_some())
    }

    /// What goes into the header `Authorization`, as of a moment ago.
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        self.0.as_ref().map(|held| held.header(GOOD))
    }

    /// The same, as of now.
    pub(crate) fn fresh(&self) -> Option<HeaderValue> {
        self.0.as_ref().map(|held| held.header(Duration::ZERO))
    }
}

impl Shown {
    fn header(&self, good: Duration) -> HeaderValue {
        let mut held = self.header.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(path) = &self.file
            && held.1.elapsed() >= good
        {
            match read(path) {
                Ok(header) => held.0 = header,
                // It may be about to be replaced; the front door says whether the old one still does.
                Err(why) => tracing::debug!(path = %path.display(), why, "the token file was not read again"),
            }
            held.1 = Instant::now();
        }
        held.0.clone()
    }
}

fn read(path: &Path) -> Result<HeaderValue, String> {
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    File::open(path)
        .and_then(|file| file.take(2 * limit).read_to_end(&mut text))
        .map_err(|error| error.to_string())?;
    // What is no text becomes something that no credential has.
    header(&String::from_utf8_lossy(&text))
}

/// The header of a credential; what is wrong with it is said without it.
fn header(text: &str) -> Result<HeaderValue, String> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let credential = text.lines().next().unwrap_or_default().trim();
    if credential.is_empty() {
        return Err("its first line is empty; an API key or a token is wanted there".to_owned());
    }
    if credential.len() > MAX_BYTES || !credential.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("its first line is no API key and no token".to_owned());
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {credential}"))
        .map_err(|_| "its first line is no API key and no token".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_counts_without_the_space_around_it() {
        for text in
            ["hatchery_a_b", " hatchery_a_b \n", "hatchery_a_b\r\nanother\n", "\u{feff}hatchery_a_b\r\n"]
        {
            assert_eq!(header(text).unwrap(), "Bearer hatchery_a_b", "{text:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_without_the_text() {
        let long = "x".repeat(MAX_BYTES + 1);
        for text in ["", "\nsecret", "  ", "se cret", "secr\u{e9}t", "secret\u{7}", &long] {
            let why = header(text).unwrap_err();
            assert!(!why.contains("secr") && !why.contains("xxx"), "{why}");
        }
    }

    #[test]
    fn it_is_not_printed_by_accident() {
        let credential = Credential::held(header("top-secret").unwrap(), None);
        assert!(!format!("{credential:?}").contains("top-secret"));
        assert_eq!(credential.header().unwrap(), "Bearer top-secret");
    }

    #[test]
    fn a_file_that_has_another_token_gives_it_and_one_that_is_gone_the_last() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, "one\n").unwrap();
        let credential = Credential::find(Some(&path)).unwrap();
        assert!(credential.can_change());
        assert_eq!(credential.fresh().unwrap(), "Bearer one");
        fs::write(&path, "two\n").unwrap();
        assert_eq!(credential.fresh().unwrap(), "Bearer two");
        fs::remove_file(&path).unwrap();
        assert_eq!(credential.fresh().unwrap(), "Bearer two");
    }
}
