//! What a source counts: for metrics, and for people who ask whether the state is fresh.
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The numbers of one kind of objects at one source. Read from any thread.
#[derive(Debug, Default)]
pub struct Counters {
    connected: AtomicBool,
    events: AtomicU64,
    relists: AtomicU64,
    failures: AtomicU64,
    unreadable: AtomicU64,
    contact: Mutex<Option<Instant>>,
}

impl Counters {
    /// Whether changes reach us now.
    pub fn connected(&self) -> bool {
        self.connected.load(Ordering::Relaxed)
    }

    /// Changes received so far, without the contents of lists.
    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// How often the whole set was read: once at start, then when the source could not say what had changed.
    pub fn relists(&self) -> u64 {
        self.relists.load(Ordering::Relaxed)
    }

    /// Connections and requests that failed.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Objects that could not be read; each costs itself only.
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    /// How long ago the source last spoke; none before it ever did. Bookmarks come each minute or so.
    pub fn age(&self) -> Option<Duration> {
        self.contact.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Relaxed);
    }

    pub(crate) fn event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn relist(&self) {
        self.relists.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn unread(&self) {
        self.unreadable.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn contact(&self) {
        *self.contact.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}
