//! What travels with a response's body: told of each piece and of its end.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use criterion::Criterion;
use http_body::Body as _;
use lockkeeper::http::body::{Body, End, Watch};

/// As small as a watch can be: what is measured is the body's own work.
#[derive(Default)]
struct Count(usize);

impl Watch for Count {
    fn sent(&mut self, bytes: usize, _: &mut Context<'_>) {
        self.0 += bytes;
    }

    fn end(&mut self, end: End) {
        assert_eq!((end, self.0), (End::Whole, 14));
    }
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("body");
    for watches in [0, 1, 4] {
        group.bench_function(format!("sent whole, {watches} watches"), |b| {
            b.iter(|| {
                let mut body = Body::full(Bytes::from_static(b"hello knative\n"));
                for _ in 0..watches {
                    body.watch(Box::<Count>::default());
                }
                let mut context = Context::from_waker(Waker::noop());
                while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut context) {
                    assert!(frame.is_ok());
                }
            });
        });
    }
    group.finish();
}
