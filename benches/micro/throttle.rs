//! The activator's throttle: a slot on a pod, and a place in the queue without one.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};

use criterion::Criterion;
use lockkeeper::activator::throttle::{Budget, Entry, Outcome, Revision, Rules, Wait};
use tokio::sync::mpsc::unbounded_channel;

/// A revision with so many pods that passed their probe; nobody probes any more.
fn revision(concurrency: u32, pods: u16) -> Revision {
    let (commands, _) = unbounded_channel();
    let rules = Rules { concurrency, probe_optimisation: true, ..Rules::default() };
    let revision = Revision::new("demo/hello-00001", rules, Arc::new(Budget::new(usize::MAX)), commands);
    let pods: Vec<SocketAddr> = (0..pods)
        .map(|n| {
            let [high, low] = n.to_be_bytes();
            SocketAddr::from(([10, 1, high, low], 8012))
        })
        .collect();
    revision.endpoints(&pods, &[]);
    for (key, ..) in revision.probes() {
        assert!(revision.probed(key, Outcome::Passed, None));
    }
    revision
}

fn wait(revision: &Revision) -> Wait {
    let Entry::Wait(mut wait) = revision.enter(1) else { panic!("not queued") };
    assert!(Pin::new(&mut wait).poll(&mut Context::from_waker(Waker::noop())).is_pending());
    wait
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("throttle");
    for (concurrency, pods) in [(0, 1), (0, 10), (0, 500), (10, 10), (1, 500)] {
        let revision = revision(concurrency, pods);
        group.bench_function(format!("slot taken and freed, {pods} pods, limit {concurrency}"), |b| {
            b.iter(|| match revision.enter(1) {
                Entry::Granted(slot) => drop(slot),
                other => panic!("{other:?}"),
            });
        });
    }
    let none = revision(1, 0);
    let crowd: Vec<Wait> = (0..9_999).map(|_| wait(&none)).collect();
    group.bench_function("place taken and left behind 9,999 others", |b| b.iter(|| drop(wait(&none))));
    drop(crowd);
    group.finish();
}
