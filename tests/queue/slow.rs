//! Callers that send a head a byte at a time, or never to its end: the limit holds for each request of a connection, and
//! for no connection that is merely idle.
use std::time::Duration;

use rustls::version::TLS13;

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::Raw;
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::observed;
use crate::support::wait::eventually;

const LIMIT: &str = "500ms";
const BEGINNING: &str = "GET / HTTP/1.1\r\nHost: hello.example.com\r\nX-Slow: ";

/// Three callers that stall in their second head, each in another way; true when all of them are closed.
#[track_caller]
fn stalled_are_closed(connect: &dyn Fn() -> Raw, path: &str) {
    let mut stalled = connect();
    assert!(stalled.get(path, "").try_reply().is_some());
    let mut dribbling = connect();
    assert!(dribbling.get(path, "").try_reply().is_some());
    // The beginning comes with what is before it, in one piece.
    let mut joined = connect();
    joined.send(format!("GET {path} HTTP/1.1\r\nHost: hello.example.com\r\n\r\n{BEGINNING}"));
    assert!(joined.try_reply().is_some());

    stalled.send(BEGINNING);
    dribbling.send(BEGINNING);
    eventually("the dribbling one is closed", || {
        dribbling.send("x");
        dribbling.is_closed()
    });
    assert!(stalled.closes(), "no answer and no other byte");
    assert!(joined.closes(), "no answer and no other byte");
}

#[test]
fn given_a_connection_that_was_served_when_the_next_head_is_slow_then_it_is_closed_and_an_idle_one_is_not() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port())
        .certs(pki.dir())
        .env("LOCKKEEPER_HEADER_READ_TIMEOUT", LIMIT)
        .env("WORKER_THREADS", 1)
        .start();
    let (http, tls) = (queue.http(), queue.tls());
    let plain = move || Raw::plain(http);
    let encrypted = move || Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME);
    for connect in [&plain as &dyn Fn() -> Raw, &encrypted] {
        let mut idle = connect();
        assert_eq!(idle.get("/", "").reply().status(), 200);
        // A body may take its time.
        let mut uploading = connect();
        assert_eq!(uploading.get("/", "").reply().status(), 200);
        uploading.send("POST / HTTP/1.1\r\nHost: hello.example.com\r\nContent-Length: 5\r\n\r\nab");

        stalled_are_closed(connect, "/");

        // As long as it took for those to be closed, these were left alone.
        assert_eq!(idle.get("/", "").reply().status(), 200);
        assert_eq!(uploading.send("cde").reply().status(), 200);
    }
}

/// Prometheus and the autoscaler keep their connections, and come back after a minute or more.
#[test]
fn given_the_ports_of_the_control_side_when_a_head_is_slow_then_it_is_closed_and_an_idle_one_is_not() {
    let app = App::ok();
    let (mut queue, metrics) = observed(queue(app.port()).env("LOCKKEEPER_HEADER_READ_TIMEOUT", LIMIT));
    for (port, path) in [(queue.admin(), "/"), (queue.stats(), "/metrics"), (metrics, "/metrics")] {
        let mut idle = Raw::plain(port);
        assert!(idle.get(path, "").try_reply().is_some());
        let mut stalled = Raw::plain(port);
        assert!(stalled.get(path, "").try_reply().is_some());
        let mut silent = Raw::plain(port);

        stalled.send(BEGINNING);
        assert!(stalled.closes(), "{port}: no answer and no other byte");
        assert!(silent.closes(), "{port}: the first head is awaited no longer than that");

        assert!(idle.get(path, "").try_reply().is_some(), "{port}: idle is no fault");
    }
}

/// Q9: these answers of ours name their cause, too.
#[test]
fn given_the_ports_of_the_control_side_when_asked_for_what_they_have_not_then_the_cause_is_named() {
    let app = App::ok();
    let (mut queue, metrics) = observed(queue(app.port()));
    for port in [queue.admin(), queue.stats(), metrics] {
        let reply = Raw::plain(port).get("/nothing", "").reply();
        assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (404, Some("not_found")));
    }
    let reply = Raw::plain(metrics).send("POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").reply();
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (405, Some("method_not_allowed")));
}

/// Q9: what hyper refuses names its cause as well, on fresh connections and on those that were served.
#[test]
fn given_what_is_no_request_when_sent_then_the_answer_names_its_cause() {
    let (app, pki) = (App::ok(), Pki::new());
    let mut queue = queue(app.port()).certs(pki.dir()).env("WORKER_THREADS", 1).start();
    let (http, tls) = (queue.http(), queue.tls());
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(2 << 20));
    let target = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(70_000));
    let post = "POST / HTTP/1.1\r\nHost: a\r\n";
    let cases: [(String, u16, &str); 8] = [
        ("nonsense\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("{post}Content-Length: 1\r\nContent-Length: 2\r\n\r\nx"), 400, "bad_request"),
        (long, 431, "bad_request"),
        (target, 414, "bad_request"),
        (format!("{post}Transfer-Encoding: gzip\r\n\r\n"), 501, "transfer_coding"),
        (format!("{post}Transfer-Encoding: chunked, gzip\r\n\r\n"), 501, "transfer_coding"),
        (format!("{post}Transfer-Encoding: gzip, chunked\r\n\r\n"), 501, "transfer_coding"),
    ];
    for (request, status, cause) in &cases {
        for (served, encrypted) in [(false, false), (true, false), (false, true), (true, true)] {
            let what = format!("{}, served before: {served}, TLS: {encrypted}", &request[..request.len().min(60)]);
            let mut client = match encrypted {
                true => Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME),
                false => Raw::plain(http),
            };
            if served {
                // Small and with an error of the application's, which hyper writes in one piece.
                assert_eq!(client.get("/", "").reply().status(), 200);
            }
            let reply = client.send(request).try_reply().unwrap_or_else(|| panic!("{what}: closed"));
            assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (*status, Some(*cause)), "{what}");
            assert_eq!(reply.header("connection"), Some("close"), "{what}");
            assert!(client.closes(), "{what}");
        }
    }
    assert_eq!(app.count(), cases.len() * 2);
    assert!(Raw::plain(http).get("/", "").reply_within(Duration::from_secs(20)).is_some());
}
