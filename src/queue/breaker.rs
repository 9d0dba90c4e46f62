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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    fn breaker(concurrency: u32) -> Breaker {
        Breaker::new(NonZeroU32::new(concurrency).unwrap())
    }

    fn poll(wait: &mut Wait) -> Poll<Slot> {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Contract 6: c = 1 admits 11, c = 2 admits 22.
    #[test]
    fn given_c_slots_when_more_than_eleven_times_c_enter_then_the_rest_is_refused() {
        for concurrency in [1, 2] {
            let breaker = breaker(concurrency);
            let entries: Vec<_> = (0..11 * concurrency).map(|_| breaker.enter()).collect();
            let granted = entries.iter().filter(|entry| matches!(entry, Entry::Granted(_))).count();
            assert_eq!(granted, concurrency as usize);
            assert!(entries.iter().all(|entry| !matches!(entry, Entry::Full)));
            assert!(matches!(breaker.enter(), Entry::Full));
            assert_eq!(breaker.depth(), 11 * concurrency as usize);
            drop(entries);
            assert_eq!(breaker.depth(), 0);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Enter,
        Finish(usize),
        Leave(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Enter),
            2 => any::<usize>().prop_map(Step::Finish),
            1 => any::<usize>().prop_map(Step::Leave),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// In any order of arrivals, ends and departures: never more than c run, the longest waiting go first, nobody
        /// waits beside a free slot, nobody is refused while there is a place, and nothing leaks.
        #[test]
        fn given_any_order_of_events_then_the_breaker_agrees_with_a_plain_queue(concurrency in 1_u32..4, steps in steps()) {
            let breaker = breaker(concurrency);
            let c = concurrency as usize;
            let mut running: Vec<Slot> = Vec::new();
            let mut waiting: Vec<Wait> = Vec::new();
            for step in steps {
                match step {
                    Step::Enter => match breaker.enter() {
                        Entry::Granted(slot) => {
                            prop_assert!(running.len() < c && waiting.is_empty());
                            running.push(slot);
                        }
                        Entry::Wait(mut wait) => {
                            prop_assert!(running.len() == c && waiting.len() < 10 * c);
                            prop_assert!(poll(&mut wait).is_pending());
                            waiting.push(wait);
                        }
                        Entry::Full => prop_assert_eq!(running.len() + waiting.len(), 11 * c),
                    },
                    Step::Finish(index) if !running.is_empty() => drop(running.swap_remove(index % running.len())),
                    Step::Leave(index) if !waiting.is_empty() => drop(waiting.remove(index % waiting.len())),
                    Step::Finish(_) | Step::Leave(_) => {}
                }
                // Asked in the reverse order, so that only the breaker can make it first come, first served.
                let free = c - running.len();
                let expected = free.min(waiting.len());
                for index in (0..waiting.len()).rev() {
                    match poll(&mut waiting[index]) {
                        Poll::Ready(slot) => {
                            prop_assert!(index < expected);
                            running.push(slot);
                            drop(waiting.remove(index));
                        }
                        Poll::Pending => prop_assert!(index >= expected),
                    }
                }
                prop_assert_eq!(breaker.depth(), running.len() + waiting.len());
            }
            drop((running, waiting));
            prop_assert_eq!(breaker.depth(), 0);
            let again: Vec<_> = (0..c).map(|_| breaker.enter()).collect();
            prop_assert!(again.iter().all(|entry| matches!(entry, Entry::Granted(_))));
        }
    }

    #[test]
    fn given_a_waiting_request_that_was_granted_unseen_when_it_leaves_then_the_next_one_runs() {
        let breaker = breaker(1);
        let Entry::Granted(first) = breaker.enter() else { panic!("a free slot was not granted") };
        let mut waits: Vec<Wait> = Vec::new();
        for _ in 0..2 {
            let Entry::Wait(mut wait) = breaker.enter() else { panic!("not queued") };
            assert!(poll(&mut wait).is_pending());
            waits.push(wait);
        }
        drop(first);
        drop(waits.remove(0));
        assert!(poll(&mut waits[0]).is_ready());
    }

    #[test]
    fn given_many_threads_then_never_more_than_c_run_and_every_place_comes_back() {
        const CONCURRENCY: usize = 3;
        let breaker = breaker(3);
        let running = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    for _ in 0..500 {
                        let slot = match breaker.enter() {
                            Entry::Granted(slot) => slot,
                            Entry::Wait(wait) => runtime.block_on(wait),
                            Entry::Full => panic!("four threads cannot fill 33 places"),
                        };
                        assert!(running.fetch_add(1, Ordering::SeqCst) < CONCURRENCY);
                        std::thread::yield_now();
                        running.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!(breaker.depth(), 0);
    }
}
