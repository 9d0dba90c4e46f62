//! Q2: an application that closes idle connections at the nastiest moment, as Python's and Node's servers do after a few
//! seconds. The gap between two requests is drawn around the application's idle time, so that many closes fall right onto
//! the next request.
//!
//! The long version: `cargo test --locked -- --ignored q2`.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::app::{App, ok, response};
use crate::support::binary::queue;
use crate::support::client::Raw;
use crate::support::wait::eventually;

/// Numbers without a pattern, the same in each run.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// How a request's body comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upload {
    /// A few bytes.
    Small,
    /// More than is kept to be sent again.
    Large,
    /// In chunks: nobody knows how much.
    Chunks,
}

impl Upload {
    fn send(self, client: &mut Raw, text: &str) {
        let head = "POST / HTTP/1.1\r\nHost: hello.example.com\r\n";
        match self {
            Self::Small => client.post("/", text),
            Self::Large => client.post("/", &(text.to_owned() + &"0".repeat(200_000))),
            Self::Chunks => {
                let length = text.len();
                client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{text}\r\n0\r\n\r\n"))
            }
        };
    }
}

/// Sends `each` POSTs on each of `callers` connections, with gaps of `idle` and up to a tenth more or less.
fn race(upload: Upload, callers: usize, each: usize, idle: Duration) {
    let closed = std::sync::Arc::new(AtomicUsize::new(0));
    let counter = closed.clone();
    let app = App::start(move |conn| {
        while let Some((_, body)) = conn.request() {
            let text = String::from_utf8_lossy(&body.bytes);
            // What fills a large one up is not part of the text.
            conn.send(ok(text.trim_end_matches('0')));
            if !conn.more_within(idle) {
                counter.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            std::thread::spawn(move || {
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (caller as u64 + 1));
                let mut client = Raw::plain(http);
                let mut failed = Vec::new();
                for round in 0..each {
                    let body = format!("{caller} {round}.");
                    upload.send(&mut client, &body);
                    match client.try_reply() {
                        Some(reply) if reply.status() == 200 && reply.text() == body => {}
                        Some(reply) => failed.push(format!("{body}: {} {}", reply.status(), reply.text())),
                        None => {
                            failed.push(format!("{body}: closed"));
                            client = Raw::plain(http);
                        }
                    }
                    let tenth = u64::try_from(idle.as_nanos() / 10).unwrap();
                    let until = Instant::now() + idle - Duration::from_nanos(tenth)
                        + Duration::from_nanos(random.below(tenth * 2));
                    // Sleep most of it, spin the rest: a sleep alone is too coarse to hit the close.
                    std::thread::sleep(until.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                }
                failed
            })
        })
        .collect();
    let failed: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let all = callers * each;
    assert!(failed.is_empty(), "{} of {all}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    assert_eq!(app.count(), all, "no request was taken twice");
    let closed = closed.load(Ordering::Relaxed);
    // How many depends on the machine's load; without any there was no race.
    assert!(closed > 20, "{closed} closes in {all} requests: the race was not run");
}

pub(super) const SPIN: Duration = Duration::from_micros(100);

/// Q2.1, bounded.
#[test]
fn given_an_application_that_closes_idle_connections_when_posts_come_around_that_time_then_none_fails() {
    race(Upload::Small, 4, 1500, Duration::from_millis(2));
}

/// Q2.1: what can't be sent again does not take the risk.
#[test]
fn given_an_application_that_closes_idle_connections_when_large_or_chunked_posts_come_then_none_fails() {
    race(Upload::Large, 4, 400, Duration::from_millis(3));
    race(Upload::Chunks, 4, 1000, Duration::from_millis(2));
}

/// Q2.1: 100,000 POSTs. The application's idle time is a hundredth of the usual 2 s and the gaps are in proportion, so
/// that as many of them hit the close in minutes as otherwise in hours.
#[test]
#[ignore = "takes minutes"]
fn q2_given_an_application_that_closes_idle_connections_when_100000_posts_come_then_none_fails() {
    race(Upload::Small, 20, 5000, Duration::from_millis(20));
}

/// The same with what can't be sent again.
#[test]
#[ignore = "takes minutes"]
fn q2_given_an_application_that_closes_idle_connections_when_large_and_chunked_posts_come_then_none_fails() {
    race(Upload::Large, 10, 1000, Duration::from_millis(20));
    race(Upload::Chunks, 20, 2500, Duration::from_millis(20));
}

/// Q2.3: what the application says of its connection is believed: after `Connection: close` it is not used again, and
/// neither is one on which it answered before it had read the whole request.
#[test]
fn given_the_application_says_that_it_will_close_when_the_next_request_comes_then_it_goes_elsewhere() {
    let app = App::start(|conn| {
        let Some(_) = conn.request() else { return };
        conn.send(response("200 OK", &[("Connection", "close")], "ok"));
        // It promised to close, but is slow to do so. A second request here would never be answered.
        conn.wait_close();
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for _ in 0..5 {
        assert_eq!(client.post("/", "x").reply().status(), 200);
    }
    assert_eq!((app.seen().len(), app.accepted()), (5, 5));
}

/// Q2.3: an application that says how long it keeps an idle connection is believed: it need not close it under a request.
#[test]
fn given_the_application_says_how_long_it_keeps_connections_when_it_is_nearly_over_then_we_close_them() {
    let app = App::start(|conn| {
        while conn.request().is_some() {
            conn.send(response("200 OK", &[("Keep-Alive", "max=100, timeout=5")], "ok"));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for _ in 0..3 {
        assert_eq!(client.post("/", "x").reply().status(), 200);
    }
    assert_eq!((app.accepted(), app.open()), (1, 1), "it is used meanwhile");
    eventually("it is closed by us", || app.open() == 0);
    assert_eq!(client.post("/", "x").reply().status(), 200);
    assert_eq!(app.accepted(), 2);
}

/// Q2: a request that the application may have acted on is not sent again, whatever the close looks like.
#[test]
fn given_a_reused_connection_that_ends_in_the_middle_of_an_answer_when_it_was_a_post_then_it_is_not_sent_again() {
    let app = App::start(|conn| {
        let Some(_) = conn.request() else { return };
        conn.send(ok("ok"));
        let Some(_) = conn.request() else { return };
        conn.send("HTTP/1.1 200 OK\r\nContent-Le");
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    assert_eq!(client.post("/", "1").reply().status(), 200);
    let reply = client.post("/", "2").reply();
    assert_eq!(reply.status(), 502, "{}", reply.text());
    assert_eq!(app.seen().len(), 2);
}
