//! A configuration that is made of files, and made again when they change.
//!
//! Files are looked at once a second, on a blocking thread. New files that cannot be used change nothing: the configuration
//! of before stays, and the error is logged. Certificate and key are replaced one after the other, so an error counts only
//! when the next look still finds it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use tokio::time::sleep;
use tracing::{error, info, warn};

use crate::files::{Identity, Named, Stamp, TlsError, is_for};
use crate::validity;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A certificate that expires within this time is warned of.
pub(crate) const NEAR: Duration = Duration::from_secs(14 * 24 * 3600);

/// Files, and how to make a configuration of them.
pub(crate) trait Source: Clone + Send + Sync + 'static {
    type Config: Send + Sync + 'static;

    /// Reads and checks all files, each once.
    fn make(&self) -> Result<Made<Self::Config>, TlsError>;

    fn files(&self) -> Vec<&Named>;

    /// The pair that is shown to peers; the expiry of its certificate is watched.
    fn identity(&self) -> Option<&Identity>;
}

/// A configuration, and the certificate that it shows to peers, if it shows one: of one reading of the files.
pub(crate) struct Made<C> {
    pub(crate) config: Arc<C>,
    pub(crate) shown: Option<CertificateDer<'static>>,
}

/// The configuration as it was last made.
pub(crate) struct Fresh<S: Source> {
    source: S,
    /// Requests are checked against the names of the certificate in it, which must not touch the disk. Never held across an await.
    current: RwLock<Made<S::Config>>,
    seen: Mutex<LastLook>,
}

/// The files as of the last look.
struct LastLook {
    /// Their metadata when they were last read.
    stamps: Vec<Option<Stamp>>,
    /// They have changed since and could not be used. Logged only when the next look still finds that.
    doubtful: bool,
}

impl<S: Source> fmt::Debug for Fresh<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("files", &self.source.files()).finish_non_exhaustive()
    }
}

impl<S: Source> Fresh<S> {
    pub(crate) fn read(source: S) -> Result<Self, TlsError> {
        let seen = Mutex::new(LastLook { stamps: stamps(&source), doubtful: false });
        let current = RwLock::new(source.make()?);
        Ok(Self { source, current, seen })
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    pub(crate) fn current(&self) -> Arc<S::Config> {
        Arc::clone(&self.made().config)
    }

    /// When the certificate ends, in seconds since 1970.
    pub(crate) fn not_after(&self) -> Option<u64> {
        self.made().shown.as_ref().and_then(|certificate| validity::not_after(certificate))
    }

    /// Whether the certificate that is shown is for this host.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        self.made().shown.as_ref().is_some_and(|certificate| is_for(certificate, host))
    }

    fn made(&self) -> RwLockReadGuard<'_, Made<S::Config>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the configuration again whenever the files have changed. Returns only when the looking thread panicked.
    pub(crate) async fn keep(self: &Arc<Self>) {
        self.warn_of_the_end();
        self.source.files().into_iter().for_each(Named::warn_if_readable_by_everyone);
        loop {
            sleep(LOOK).await;
            let this = Arc::clone(self);
            // Files may be on a share that hangs.
            if tokio::task::spawn_blocking(move || this.look()).await.is_err() {
                error!("certificates are no longer looked at");
                return;
            }
        }
    }

    fn look(&self) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stamps(&self.source);
        if seen.stamps == found {
            return;
        }
        match self.source.make() {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = made;
                *seen = LastLook { stamps: found, doubtful: false };
                let files: Vec<_> =
                    self.source.files().iter().map(|file| file.path.display().to_string()).collect();
                info!(files = files.join(" "), "certificates were read again");
                self.warn_of_the_end();
                self.source.files().into_iter().for_each(Named::warn_if_readable_by_everyone);
            }
            Err(_) if !seen.doubtful => seen.doubtful = true,
            Err(error) => {
                error!(%error, "new certificates cannot be used, those before stay");
                *seen = LastLook { stamps: found, doubtful: false };
            }
        }
    }

    /// Logs that the certificate states no role although it should.
    pub(crate) fn warn_without_role(&self) {
        let Some(identity) = self.source.identity().filter(|identity| identity.lacks_role()) else { return };
        let (flag, path) = (identity.certificate.flag, identity.certificate.path.display());
        warn!(
            flag,
            %path,
            "the certificate states no role, and the next release refuses it; renew it with `hatchery certs new --renew`"
        );
    }

    fn warn_of_the_end(&self) {
        let (Some(end), Some(identity)) = (self.not_after(), self.source.identity()) else { return };
        let now = rustls::pki_types::UnixTime::now().as_secs();
        let (flag, path) = (identity.certificate.flag, identity.certificate.path.display());
        if end <= now {
            warn!(flag, %path, "the certificate has expired");
        } else if end - now < NEAR.as_secs() {
            let days = (end - now) / (24 * 3600);
            warn!(flag, %path, days, "the certificate expires soon");
        }
    }
}

fn stamps(source: &impl Source) -> Vec<Option<Stamp>> {
    source.files().into_iter().map(Named::stamp).collect()
}
