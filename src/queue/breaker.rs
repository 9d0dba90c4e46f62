//! Limits how many requests the application runs at once and lets a bounded number wait.
//!
//! Called by the queue's breaker layer on every worker; the one breaker of the process is shared by all of them. Data
//! side. Rules: `c` requests run, `10 c` wait, the next one is refused at once; first come, first served; a place is
//! freed by dropping what stands for it, whatever the reason. The path of a request that need not wait is four atomic
//! operations and no allocation.
//! Source: `knative.dev/serving/pkg/queue/breaker.go`, `sharedmain/handlers.go` (`buildBreaker`).
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::Semaphore;

/// Waiting places for each running one.
const QUEUE_DEPTH_FACTOR: usize = 10;

/// The breaker; clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Breaker {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Running and waiting requests.
    admitted: AtomicUsize,
    /// How many may be admitted: `11 c`.
    limit: usize,
    /// Free slots for running requests. Tokio's semaphore is fair, also towards `try_acquire`: a freed permit goes to
    /// the longest waiting request and never becomes visible to a newcomer.
    running: Semaphore,
}

impl Breaker {
    /// A breaker that lets `concurrency` requests run and ten times as many wait.
    pub fn new(concurrency: NonZeroU32) -> Self {
        let concurrency = (concurrency.get() as usize).min(Semaphore::MAX_PERMITS / (QUEUE_DEPTH_FACTOR + 1));
        let limit = concurrency * (QUEUE_DEPTH_FACTOR + 1);
        Self { shared: Arc::new(Shared { admitted: AtomicUsize::new(0), limit, running: Semaphore::new(concurrency) }) }
    }

    /// Asks for a slot; never blocks.
    pub fn enter(&self) -> Entry {
        let Some(place) = Place::take(&self.shared) else {
            return Entry::Full;
        };
        match self.shared.running.try_acquire() {
            Ok(permit) => {
                permit.forget();
                Entry::Granted(Slot { place })
            }
            Err(_) => Entry::Wait(Wait { future: Box::pin(wait(place)) }),
        }
    }

    /// Running and waiting requests at this moment: `kn_serving_queue_depth`.
    pub fn depth(&self) -> usize {
        self.shared.admitted.load(Ordering::Relaxed)
    }
}

async fn wait(place: Place) -> Slot {
    // The semaphore is never closed; were it, letting the request through is the harmless side.
    if let Ok(permit) = place.shared.running.acquire().await {
        permit.forget();
    }
    Slot { place }
}

/// What became of a request that asked for a slot.
#[derive(Debug)]
pub enum Entry {
    /// It may run now.
    Granted(Slot),
    /// It may run when the future is ready.
    Wait(Wait),
    /// All places are taken: answer 503.
    Full,
}

/// The right to run; freed on drop.
#[derive(Debug)]
pub struct Slot {
    place: Place,
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.place.shared.running.add_permits(1);
    }
}

/// A place among the waiting; dropping it leaves the queue. The order is that of the first polls.
pub struct Wait {
    future: Pin<Box<dyn Future<Output = Slot> + Send>>,
}

impl std::fmt::Debug for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wait")
    }
}

impl Future for Wait {
    type Output = Slot;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Slot> {
        self.future.as_mut().poll(cx)
    }
}

/// One of the `11 c` places, running or waiting.
#[derive(Debug)]
struct Place {
    shared: Arc<Shared>,
}

impl Place {
    fn take(shared: &Arc<Shared>) -> Option<Self> {
        // Count first and take back on failure would let two newcomers refuse each other; so compare and swap.
        shared
            .admitted
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < shared.limit).then_some(n + 1))
            .ok()
            .map(|_| Self { shared: shared.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.admitted.fetch_sub(1, Ordering::Relaxed);
    }
}
