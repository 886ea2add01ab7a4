//! All keys, and the verdict on a credential. Kept up to date with the files that the keys come from.
//!
//! ```text
//!            read again, good                      bad for GRACE
//!  good ◀──────────────────────▶ bad, old keys count ───────────▶ refused, no keys count
//!   ▲                                                                  │
//!   └────────────────────── read again, good ──────────────────────────┘
//! ```
//!
//! Each file goes through these states by itself. Files are looked at once a second, on a blocking thread: they may be on a
//! share that hangs. A check of a credential never touches a file.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use machine::warn_if_readable_by_everyone;
use model::{Owner, Timestamp};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{error, info, warn};

use crate::api_key::{self, OWNER_PREFIX, PREFIX};
use crate::caller::{Caller, CallerLimits, Denied};
use crate::jwt::{self, Demands, TokenKey};
use crate::key_file::ApiKeys;
use crate::options::{MetricsOptions, Options};
use crate::verified::Verified;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The longest credential that is looked at, in bytes. A longer one is [`crate::DenialReason::Malformed`].
pub const MAX_CREDENTIAL: usize = 8192;
/// For this long the keys of a file count after it has gone or become unreadable: long enough to replace the file, and
/// short enough that removing a file revokes its keys.
pub const GRACE: Duration = Duration::from_secs(60);

/// A file of keys that can no longer be read or parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unread {
    /// The flag that named it.
    pub flag: &'static str,
    /// Whether [`GRACE`] is over, so that its keys are refused.
    pub refused: bool,
}

/// A file of keys that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid {flag} {}: {why}", .path.display())]
pub struct OpenError {
    /// The flag that named it.
    pub flag: &'static str,
    /// Path of that file, as the flag gave it.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// Judges credentials. Clones share their keys.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    demands: Demands,
    limits: CallerLimits,
    /// The keys that count now.
    keys: watch::Sender<Arc<Keys>>,
    /// Recent verdicts on tokens.
    verified: Verified,
    /// Held while files are read.
    files: Mutex<Files>,
    /// Held for a look-up.
    unread: Mutex<Vec<Unread>>,
}

/// The keys that credentials are checked against.
#[derive(Debug, Default)]
struct Keys {
    api: Arc<ApiKeys>,
    tokens: Vec<Arc<Vec<TokenKey>>>,
    /// Rises whenever any of them changes.
    number: u64,
}

#[derive(Debug)]
struct Files {
    api: Option<Kept<ApiKeys>>,
    tokens: Vec<Kept<Vec<TokenKey>>>,
}

impl Files {
    fn keys(&self, number: u64) -> Arc<Keys> {
        Arc::new(Keys {
            number,
            api: self.api.as_ref().map_or_else(Arc::default, |file| Arc::clone(&file.value)),
            tokens: self.tokens.iter().map(|file| Arc::clone(&file.value)).collect(),
        })
    }
}

/// A file as it was when it was last read, and what it said when it was last good.
#[derive(Debug)]
struct Kept<T> {
    flag: &'static str,
    path: PathBuf,
    seen: Option<FileStamp>,
    read: fn(&Path) -> Result<T, String>,
    value: Arc<T>,
    /// Since when it has been bad, and why.
    bad: Option<(Instant, String)>,
    /// Whether its keys have been refused since.
    refused: bool,
    /// It was empty at the last look, and not yet at the one before: an editor may be about to write to it.
    emptied: bool,
}

/// Metadata by which a changed file is noticed without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    modified: Option<SystemTime>,
    /// The time of the last change of the inode. Unlike the modification time, a user cannot set it.
    changed: (i64, i64),
    size: u64,
    file: (u64, u64),
}

impl FileStamp {
    /// `None` when there is no such file.
    fn at(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            modified: found.modified().ok(),
            changed: (found.ctime(), found.ctime_nsec()),
            size: found.len(),
            file: (found.dev(), found.ino()),
        })
    }
}

impl<T: Default> Kept<T> {
    fn open(
        flag: &'static str,
        path: &Path,
        read: fn(&Path) -> Result<T, String>,
    ) -> Result<Self, OpenError> {
        // Looked at before it is read: what is written meanwhile is noticed the next time.
        let seen = FileStamp::at(path);
        let value = read(path).map_err(|why| OpenError { flag, path: path.to_owned(), why })?;
        let path = path.to_owned();
        let value = Arc::new(value);
        Ok(Self { flag, path, seen, read, value, bad: None, refused: false, emptied: false })
    }

    /// Reads the file again if it has changed, or was bad. Returns whether that changed the keys. After [`GRACE`] a bad
    /// file has none.
    fn refresh(&mut self, now: Instant) -> bool {
        let seen = FileStamp::at(&self.path);
        if seen == self.seen && self.bad.is_none() {
            return false;
        }
        let is_empty = seen.is_some_and(|seen| seen.size == 0);
        if is_empty && !std::mem::replace(&mut self.emptied, is_empty) {
            // It counts if the next look finds it empty, too.
            return false;
        }
        self.emptied = is_empty;
        self.seen = seen;
        let (flag, file) = (self.flag, self.path.display());
        let why = match (self.read)(&self.path) {
            Ok(value) => {
                self.value = Arc::new(value);
                (self.bad, self.refused) = (None, false);
                info!(%file, "keys read again");
                warn_if_readable_by_everyone(flag, &self.path);
                return true;
            }
            Err(why) => why,
        };
        let since = self.bad.as_ref().map_or(now, |(since, _)| *since);
        if self.bad.as_ref().is_none_or(|(_, before)| *before != why) && !self.refused {
            let grace_s = GRACE.saturating_sub(now.saturating_duration_since(since)).as_secs();
            warn!(flag, %file, why, grace_s, "keys not read: those from before count until the grace is over");
        }
        self.bad = Some((since, why));
        if self.refused || now.saturating_duration_since(since) < GRACE {
            return false;
        }
        self.refused = true;
        self.value = Arc::default();
        error!(flag, %file, "keys refused: their file could not be read for too long; put a good one in its place");
        true
    }

    fn unread(&self) -> Option<Unread> {
        self.bad.as_ref().map(|_| Unread { flag: self.flag, refused: self.refused })
    }
}

impl Access {
    /// Reads all files; `None` when no flag names one, so that callers need no credential.
    ///
    /// # Errors
    /// The first file that cannot be read or parsed.
    pub fn open(options: &Options) -> Result<Option<Self>, OpenError> {
        if !options.is_configured() {
            return Ok(None);
        }
        let read_api = |path: &Path| ApiKeys::read(path).map_err(|e| e.to_string());
        let api = options.api_keys.as_deref().map(|path| Kept::open("--api-keys", path, read_api));
        let tokens = options.jwt_keys.iter().map(|path| Kept::open("--jwt-keys", path, jwt::read));
        let files = Files { api: api.transpose()?, tokens: tokens.collect::<Result<_, _>>()? };
        let demands = Demands { issuer: options.jwt_issuer.clone(), audience: options.jwt_audience.clone() };
        Ok(Some(Self::with(files, demands, options.limits())))
    }

    /// Reads the file of keys for metrics; `None` when no flag names one.
    ///
    /// # Errors
    /// It cannot be read or parsed.
    pub fn of_metrics(options: &MetricsOptions) -> Result<Option<Self>, OpenError> {
        let Some(path) = &options.metrics_keys else { return Ok(None) };
        let api = Kept::open("--metrics-keys", path, |path| ApiKeys::read(path).map_err(|e| e.to_string()))?;
        let files = Files { api: Some(api), tokens: Vec::new() };
        Ok(Some(Self::with(files, Demands::default(), CallerLimits::default())))
    }

    fn with(files: Files, demands: Demands, limits: CallerLimits) -> Self {
        if files.api.as_ref().is_some_and(|file| file.value.is_empty()) && files.tokens.is_empty() {
            warn!("there is no API key yet: no caller is let in");
        }
        Self(Arc::new(Inner {
            demands,
            limits,
            keys: watch::Sender::new(files.keys(1)),
            verified: Verified::default(),
            files: Mutex::new(files),
            unread: Mutex::default(),
        }))
    }

    /// Judges a credential, by the keys that count now.
    ///
    /// # Errors
    /// The credential is not valid. [`Denied`] is for logs and metrics: callers learn only whether it was missing, invalid, or expired.
    pub fn check(&self, credential: &str) -> Result<Caller, Denied> {
        if credential.len() > MAX_CREDENTIAL {
            return Err(Denied::malformed());
        }
        let keys = Arc::clone(&self.0.keys.borrow());
        if credential.starts_with(PREFIX) {
            return api_key::check(credential, |id| keys.api.get(id), self.0.limits, Timestamp::now());
        }
        let tokens = keys.tokens.iter().flat_map(|file| file.iter());
        let judge = || jwt::check(credential, tokens, &self.0.demands, self.0.limits);
        self.0.verified.check(credential, keys.number, Timestamp::now(), judge)
    }

    /// The owner of what the API key with this id, or else the one with this name, spawns; `None` when no key has it.
    #[must_use]
    pub fn owner_named(&self, name: &str) -> Option<Owner> {
        let keys = Arc::clone(&self.0.keys.borrow());
        let named = || keys.api.iter().find(|key| key.name.as_deref() == Some(name));
        let key = keys.api.get(name).or_else(named)?;
        key.caller(self.0.limits).map(|caller| caller.owner)
    }

    /// The name of the API key that this owner is; `None` for other owners, and where the key has no name or is gone.
    #[must_use]
    pub fn name_of(&self, owner: &Owner) -> Option<String> {
        let id = owner.as_str().strip_prefix(OWNER_PREFIX)?;
        self.0.keys.borrow().api.get(id)?.name.clone()
    }

    /// The owners of all API keys with this name: a name may be given to several keys.
    #[must_use]
    pub fn owners_with_name(&self, name: &str) -> Vec<Owner> {
        let keys = Arc::clone(&self.0.keys.borrow());
        let named = keys.api.iter().filter(|key| key.name.as_deref() == Some(name));
        named.filter_map(|key| key.owner()).collect()
    }

    /// How many API keys are good now and end within this time.
    #[must_use]
    pub fn keys_ending(&self, within: Duration) -> usize {
        let now = Timestamp::now();
        let ends = |end: Timestamp| end > now && end <= now.after(within);
        self.0.keys.borrow().api.iter().filter(|key| key.expires_at.is_some_and(ends)).count()
    }

    /// The limits of this owner: those of its API key if it is one, else the defaults. `None` when its key is revoked or expired, or no
    /// keys count because their file could not be read for too long: nothing may be done in its name then.
    #[must_use]
    pub fn limits_of(&self, owner: &Owner) -> Option<CallerLimits> {
        let Some(id) = owner.as_str().strip_prefix(OWNER_PREFIX) else { return Some(self.0.limits) };
        let keys = Arc::clone(&self.0.keys.borrow());
        let caller = keys.api.get(id)?.caller(self.0.limits)?;
        let expired = caller.expires.is_some_and(|expires| expires <= Timestamp::now());
        (!expired).then_some(caller.limits)
    }

    /// Resolves when keys have changed, so that open connections are judged again.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes(self.0.keys.subscribe())
    }

    /// Looks at the files every second until the task is dropped. Run it for as long as the keys are used.
    pub async fn keep(self) {
        let this = self.clone();
        spawn_blocking(move || this.warn_of_readable_files()).await.ok();
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let this = self.clone();
            if let Err(error) = spawn_blocking(move || this.look(Instant::now())).await {
                error!(%error, "files of keys not looked at");
            }
        }
    }

    fn warn_of_readable_files(&self) {
        let files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &files.api {
            warn_if_readable_by_everyone(file.flag, &file.path);
        }
        files.tokens.iter().for_each(|file| warn_if_readable_by_everyone(file.flag, &file.path));
    }

    /// Files that can no longer be read, as of the last look.
    #[must_use]
    pub fn unread(&self) -> Vec<Unread> {
        self.0.unread.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the files once, as [`Self::keep`] does every second. Blocks on the file system.
    pub fn look(&self, now: Instant) {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        if let Some(file) = &mut files.api {
            changed |= file.refresh(now);
        }
        for file in &mut files.tokens {
            changed |= file.refresh(now);
        }
        let unread = files.api.iter().filter_map(Kept::unread);
        let unread = unread.chain(files.tokens.iter().filter_map(Kept::unread)).collect();
        *self.0.unread.lock().unwrap_or_else(PoisonError::into_inner) = unread;
        if changed {
            let number = self.0.keys.borrow().number + 1;
            self.0.keys.send_replace(files.keys(number));
        }
    }
}

/// Changes of keys, see [`Access::changes`].
#[derive(Debug, Clone)]
pub struct Changes(watch::Receiver<Arc<Keys>>);

impl Changes {
    /// Resolves when keys have changed since the last call, or since [`Access::changes`].
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // Every `Access` is dropped: keys change no more.
            std::future::pending().await
        }
    }
}

#[cfg(test)]
#[path = "access_tests.rs"]
mod tests;
