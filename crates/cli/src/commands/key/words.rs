//! What the verbs of `hatchery key` share: how a name is read, and what is said of a file of keys that does not help.

use std::path::Path;

use access::api_key::{self, KeyId};
use access::key_file::FileError;

use crate::exit::Exit;
use crate::failure::Failure;

/// The name of a key.
pub(super) fn name(text: &str) -> Result<String, String> {
    api_key::check_name(text).map(|()| text.to_owned())
}

/// The file has no key with this id.
pub(super) fn unknown(id: &KeyId, file: &Path) -> Failure {
    Failure::Said(Exit::NotFound, format!("there is no key {id} in {}", file.display()))
}

/// The file cannot be used.
pub(super) fn wrong(file: &Path, error: &FileError) -> Failure {
    Failure::usage(format!("invalid --file {}: {error}", file.display()))
}
