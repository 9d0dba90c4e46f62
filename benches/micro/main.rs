//! What is on the path of a request, of a handshake and of a reload, function by function: `cargo bench --bench micro`.
//!
//! A file a topic. All of it runs on one thread and without sockets, so that a difference of a few per cent between two
//! commits shows; what a whole request costs is measured by the bench `load`. See `benches/README.md`.
#![allow(clippy::unwrap_used)]

mod body;
mod breaker;
mod deadlines;
mod handshake;
mod headers;
mod metrics;
mod reload;
mod request_log;
mod throttle;

use std::time::Duration;

use criterion::Criterion;

fn main() {
    // Short: some forty measurements shall take two minutes, and their noise is below what a change is worth here.
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_millis(1500))
        .sample_size(50)
        .configure_from_args();
    headers::bench(&mut criterion);
    request_log::bench(&mut criterion);
    metrics::bench(&mut criterion);
    breaker::bench(&mut criterion);
    throttle::bench(&mut criterion);
    deadlines::bench(&mut criterion);
    body::bench(&mut criterion);
    handshake::bench(&mut criterion);
    reload::bench(&mut criterion);
    criterion.final_summary();
}
