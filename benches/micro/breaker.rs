//! The breaker: a slot taken and freed, and handed to a request that waits.

use std::num::NonZeroU32;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use criterion::Criterion;
use lockkeeper::queue::breaker::{Breaker, Entry};

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("breaker");
    let breaker = Breaker::new(NonZeroU32::new(10).unwrap());
    group.bench_function("slot taken and freed", |b| b.iter(|| drop(breaker.enter())));

    let one = Breaker::new(NonZeroU32::MIN);
    group.bench_function("slot handed to the next in the queue", |b| {
        b.iter(|| {
            let Entry::Granted(first) = one.enter() else { panic!("a free slot was not granted") };
            let Entry::Wait(wait) = one.enter() else { panic!("not queued") };
            let mut wait = pin!(wait);
            let mut context = Context::from_waker(Waker::noop());
            assert!(wait.as_mut().poll(&mut context).is_pending());
            drop(first);
            match wait.poll(&mut context) {
                Poll::Ready(slot) => drop(slot),
                Poll::Pending => panic!("the slot was lost"),
            }
        });
    });

    let full = Breaker::new(NonZeroU32::MIN);
    let held: Vec<Entry> = (0..11).map(|_| full.enter()).collect();
    group.bench_function("refused", |b| b.iter(|| assert!(matches!(full.enter(), Entry::Full))));
    drop(held);
    group.finish();
}
