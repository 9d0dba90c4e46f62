//! Metrics: what is recorded for each request, with the look-up of its labels; and a scrape.

use std::time::Duration;

use criterion::Criterion;
use http::{Method, Version};
use lockkeeper::queue::metrics::{ClientLabels, Metrics, RouteTag, ServerLabels, WorkerMetrics};

fn record(worker: &WorkerMetrics, host: &str, status: u16) {
    let elapsed = Duration::from_micros(1834);
    let tag = RouteTag::Disabled;
    let (method, version) = (&Method::GET, Version::HTTP_11);
    worker.server(&ServerLabels { method, status, version, host, https: true, tag }, elapsed, 0, 1234);
    worker.client(&ClientLabels { method, status: Ok(status), version, user_port: 8080, tag }, elapsed, 0);
    worker.invocation(status, elapsed);
}

pub(crate) fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("metrics");
    let metrics = Metrics::new(1, Vec::new());
    let worker = metrics.worker(0);
    group.bench_function("request with the labels of the last", |b| {
        b.iter(|| record(&worker, "hello.default.example.com", 200));
    });
    let hosts: Vec<String> = (0..20).map(|i| format!("tag{i}-hello.default.example.com")).collect();
    let mut turn = hosts.iter().cycle();
    group.bench_function("request, hosts by turns", |b| b.iter(|| record(&worker, turn.next().unwrap(), 200)));
    let mut flood = 0_u64;
    group.bench_function("request, a flood of random hosts", |b| {
        b.iter(|| {
            flood = flood.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            record(&worker, &format!("{flood:x}.example.com"), 404);
        });
    });
    group.bench_function("scrape", |b| b.iter(|| metrics.encode().len()));
    group.finish();
}
