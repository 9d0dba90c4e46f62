//! Q2 over HTTP/2: an application that closes idle connections, with a GOAWAY or without a word, and one that says what it
//! did nothing with.
//!
//! The long version: `cargo test --locked -- --ignored q2`.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::races::{Random, SPIN};
use crate::support::binary::queue;
use crate::support::h2::{DATA, END_HEADERS, HEADERS};
use crate::support::h2_app::{H2App, H2Caller};
use crate::support::scrape::{observed, prometheus, sum};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Close {
    /// It names the last stream that was taken up.
    Goaway,
    /// Without a word.
    Abrupt,
}

/// Sends `each` requests on each of `callers` connections, with gaps about as long as the application waits: they grow while
/// nothing is closed and shrink when something is, since kernels round `idle` as they like, and are jittered by a tenth.
/// With as many workers as callers each has connections to the application of its own.
fn race(close: Close, (callers, workers): (usize, usize), each: usize, size: usize, idle: Duration) {
    let closed = Arc::new(AtomicUsize::new(0));
    let counter = closed.clone();
    let app = H2App::start(move |conn| {
        let mut served = false;
        loop {
            if served && !conn.more_within(idle) {
                counter.fetch_add(1, Ordering::Relaxed);
                if close == Close::Goaway {
                    conn.goaway(conn.last());
                }
                return;
            }
            let Some((stream, body)) = conn.request() else { return };
            conn.answer(stream, &body);
            served = true;
        }
    });
    let mut queue = queue(app.port()).env("WORKER_THREADS", workers).start();
    let http = queue.http();
    let threads: Vec<_> = (0..callers)
        .map(|caller| {
            let closed = closed.clone();
            std::thread::spawn(move || {
                let mut gap = idle;
                let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (caller as u64 + 1));
                let mut client = H2Caller::connect(http);
                let mut failed = Vec::new();
                for round in 0..each {
                    let before = closed.load(Ordering::Relaxed);
                    // Each fourth one is a GET, which has no body to tell it by.
                    let get = round % 4 == 3;
                    let mut body = format!("{caller} {round} ").into_bytes();
                    body.resize(body.len().max(size), b'x');
                    let answer = if get { client.ask("GET", None) } else { client.ask("POST", Some(&body)) };
                    match answer {
                        Some((true, echo)) if echo == body || get && echo.is_empty() => {}
                        Some((_, text)) => failed.push(format!("{caller} {round}: {}", String::from_utf8_lossy(&text))),
                        None => {
                            failed.push(format!("{caller} {round}: reset"));
                            client = H2Caller::connect(http);
                        }
                    }
                    let tenth = u64::try_from(gap.as_nanos() / 10).unwrap();
                    let jitter = Duration::from_nanos(random.below(tenth * 2));
                    let until = Instant::now() + gap - Duration::from_nanos(tenth) + jitter;
                    std::thread::sleep(until.saturating_duration_since(Instant::now()).saturating_sub(SPIN));
                    while Instant::now() < until {
                        std::hint::spin_loop();
                    }
                    gap = match closed.load(Ordering::Relaxed) == before {
                        true => (gap + gap / 16).min(idle * 8),
                        false => (gap - gap / 16).max(idle / 2),
                    };
                }
                failed
            })
        })
        .collect();
    let failed: Vec<String> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    let all = callers * each;
    assert!(failed.is_empty(), "{close:?}: {} of {all}: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    let mut taken: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    app.bodies().into_iter().filter(|body| !body.is_empty()).for_each(|body| *taken.entry(body).or_default() += 1);
    assert_eq!(taken.len(), callers * (0..each).filter(|round| round % 4 != 3).count());
    assert!(taken.values().all(|times| *times == 1), "no POST was taken twice");
    let closed = closed.load(Ordering::Relaxed);
    // How many depends on the machine's load; without any there was no race.
    assert!(closed > 20, "{closed} closes in {all} requests: the race was not run");
}

/// Q2.1 over HTTP/2: 10,000 requests, three quarters of them POSTs.
#[test]
fn given_an_h2c_application_that_closes_idle_connections_when_requests_come_around_that_time_then_none_fails() {
    for close in [Close::Goaway, Close::Abrupt] {
        race(close, (4, 4), 1150, 1, Duration::from_millis(2));
        race(close, (4, 4), 100, 60_000, Duration::from_millis(4));
    }
}

/// The same with callers that share connections, so that several requests meet one that is being closed: its GOAWAY tells
/// which of them were not taken up.
#[test]
fn given_an_h2c_application_that_says_goodbye_to_idle_connections_when_callers_share_them_then_none_fails() {
    race(Close::Goaway, (3, 1), 1000, 1, Duration::from_millis(2));
}

/// `LOCKKEEPER_TEST_REQUESTS` requests, 100,000 by default.
#[test]
#[ignore = "takes minutes"]
fn q2_given_an_h2c_application_that_closes_idle_connections_when_100000_requests_come_then_none_fails() {
    let requests = std::env::var("LOCKKEEPER_TEST_REQUESTS").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    for close in [Close::Goaway, Close::Abrupt] {
        race(close, (20, 20), requests / 40, 1, Duration::from_millis(10));
    }
}

/// A crowd on the first connection, before the application could say how many streams it takes.
#[test]
fn given_an_application_that_refuses_streams_when_a_crowd_of_posts_comes_then_each_is_done_once() {
    const MOST: u32 = 8;
    const CROWD: usize = 40;
    let app = H2App::start(|conn| {
        // The limit comes late: after the crowd.
        let mut open = Vec::new();
        let mut said = false;
        while let Some(frame) = conn.frame() {
            if frame.kind == HEADERS {
                if open.len() >= MOST as usize {
                    conn.refuse(frame.stream);
                    if !said {
                        let settings = [&[0, 3][..], &MOST.to_be_bytes()].concat();
                        conn.frames().send(crate::support::h2::SETTINGS, 0, 0, &settings);
                        said = true;
                    }
                } else {
                    open.push(frame.stream);
                }
            }
            if frame.kind == DATA && frame.ends_stream() && open.contains(&frame.stream) {
                // Slow enough for the others to come meanwhile.
                std::thread::sleep(Duration::from_millis(20));
                open.retain(|stream| *stream != frame.stream);
                conn.answer(frame.stream, &frame.payload);
            }
        }
    });
    let mut queue = queue(app.port()).env("WORKER_THREADS", 1).start();
    let mut client = H2Caller::connect(queue.http());
    // Until the application has answered once, a POST asks for its protocol before.
    assert!(client.ask("POST", Some(b"first")).unwrap().0);
    let bodies: Vec<String> = (0..CROWD).map(|n| format!("{n:02}")).collect();
    let callers: Vec<_> = bodies
        .iter()
        .map(|body| {
            let (http, body) = (queue.http(), body.clone());
            std::thread::spawn(move || (H2Caller::connect(http).ask("POST", Some(body.as_bytes())), body))
        })
        .collect();
    for caller in callers {
        let (answer, body) = caller.join().unwrap();
        assert_eq!(answer, Some((true, body.into_bytes())));
    }
}

/// RFC 9113 section 6.8: streams above the last one that a GOAWAY names were not taken up; those below may have been.
#[test]
fn given_a_goaway_with_posts_under_way_when_it_names_one_then_those_after_it_go_out_again_and_it_does_not() {
    let app = H2App::start(|conn| {
        let mut streams = Vec::new();
        while let Some((stream, body)) = conn.request() {
            match &*body {
                b"first" => conn.answer(stream, b"first"),
                b"hold" => drop(conn.frames().send(HEADERS, END_HEADERS, stream, &[0x88])),
                _ if conn.index > 1 => conn.answer(stream, &body),
                _ => streams.push(stream),
            }
            if streams.len() == 3 {
                conn.goaway(streams[0]);
                return;
            }
        }
    });
    let mut queue = queue(app.port()).env("WORKER_THREADS", 1).start();
    let mut client = H2Caller::connect(queue.http());
    assert!(client.ask("POST", Some(b"first")).unwrap().0);
    // A response that has begun shows that the connection is alive; then what comes shares it.
    client.send(&[("POST", Some(b"hold"))]);
    while client.frame().expect("the connection goes on").kind != HEADERS {}
    let streams = client.send(&[("POST", Some(b"0")), ("POST", Some(b"1")), ("POST", Some(b"2"))]);
    let mut answers = BTreeMap::new();
    let mut callers: Vec<_> = streams.iter().map(|stream| (*stream, Vec::new(), false)).collect();
    while answers.len() < 3 {
        let frame = client.frame().expect("the connection goes on");
        let Some(caller) = callers.iter_mut().find(|caller| caller.0 == frame.stream) else { continue };
        match frame.kind {
            HEADERS => caller.2 = frame.payload.first() == Some(&0x88),
            DATA => caller.1.extend_from_slice(&frame.payload),
            _ => {}
        }
        if frame.ends_stream() {
            answers.insert(caller.0, (caller.2, caller.1.clone()));
        }
    }
    assert!(!answers[&streams[0]].0, "it may have been taken up: {:?}", answers[&streams[0]]);
    assert_eq!(answers[&streams[1]], (true, b"1".to_vec()));
    assert_eq!(answers[&streams[2]], (true, b"2".to_vec()));
    let bodies = app.bodies();
    assert_eq!(bodies.iter().filter(|body| **body == b"0").count(), 1, "it is never taken twice");
}

/// A connection that ends with a request that was read: it may have been done.
#[test]
fn given_an_application_that_reads_a_request_and_closes_when_it_was_a_post_then_it_is_not_sent_again() {
    let app = H2App::start(|conn| {
        while let Some((stream, body)) = conn.request() {
            match &*body {
                b"" => conn.answer(stream, b"again"),
                b"first" => conn.answer(stream, b"first"),
                _ => return,
            }
        }
    });
    let mut queue = queue(app.port()).env("WORKER_THREADS", 1).start();
    let mut client = H2Caller::connect(queue.http());
    assert!(client.ask("POST", Some(b"first")).unwrap().0);
    let (ok, text) = client.ask("POST", Some(b"second")).unwrap();
    assert!(!ok, "{}", String::from_utf8_lossy(&text));
    assert_eq!(app.bodies(), [b"first".to_vec(), b"second".to_vec()]);
}

/// RFC 9110 section 9.2.2: what is the same when it is done twice may be.
#[test]
fn given_an_application_that_reads_a_get_and_closes_when_the_connection_had_served_then_it_is_sent_again() {
    let gets = Arc::new(AtomicUsize::new(0));
    let seen = gets.clone();
    let app = H2App::start(move |conn| {
        while let Some((stream, body)) = conn.request() {
            if body.is_empty() && seen.fetch_add(1, Ordering::SeqCst) == 0 {
                return;
            }
            conn.answer(stream, b"served");
        }
    });
    let (mut queue, metrics) = observed(queue(app.port()).env("WORKER_THREADS", 1));
    let mut client = H2Caller::connect(queue.http());
    assert!(client.ask("POST", Some(b"first")).unwrap().0);
    assert_eq!(client.ask("GET", None), Some((true, b"served".to_vec())));
    assert_eq!(gets.load(Ordering::SeqCst), 2);
    assert_eq!(sum(&prometheus(metrics), "lockkeeper_upstream_retries_total", &[]), Some(1.0));
}
