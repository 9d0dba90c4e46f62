//! Certificates from a directory, such as a mounted Secret: read at start, followed for as long as the process lives.
//!
//! A role makes a [`Directory`], calls [`Directory::load_once`] before it listens and spawns [`Directory::run`] on the
//! control side.
//!
//! Kubernetes swaps a mounted volume atomically: the files are links into `..data`, itself a link to a directory of one
//! generation. So all files are read through one resolved `..data`, and certificate and key are always of one
//! generation. A file-system event is only a hint; twice a second the link and the files' identities are compared, since
//! events get lost on some file systems. A new pair is checked before it replaces the last good one: it parses, the key
//! is the leaf's, the leaf is valid now. The *first* pair may be out of its time, as the Go queue-proxy serves it
//! (contract, section 10.1). A pair that fails is reported once it has been there for two looks (files that are written
//! one after the other are whole by then), and once for each reason. When both files are gone for two looks, the
//! identity is withdrawn; when one is gone, the last good pair stays.
//!
//! Log texts are those of `pkg/queue/certificate/watcher.go`.
mod files;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;
use tokio::sync::Notify;

use crate::config::directory::Watch;
use crate::tls::identity::{self, Reason, Rejection};
use crate::tls::{expiry, source, trust};
use files::{AUTHORITIES, CERTIFICATE, Files, KEY, Looks, read_files};

/// How often the directory is looked at without a hint: a change serves within a second, even if its hint was lost.
pub const POLL: Duration = Duration::from_millis(500);

/// Hints come in bursts (a volume swap is a dozen events); this long is waited for the rest of a burst.
const BURST: Duration = Duration::from_millis(10);

/// How often a read is begun anew because the generation changed under it.
const MAX_ATTEMPTS: usize = 5;

/// A directory with `tls.crt`, `tls.key` and perhaps `ca.crt`.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    identity: Arc<identity::Store>,
    trust: Option<Arc<trust::Store>>,
    poll: Duration,
    state: Mutex<State>,
}

/// What [`Directory::load_once`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A pair, which is in use now.
    Pair,
    /// Not both files: TLS is off until they appear.
    Nothing,
}

/// Why the directory gave no identity at start.
#[derive(Debug)]
pub enum Error {
    /// The files can't even be looked for: a part of the path is a file, or may not be searched.
    Verify {
        /// The file that was looked for.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// Both files are there and make no pair.
    Rejected(Rejection),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Verify { path, error } => write!(f, "Failed to verify the file path {}: {error}", path.display()),
            Self::Rejected(rejection) => rejection.fmt(f),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Verify { error, .. } => Some(error),
            Self::Rejected(rejection) => Some(rejection),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// The looks of the directory when it was last read.
    seen: Option<Looks>,
    /// The bytes that were last judged.
    files: Files,
    /// The verdict on them, if they make no usable pair.
    rejected: Option<Rejection>,
    /// Whether the verdict was there at the last look too, and has been reported.
    reported: Option<Rejection>,
    announced: bool,
    expiry: expiry::Watch,
}

impl Directory {
    /// The directory at `path`, whose pair goes to `identity`.
    pub fn new(path: impl Into<PathBuf>, identity: Arc<identity::Store>) -> Self {
        Self { path: path.into(), identity, trust: None, poll: POLL, state: Mutex::default() }
    }

    /// Gives the authorities in `ca.crt` to `trust`, under the name of that file.
    pub fn trust(mut self, trust: Arc<trust::Store>) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Looks this often without a hint; [`POLL`] by default.
    pub fn poll(mut self, every: Duration) -> Self {
        self.poll = every;
        self
    }

    /// Reads the directory now, blocking. A bad pair is an error here and [`Directory::run`] waits for a good one: the
    /// role decides whether it does.
    ///
    /// # Errors
    /// The files can't be looked for, or they make no pair.
    pub fn load_once(&self) -> Result<Found, Error> {
        for name in [CERTIFICATE, KEY] {
            let path = self.path.join(name);
            match fs::metadata(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Error::Verify { path, error }),
                _ => {}
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.look(&mut state, OffsetDateTime::now_utc());
        if let Some(rejection) = state.rejected.clone() {
            // Here the caller reports it; `run` need not do it again.
            self.identity.count_failure(rejection.reason);
            state.reported = Some(rejection.clone());
            return Err(Error::Rejected(rejection));
        }
        Ok(match self.identity.current() {
            Some(_) => Found::Pair,
            None => Found::Nothing,
        })
    }

    /// Follows the directory for ever.
    pub async fn run(self) {
        let hint = Arc::new(Notify::new());
        let mut watch = Watch::default();
        loop {
            watch.keep_on(&self.path, &hint);
            if tokio::time::timeout(self.poll, hint.notified()).await.is_ok() {
                tokio::time::sleep(BURST).await;
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            self.step(&mut state, OffsetDateTime::now_utc());
        }
    }

    /// One look, and the reports that are due after it.
    fn step(&self, state: &mut State, now: OffsetDateTime) {
        let before = state.rejected.clone();
        let gone_before = state.files.certificate.is_none() && state.files.key.is_none();
        let changed = self.look(state, now);

        let settled = !changed && before == state.rejected;
        if let Some(rejection) = state.rejected.clone().filter(|_| settled)
            && state.reported.as_ref() != Some(&rejection)
        {
            self.identity.count_failure(rejection.reason);
            let in_use = source::consequence(&self.identity);
            tracing::error!(reason = rejection.reason.token(), "{rejection}; {in_use}");
            state.reported = Some(rejection);
        }
        if gone_before && !changed && state.rejected.is_none() && self.identity.current().is_some() {
            tracing::warn!("Certificate and key were removed from {}: TLS is off", self.path.display());
            self.identity.withdraw();
        }
        if let Some(warning) = self.identity.current().and_then(|current| state.expiry.due(&current.leaf, now)) {
            tracing::warn!("{warning}");
        }
    }

    /// Reads the files if they look different, or if time may have changed the verdict. Returns whether they were.
    fn look(&self, state: &mut State, now: OffsetDateTime) -> bool {
        let looks = Looks::of(&self.path);
        let waits_for_time =
            matches!(&state.rejected, Some(Rejection { reason: Reason::NotYetValid | Reason::Expired, .. }));
        let unreadable = matches!(&state.rejected, Some(Rejection { reason: Reason::Unreadable, .. }));
        if state.seen.as_ref() == Some(&looks) && !waits_for_time && !unreadable {
            return false;
        }
        let (looks, files) = match self.read() {
            Ok(read) => read,
            Err(rejection) => {
                let changed = state.rejected.as_ref() != Some(&rejection);
                state.rejected = Some(rejection);
                return changed;
            }
        };
        state.seen = Some(looks);
        let changed = state.files != files;
        if changed && files.authorities != state.files.authorities {
            self.take_authorities(files.authorities.as_deref());
        }
        if changed || waits_for_time || unreadable {
            state.rejected = self.judge(state, &files, now);
            state.files = files;
        }
        changed
    }

    fn judge(&self, state: &mut State, files: &Files, now: OffsetDateTime) -> Option<Rejection> {
        let in_use = self.identity.current();
        let (certificate, key) = match (&files.certificate, &files.key) {
            (Some(certificate), Some(key)) => (certificate, key),
            (None, None) => return None,
            // Only a loss is worth a word: before the first pair, one file means that the other is on its way.
            _ if in_use.is_none() => return None,
            (None, _) => return Some(self.missing("certificate", CERTIFICATE)),
            (_, None) => return Some(self.missing("key", KEY)),
        };
        if !state.announced {
            state.announced = true;
            let dir = self.path.display();
            tracing::info!(
                "Starting to watch the following directories for changes{{certDir 15 0 {dir} <nil>}} {{keyDir 15 0 {dir} <nil>}}"
            );
        }
        match source::offer(&self.identity, &self.path.display().to_string(), certificate, &key.0, now) {
            Ok(()) => {
                state.reported = None;
                tracing::info!("Certificate and/or key have changed on disk and were reloaded.");
                None
            }
            Err(rejection) => Some(rejection),
        }
    }

    fn missing(&self, what: &str, name: &str) -> Rejection {
        let detail = format!("failed to load {what} file in {}: it is missing", self.path.join(name).display());
        Rejection { reason: Reason::Unreadable, detail }
    }

    fn take_authorities(&self, text: Option<&[u8]>) {
        if let Some(trust) = &self.trust {
            let name = self.path.join(AUTHORITIES);
            trust.set_source(&name.to_string_lossy(), text.unwrap_or_default());
        }
    }

    /// All files, from one generation.
    fn read(&self) -> Result<(Looks, Files), Rejection> {
        let mut attempt = 1;
        loop {
            let before = Looks::of(&self.path);
            let from = match &before.data {
                Some(target) => self.path.join(target),
                None => self.path.clone(),
            };
            let files = read_files(&from, &self.path, before.data.is_some());
            let after = Looks::of(&self.path);
            if before == after || attempt == MAX_ATTEMPTS {
                return files.map(|files| (after, files));
            }
            attempt += 1;
        }
    }
}
