//! O2: callers cannot make series, however many hosts, methods, paths and tags they invent.
//!
//! The long version: `cargo test --locked -- --ignored o2`.
use std::collections::BTreeMap;

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::Raw;
use crate::support::scrape::{observed, prometheus, sum};

const CALLERS: u64 = 4;

fn invent(requests: u64) {
    let app = App::start(|conn| {
        // Bare bones: the answer to each head at once, and nothing is remembered.
        let mut pending = Vec::new();
        loop {
            let bytes = conn.some();
            if bytes.is_empty() {
                return;
            }
            pending.extend_from_slice(&bytes);
            while let Some(end) = pending.windows(4).position(|four| four == b"\r\n\r\n") {
                pending.drain(..end + 4);
                conn.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let (mut queue, port) = observed(queue(app.port()));
    let http = queue.http();
    let mut client = Raw::plain(http);
    for _ in 0..100 {
        client.get("/", "").reply();
    }
    prometheus(port);
    let before = queue.memory_own();
    let threads: Vec<_> = (0..CALLERS)
        .map(|caller| {
            std::thread::spawn(move || {
                let mut client = Raw::plain(http);
                let mut state = 0x2545_f491_4f6c_dd1d ^ (caller + 1);
                let mut random = move || {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state
                };
                for _ in 0..requests / CALLERS {
                    let (method, path, host, tag) = (random() % 1_000_000, random(), random(), random());
                    let request = format!(
                        "M{method} /p{path:x} HTTP/1.1\r\nHost: h{host:x}.example.com:{}\r\nKnative-Serving-Tag: t{tag:x}\r\n\
                         User-Agent: u{path:x}\r\nX-Forwarded-For: 10.0.{}.{}\r\n\r\n",
                        host % 65_536,
                        path % 256,
                        tag % 256
                    );
                    assert_eq!(client.send(request).reply().status(), 200);
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let page = prometheus(port);
    let mut per_name = BTreeMap::<String, usize>::new();
    for sample in &page {
        if !sample.labels.contains_key("le") {
            *per_name.entry(sample.name.clone()).or_default() += 1;
        }
    }
    assert!(per_name.values().all(|count| *count <= 64), "{per_name:?}");
    let counted = sum(&page, "http_server_request_duration_seconds_count", &[]).unwrap_or_default();
    assert!((counted - (requests + 100) as f64).abs() < 0.5, "{counted} of {requests} are counted");
    let grown = queue.memory_own().saturating_sub(before);
    assert!(grown <= 1024, "{grown} KiB for series");
}

#[test]
fn given_10000_random_requests_when_scraped_then_at_most_64_series_an_instrument() {
    invent(10_000);
}

#[test]
#[ignore = "takes a minute"]
fn o2_given_100000_random_requests_when_scraped_then_at_most_64_series_an_instrument() {
    invent(100_000);
}
