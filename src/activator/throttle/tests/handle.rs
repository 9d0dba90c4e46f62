//! The handle: wakers, drops, threads, memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::super::*;
use super::pod;

fn revision(concurrency: u32, memory: usize) -> (Revision, UnboundedReceiver<Command>) {
    let (send, receive) = unbounded_channel();
    let rules = Rules { concurrency, probe_optimisation: true, ..Rules::default() };
    (Revision::new("demo/hello-00001", rules, Arc::new(Budget::new(memory)), send), receive)
}

fn pass(revision: &Revision) {
    for (key, ..) in revision.probes() {
        assert!(revision.probed(key, Outcome::Passed, None));
    }
}

fn poll(wait: &mut Wait) -> Poll<Result<Slot, Refused>> {
    Pin::new(wait).poll(&mut Context::from_waker(Waker::noop()))
}

fn granted(entry: Entry) -> Slot {
    let Entry::Granted(slot) = entry else { panic!("{entry:?}") };
    slot
}

fn waiting(entry: Entry) -> Wait {
    let Entry::Wait(wait) = entry else { panic!("{entry:?}") };
    wait
}

#[tokio::test]
async fn given_a_waiting_request_when_a_pod_passes_its_probe_then_it_is_woken_with_its_address() {
    let (revision, _commands) = revision(1, 1000);
    let task = tokio::spawn({
        let revision = revision.clone();
        async move { revision.acquire(10).await.map(|slot| slot.address()) }
    });
    while revision.counts().waiting == 0 {
        tokio::task::yield_now().await;
    }
    revision.endpoints(&[], &[pod(1)]);
    pass(&revision);
    assert_eq!(task.await.unwrap(), Ok(pod(1)));
    assert_eq!(revision.counts().running, 0);
}

#[test]
fn given_a_granted_request_that_leaves_unseen_then_the_next_one_gets_its_slot() {
    let (revision, _commands) = revision(1, 1000);
    revision.endpoints(&[pod(0)], &[]);
    pass(&revision);
    let slot = granted(revision.enter(1));
    let (first, mut second) = (waiting(revision.enter(1)), waiting(revision.enter(1)));
    drop(slot);
    drop(first);
    assert!(matches!(poll(&mut second), Poll::Ready(Ok(_))));
}

/// A4: bytes of waiting requests are bounded over all revisions; those that go or leave give them back.
#[test]
fn given_a_budget_when_waiting_requests_cost_more_then_the_rest_is_refused() {
    let budget = Arc::new(Budget::new(100));
    let (send, _commands) = unbounded_channel();
    let new = |name| Revision::new(name, Rules { concurrency: 1, ..Rules::default() }, budget.clone(), send.clone());
    let (one, other) = (new("demo/one"), new("demo/other"));
    let (first, _second) = (waiting(one.enter(60)), waiting(other.enter(40)));
    assert!(matches!(other.enter(1), Entry::Refused(Refused::NoMemory)));
    assert_eq!(other.counts().waiting, 1);
    drop(first);
    assert_eq!(budget.used(), 40);
    assert!(matches!(other.enter(60), Entry::Wait(_)));
}

#[test]
fn given_a_pod_that_failed_when_the_request_enters_again_then_it_goes_to_another() {
    let (revision, _commands) = revision(0, 1000);
    revision.endpoints(&[pod(0), pod(1)], &[]);
    pass(&revision);
    let slot = granted(revision.enter(1));
    let dead = slot.address();
    slot.failed(Failure::Unreachable);
    assert_ne!(granted(revision.enter_again(1)).address(), dead);
    assert_eq!(revision.counts().running, 0);
}

#[test]
fn given_a_closed_revision_then_the_waiting_and_the_new_are_refused() {
    let (revision, _commands) = revision(1, 1000);
    let mut wait = waiting(revision.enter(1));
    revision.close();
    assert!(matches!(poll(&mut wait), Poll::Ready(Err(Refused::RevisionGone))));
    assert!(matches!(revision.enter(1), Entry::Refused(Refused::RevisionGone)));
}

/// The connection of a probe is for one request that waited for that very pod.
#[test]
fn given_a_probe_that_passed_on_a_connection_then_one_slot_of_its_pod_takes_it() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let connect = || std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (revision, _commands) = revision(0, 1000);
    revision.endpoints(&[], &[pod(0), pod(1)]);
    let (key, at, _) = revision.probes()[0];
    let mut waits: Vec<_> = (0..2).map(|_| waiting(revision.enter(1))).collect();
    let kept = connect();
    let local = kept.local_addr().unwrap();
    assert!(revision.probed(key, Outcome::Passed, Some(kept)));

    let mut slots = Vec::new();
    for wait in &mut waits {
        let Poll::Ready(Ok(slot)) = poll(wait) else { panic!("not granted") };
        assert_eq!(slot.address(), at);
        slots.push(slot);
    }
    assert_eq!(slots[0].take_connection().unwrap().local_addr().unwrap(), local);
    assert!(slots[1].take_connection().is_none());

    // Nobody waits: no connection is kept.
    let (key, ..) = revision.probes()[0];
    assert!(revision.probed(key, Outcome::Passed, Some(connect())));
    assert!((0..4).all(|_| granted(revision.enter(1)).take_connection().is_none()));
}

#[test]
fn given_many_threads_then_no_pod_runs_more_than_it_may_and_every_slot_comes_back() {
    let (revision, _commands) = revision(1, 1_000_000);
    revision.endpoints(&[pod(0), pod(1)], &[]);
    pass(&revision);
    let running: [AtomicUsize; 2] = Default::default();
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            let (revision, running) = (&revision, &running);
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for n in 0..300_u32 {
                    if (thread + n).is_multiple_of(7) {
                        // One that leaves at once, whether it waits or not.
                        drop(revision.enter(1));
                        continue;
                    }
                    let slot = runtime.block_on(revision.acquire(1)).unwrap();
                    let on = &running[usize::from(slot.address() == pod(1))];
                    assert_eq!(on.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    on.fetch_sub(1, Ordering::SeqCst);
                }
            });
        }
    });
    let counts = revision.counts();
    assert_eq!((counts.running, counts.waiting), (0, 0));
    assert_eq!(revision.resync(), []);
}

/// What one request costs while it waits, beside its own future.
#[test]
fn given_ten_thousand_waiting_requests_then_a_ticket_and_its_future_are_small() {
    assert!(size_of::<Wait>() <= 40, "{}", size_of::<Wait>());
    assert!(size_of::<Slot>() <= 64, "{}", size_of::<Slot>());
}
