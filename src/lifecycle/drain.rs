//! Leaving without losing a request: what all threads know of it.
//!
//! Three phases: *unready but serving* (probes fail, requests are served and put off the end), *finishing* (nothing
//! new is taken, what is in flight ends), *leaving* (what remains is cut). Each worker counts its own requests in its
//! own [`Shard`], so that the count costs no cache line shared between threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// Drain state of the process.
pub struct Drain {
    began: Instant,
    draining: AtomicBool,
    shards: Vec<Arc<Shard>>,
    /// Called when a request ends, or becomes an upgraded connection, while draining.
    pub progress: Notify,
}

/// One worker's part: written by that worker alone.
#[derive(Debug, Default)]
pub struct Shard {
    in_flight: AtomicI64,
    /// Of those, upgraded connections.
    upgraded: AtomicI64,
    last_request_ms: AtomicU64,
}

impl Drain {
    /// State for `workers` threads.
    #[must_use]
    pub fn new(workers: usize) -> Arc<Self> {
        let shards = (0..workers).map(|_| Arc::default()).collect();
        Arc::new(Self { began: Instant::now(), draining: AtomicBool::new(false), shards, progress: Notify::new() })
    }

    /// Whether probes shall fail.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Begins or, after a hook without a signal, takes back the drain.
    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
        self.progress.notify_waiters();
    }

    /// The part of worker `index`.
    #[must_use]
    pub fn shard(&self, index: usize) -> Arc<Shard> {
        self.shards.get(index).cloned().unwrap_or_default()
    }

    /// Requests whose response has not ended, upgraded connections included.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.shards.iter().map(|s| s.in_flight.load(Ordering::Relaxed)).sum()
    }

    /// Of those in flight, upgraded connections. They end when the application ends them, which may not do so before it is
    /// told to leave itself.
    #[must_use]
    pub fn upgraded(&self) -> i64 {
        self.shards.iter().map(|s| s.upgraded.load(Ordering::Relaxed)).sum()
    }

    /// When the last request that is no probe came in; the start of the process if there was none.
    #[must_use]
    pub fn last_request(&self) -> Instant {
        let last = self.shards.iter().map(|s| s.last_request_ms.load(Ordering::Relaxed)).max();
        self.began + Duration::from_millis(last.unwrap_or_default())
    }

    /// A request came in on the worker of `shard`.
    pub fn enter(self: &Arc<Self>, shard: &Arc<Shard>, now: Instant) -> InFlight {
        let ms = now.saturating_duration_since(self.began).as_millis();
        shard.last_request_ms.store(u64::try_from(ms).unwrap_or(u64::MAX), Ordering::Relaxed);
        shard.add(1);
        InFlight { drain: self.clone(), shard: shard.clone(), upgraded: false }
    }
}

impl Shard {
    fn add(&self, n: i64) {
        add(&self.in_flight, n);
    }
}

/// One writer: no read-modify-write needed.
fn add(cell: &AtomicI64, n: i64) {
    cell.store(cell.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// Counts a request as in flight until it is dropped.
pub struct InFlight {
    drain: Arc<Drain>,
    shard: Arc<Shard>,
    upgraded: bool,
}

impl InFlight {
    /// The request was answered with 101.
    pub fn upgrade(&mut self) {
        if !std::mem::replace(&mut self.upgraded, true) {
            add(&self.shard.upgraded, 1);
            self.tell();
        }
    }

    fn tell(&self) {
        if self.drain.is_draining() {
            self.drain.progress.notify_waiters();
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.shard.add(-1);
        if self.upgraded {
            add(&self.shard.upgraded, -1);
        }
        self.tell();
    }
}
