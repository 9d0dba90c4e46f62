//! Section 3.9: malformed input ends where it came in, and disturbs nobody.
use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, get};

/// Each of these is refused by the queue itself; the application never sees it.
#[test]
fn given_malformed_requests_when_sent_then_each_is_refused_and_the_application_sees_none() {
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(2 << 20));
    let cases: [(&str, &[u16]); 14] = [
        ("nonsense\r\n\r\n", &[400]),
        ("GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET / with space HTTP/1.1\r\nHost: a\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nBad Name: x\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nName : x\r\n\r\n", &[400]),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", &[400]),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", &[400]),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", &[400]),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", &[400, 501]),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", &[400, 505]),
        (&long, &[431]),
    ];
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for (request, statuses) in cases {
        let reply = Raw::plain(queue.http()).send(request).try_reply();
        let status = reply.map(|reply| reply.status());
        let reached = app.seen().len() > seen;
        seen = app.seen().len();
        if reached || !status.is_some_and(|status| statuses.contains(&status)) {
            wrong.push((&request[..request.len().min(90)], status, reached));
        }
    }
    assert!(wrong.is_empty(), "request, status, whether the application saw it: {wrong:#?}");
    assert_eq!(get(queue.http(), "/", "").status(), 200);
}

/// `OPTIONS *` is answered by the proxy; unknown methods and high bytes pass.
#[test]
fn given_unusual_but_legal_requests_when_sent_then_they_are_served() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    assert_eq!(client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").reply().status(), 200);
    assert!(app.seen().is_empty());
    assert_eq!(client.send("BREW / HTTP/1.1\r\nHost: a\r\n\r\n").reply().status(), 200);
    assert_eq!(client.send(b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe9\r\n\r\n").reply().status(), 200);
    assert_eq!(app.last().get("x"), Some("\u{fffd}"), "the byte arrived, and is no UTF-8");
}

/// 3.9: an expectation that nobody knows.
#[test]
fn given_an_unknown_expectation_when_sent_then_417() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    assert_eq!(get(queue.http(), "/", "Expect: tea\r\n").status(), 417);
    assert!(app.seen().is_empty());
}

/// Whatever bytes come: no panic, and the next caller is served.
#[test]
fn given_arbitrary_bytes_when_sent_to_every_port_then_the_process_lives() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let ports = [queue.http(), queue.admin(), queue.stats()];
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..200 {
        let bytes: Vec<u8> = (0..round)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state.to_le_bytes()[0]
            })
            .collect();
        for port in ports {
            Raw::plain(port).send(&bytes).shutdown();
        }
    }
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    assert!(queue.poll().is_none());
    assert!(queue.log.lines(|line| line.contains("panicked")).is_empty());
}

/// 3.9, 14.24: two framings at once are how requests are smuggled: refused, or chunked wins and the length ends here.
#[test]
fn given_a_length_and_chunks_at_once_when_sent_then_the_application_never_sees_both() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let status = Raw::plain(queue.http()).send(request).reply().status();
    if status == 200 {
        let head = app.last();
        assert!(head.get("content-length").is_none() || head.get("transfer-encoding").is_none(), "{head:?}");
    } else {
        assert_eq!((status, app.seen().len()), (400, 0));
    }
}
