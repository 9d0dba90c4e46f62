//! Deadlines of requests: set when one begins, put off with each piece of a response, removed at its end.

use std::cell::Cell;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use criterion::Criterion;
use lockkeeper::worker::deadline::Deadlines;
use tokio::task::LocalSet;

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("deadlines");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let tasks = LocalSet::new();
    let _entered = (runtime.enter(), tasks.enter());
    let list = Deadlines::new(Duration::from_secs(300));
    let now = Instant::now();
    // Others under way, so that neither end of the list is empty.
    let others: Vec<_> = (0..100).map(|_| list.set(now, Rc::new(Cell::new(false)), Waker::noop())).collect();
    group.bench_function("set and removed, among 100", |b| {
        b.iter(|| drop(list.set(Instant::now(), Rc::new(Cell::new(false)), Waker::noop())));
    });
    let mut own = list.set(now, Rc::new(Cell::new(false)), Waker::noop());
    group.bench_function("put off", |b| b.iter(|| own.restart(Instant::now(), Waker::noop())));
    drop((own, others));
    group.finish();
}
