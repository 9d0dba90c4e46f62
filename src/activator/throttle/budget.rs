//! The bytes that waiting requests of all revisions may hold together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// A bound on what waiting requests cost, shared by all revisions and workers.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    /// Bytes that are taken now.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes `cost` bytes, if they are there.
    #[must_use]
    pub fn take(&self, cost: usize) -> bool {
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(cost).filter(|sum| *sum <= self.limit)
            })
            .is_ok()
    }

    /// Gives back what was taken.
    pub fn give_back(&self, cost: usize) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }
}
