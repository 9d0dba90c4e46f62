//! How busy a revision keeps us, for the autoscaler.
//!
//! Each revision has a [`Load`] with a shard for each worker (data side; a shard's lock is contended only once a second,
//! for the time of a few additions). The control side closes a period each second and adds the shards up. Rules: the
//! concurrency of a period is the time-weighted mean of the requests in flight, waiting ones included; counts are
//! arrivals. A revision has an *entry* from its first request on until a whole period saw nothing; who makes the entry
//! has to poke the autoscaler.
//! Source: `knative.dev/serving/pkg/activator/handler/concurrency_reporter.go`,
//! `knative.dev/networking/pkg/http/stats/request.go`.
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::knative::revision::RevisionKey;
use crate::worker::clock;

/// Stands for no report; the bits of a value that is no number.
const NEVER: u64 = u64::MAX;

/// The requests of one revision.
#[derive(Debug)]
pub struct Load {
    key: RevisionKey,
    /// The concurrency that was last reported, as bits; [`NEVER`] before.
    reported: AtomicU64,
    /// Whether there ever was a request.
    seen: AtomicBool,
    entered: AtomicBool,
    shards: Box<[Mutex<Shard>]>,
}

#[derive(Debug)]
struct Shard {
    in_flight: u32,
    arrivals: u32,
    last_change: Instant,
    /// Request-seconds of the period so far.
    weighted: f64,
}

/// What one period saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Period {
    /// Request-seconds.
    pub weighted: f64,
    /// Requests that arrived.
    pub arrivals: u32,
    /// Requests in flight at its end.
    pub in_flight: u32,
}

impl Load {
    /// No request yet, on any of `workers`.
    #[must_use]
    pub fn new(key: RevisionKey, workers: usize, now: Instant) -> Arc<Self> {
        let shard = || Mutex::new(Shard { in_flight: 0, arrivals: 0, last_change: now, weighted: 0.0 });
        let shards = (0..workers.max(1)).map(|_| shard()).collect();
        Arc::new(Self {
            key,
            reported: AtomicU64::new(NEVER),
            seen: AtomicBool::new(false),
            entered: AtomicBool::new(false),
            shards,
        })
    }

    /// Counts a request that arrived at `now` on `worker`. True if it made the revision's entry.
    #[must_use]
    pub fn arrive(self: &Arc<Self>, worker: usize, now: Instant) -> (InFlight, bool) {
        if let Some(shard) = self.shard(worker) {
            let mut shard = lock(shard);
            shard.weigh(now);
            shard.in_flight += 1;
            shard.arrivals += 1;
        }
        let first = !self.entered.load(Ordering::SeqCst) && !self.entered.swap(true, Ordering::SeqCst);
        if first {
            self.seen.store(true, Ordering::Relaxed);
        }
        (InFlight { load: Arc::clone(self), worker }, first)
    }

    /// Ends a period at `now`.
    #[must_use]
    pub fn take(&self, now: Instant) -> Period {
        self.shards.iter().fold(Period::default(), |sum, shard| {
            let mut shard = lock(shard);
            shard.weigh(now);
            Period {
                weighted: sum.weighted + std::mem::take(&mut shard.weighted),
                arrivals: sum.arrivals + std::mem::take(&mut shard.arrivals),
                in_flight: sum.in_flight + shard.in_flight,
            }
        })
    }

    /// Drops the entry, unless a request came meanwhile. True if it is dropped: the next request makes a new one.
    #[must_use]
    pub fn drop_entry(&self) -> bool {
        self.entered.store(false, Ordering::SeqCst);
        let busy = self.shards.iter().any(|shard| {
            let shard = lock(shard);
            shard.in_flight > 0 || shard.arrivals > 0
        });
        // A request that came in between either sees no entry, and makes one, or is seen here.
        !busy || self.entered.swap(true, Ordering::SeqCst)
    }

    /// The revision.
    #[must_use]
    pub fn key(&self) -> &RevisionKey {
        &self.key
    }

    /// Requests in flight; none if there never was a request.
    #[must_use]
    pub fn seen(&self) -> Option<u32> {
        self.seen.load(Ordering::Relaxed).then(|| self.shards.iter().map(|shard| lock(shard).in_flight).sum())
    }

    /// The concurrency that was last reported; none if there never was a report.
    #[must_use]
    pub fn reported(&self) -> Option<f64> {
        Some(self.reported.load(Ordering::Relaxed)).filter(|bits| *bits != NEVER).map(f64::from_bits)
    }

    /// Remembers what was reported.
    pub fn set_reported(&self, concurrency: f64) {
        self.reported.store(concurrency.to_bits(), Ordering::Relaxed);
    }

    fn shard(&self, worker: usize) -> Option<&Mutex<Shard>> {
        self.shards.get(worker % self.shards.len().max(1))
    }
}

impl Shard {
    /// Weighs the time since the last change; a step back of a worker's clock counts as no time, as in Go.
    fn weigh(&mut self, now: Instant) {
        if let Some(elapsed) = now.checked_duration_since(self.last_change) {
            self.weighted += f64::from(self.in_flight) * elapsed.as_secs_f64();
            self.last_change = now;
        }
    }
}

/// A request in flight until it is dropped.
#[derive(Debug)]
pub struct InFlight {
    load: Arc<Load>,
    worker: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(shard) = self.load.shard(self.worker) {
            let mut shard = lock(shard);
            shard.weigh(clock::now());
            shard.in_flight = shard.in_flight.saturating_sub(1);
        }
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn load(workers: usize, now: Instant) -> Arc<Load> {
        Load::new(RevisionKey::new("demo", "hello"), workers, now)
    }

    #[test]
    fn given_requests_on_two_workers_when_the_period_ends_then_they_add_up() {
        let start = Instant::now();
        let load = load(2, start);
        let (first, made) = load.arrive(0, start);
        let (second, again) = load.arrive(1, start + Duration::from_millis(500));
        assert!(made && !again);

        let period = load.take(start + Duration::from_secs(1));

        assert!((period.weighted - 1.5).abs() < 1e-9, "{period:?}");
        assert_eq!((period.arrivals, period.in_flight), (2, 2));
        drop((first, second));
    }

    #[test]
    fn given_an_entry_when_it_is_dropped_then_the_next_request_makes_one_again() {
        let start = Instant::now();
        let load = load(1, start);
        let (request, _) = load.arrive(0, start);
        assert!(!load.drop_entry(), "a request is in flight");
        drop(request);
        let _ = load.take(start);
        assert!(load.drop_entry());

        let (_request, made) = load.arrive(0, start);

        assert!(made);
    }

    /// No request may go unseen: it is in a report of the entry, or it pokes.
    #[test]
    fn given_entries_that_are_dropped_while_requests_come_then_each_request_is_reported_or_pokes() {
        let load = load(1, Instant::now());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let requests = scope.spawn(|| {
                let mut pokes = 0_u32;
                for _ in 0..20_000 {
                    let (request, made) = load.arrive(0, Instant::now());
                    pokes += u32::from(made);
                    drop(request);
                }
                stop.store(true, Ordering::SeqCst);
                pokes
            });
            let mut arrivals = 0;
            let mut dropped = 0_u32;
            while !stop.load(Ordering::SeqCst) {
                let period = load.take(Instant::now());
                arrivals += period.arrivals;
                if period.arrivals == 0 && period.in_flight == 0 && load.entered.load(Ordering::SeqCst) {
                    dropped += u32::from(load.drop_entry());
                }
            }
            arrivals += load.take(Instant::now()).arrivals;
            let pokes = requests.join().unwrap_or_default();
            assert_eq!(arrivals, 20_000);
            assert!(pokes >= dropped && pokes <= dropped + 1, "{pokes} {dropped}");
        });
    }
}
