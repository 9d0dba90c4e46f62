//! Section 3.4: which protocol the application is spoken to in, reuse of connections, and what is sent again.
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::{App, ok};
use crate::support::binary::queue;
use crate::support::client::{Raw, exchange, get, local, run};

/// 3.4: HTTP/1.1 stays HTTP/1.1, HTTP/2 becomes h2c.
#[test]
fn when_a_protocol_comes_in_then_it_goes_out_to_the_application() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).start();
    run(async {
        for (protocol, version) in [(Protocol::Http1, "HTTP/1.1"), (Protocol::Http2, "HTTP/2.0")] {
            let mut client = Connection::open(local(queue.http()), None, protocol).await.unwrap();
            let page = String::from_utf8(client.get("hello", "/").await.unwrap().body).unwrap();
            let line = page.lines().nth(1).unwrap();
            assert!(line.ends_with(version), "{line}");
        }
    });
}

/// 14.11: an application that only speaks HTTP/1.1 is reached from HTTP/2 as well (the original answers 502).
#[test]
fn given_an_http1_application_when_an_http2_caller_comes_then_it_is_answered() {
    let app = App::start(|conn| {
        // As HTTP/1.1 servers do with the preface: 400 and the end.
        while let Some(head) = conn.head() {
            let body = conn.body(&head);
            conn.send(ok(&String::from_utf8_lossy(&body.bytes)));
        }
    });
    let mut queue = queue(app.port()).start();
    run(async {
        let mut client = Connection::open(local(queue.http()), None, Protocol::Http2).await.unwrap();
        for body in ["first", "second"] {
            let request = client.request("POST", "hello", "/").body(Outgoing::whole(body)).unwrap();
            let answer = client.fetch(request).await.unwrap();
            assert_eq!((answer.status, answer.body), (200, body.as_bytes().to_vec()));
        }
    });
}

/// 14.11: also one that answers the preface with a page and no status line, as Python's http.server does.
#[test]
fn given_an_application_that_answers_the_preface_without_a_status_line_when_an_http2_caller_comes_then_it_is_answered()
{
    let app = App::start(|conn| {
        while let Some(head) = conn.any_head() {
            if head.method() == "PRI" {
                conn.send("<!DOCTYPE HTML>\n<html><body>Error code: 505</body></html>\n");
                return;
            }
            conn.body(&head);
            conn.send(ok("ok"));
        }
    });
    for body in ["", "a body"] {
        let mut queue = queue(app.port()).start();
        run(async {
            let mut client = Connection::open(local(queue.http()), None, Protocol::Http2).await.unwrap();
            let request = client.request("POST", "hello", "/").body(Outgoing::whole(body)).unwrap();
            assert_eq!(client.fetch(request).await.unwrap().status, 200, "{body:?}");
        });
    }
}

/// 14.11: what is found out by one request counts for all that are under way: none of a crowd is lost.
#[test]
fn given_an_http1_application_when_a_crowd_comes_over_http2_then_all_are_answered() {
    let app = App::start(|conn| {
        while let Some(head) = conn.head() {
            conn.body(&head);
            conn.send(ok("ok"));
        }
    });
    for _ in 0..10 {
        let mut queue = queue(app.port()).start();
        let http = queue.http();
        run(async {
            let mut asked = Vec::new();
            for number in 0..64 {
                asked.push(tokio::task::spawn_local(async move {
                    let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
                    let body = if number % 2 == 0 { "" } else { "a body" };
                    let request = client.request("POST", "hello", "/").body(Outgoing::whole(body)).unwrap();
                    client.fetch(request).await.map(|answer| answer.status).map_err(|error| error.to_string())
                }));
            }
            for asked in asked {
                assert_eq!(asked.await.unwrap(), Ok(200));
            }
        });
    }
}

/// 3.4: connections to the application are used again.
#[test]
fn when_requests_follow_each_other_then_one_connection_carries_them() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for _ in 0..20 {
        assert_eq!(client.get("/", "").reply().status(), 200);
    }
    assert_eq!((app.seen().len(), app.accepted()), (20, 1));
}

/// Q2: an application that closes right when the next request is sent never makes a 502, whatever the method. It
/// closes without having read: nothing of the request was taken, so it may be sent again.
#[test]
fn given_an_application_that_closes_after_each_answer_when_thousands_post_then_all_are_answered() {
    const ROUNDS: usize = 3000;
    let app = App::start(|conn| {
        if let Some((_, body)) = conn.request() {
            // Keep-alive is promised, then the connection ends at once.
            conn.send(ok(&String::from_utf8_lossy(&body.bytes)));
        }
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();

    let mut failed = Vec::new();
    let mut client = Raw::plain(http);
    for round in 0..ROUNDS {
        let body = format!("round {round}");
        let Some(reply) = client.post("/", &body).try_reply() else {
            failed.push((round, "closed".to_owned()));
            client = Raw::plain(http);
            continue;
        };
        if reply.status() != 200 || reply.text() != body {
            failed.push((round, format!("{} {}", reply.status(), reply.text())));
        }
    }

    assert!(failed.is_empty(), "{} of {ROUNDS}: {:?}", failed.len(), &failed[..failed.len().min(3)]);
    assert_eq!(app.seen().len(), ROUNDS, "no request was taken twice");
}

/// Q2 at its worst: the application closes while the next request is on its way, having read none of it. It delays
/// its close by a little more each time, so that some closes fall before, some onto and some after the request.
#[test]
fn given_closes_that_race_with_the_next_request_when_thousands_post_then_none_is_a_502() {
    const ROUNDS: usize = 1500;
    let app = App::start(|conn| {
        if let Some((_, body)) = conn.request() {
            conn.send(ok(&String::from_utf8_lossy(&body.bytes)));
            // 0 to 300 microseconds: the time that the next request takes to arrive.
            let until = std::time::Instant::now() + std::time::Duration::from_micros((conn.index as u64 * 7) % 300);
            while std::time::Instant::now() < until {
                std::hint::spin_loop();
            }
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    let mut failed = Vec::new();
    for round in 0..ROUNDS {
        let body = format!("round {round}");
        match client.post("/", &body).try_reply() {
            Some(reply) if reply.status() == 200 && reply.text() == body => {}
            Some(reply) => failed.push((round, reply.status())),
            None => {
                failed.push((round, 0));
                client = Raw::plain(queue.http());
            }
        }
    }
    assert!(failed.is_empty(), "{} of {ROUNDS} failed: {:?}", failed.len(), &failed[..failed.len().min(5)]);
    assert_eq!(app.seen().len(), ROUNDS, "no request was taken twice");
}

/// 3.4: a reused connection that closes *after* the request was taken: safe methods are sent again.
#[test]
fn given_a_reused_connection_that_ends_unanswered_when_it_was_a_get_then_it_is_sent_again() {
    let app = App::start(|conn| {
        let mut answered = 0;
        while conn.request().is_some() {
            if conn.index == 0 && answered == 1 {
                return;
            }
            answered += 1;
            conn.send(ok("ok"));
        }
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    assert_eq!(client.get("/1", "").reply().status(), 200);
    assert_eq!(client.get("/2", "").reply().status(), 200);
    assert_eq!(app.accepted(), 2);
}

/// 3.4: on a fresh connection nothing is sent again.
#[test]
fn given_a_fresh_connection_that_ends_unanswered_when_it_was_a_get_then_502() {
    let app = App::start(|conn| drop(conn.request()));
    let mut queue = queue(app.port()).start();
    assert_eq!(get(queue.http(), "/", "").status(), 502);
    assert_eq!(app.seen().len(), 1);
}

/// 3.5: the application's `Connection: close` is not the caller's.
#[test]
fn given_the_application_closes_when_answered_then_the_callers_connection_stays() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    });
    let mut queue = queue(app.port()).start();
    let mut client = Raw::plain(queue.http());
    for _ in 0..3 {
        let reply = client.get("/", "").reply();
        assert_eq!((reply.status(), reply.header("connection")), (200, None));
    }
}

/// 3.5: an answer of HTTP/1.0 that ends with the connection.
#[test]
fn given_an_http_1_0_application_when_answered_then_the_body_is_framed_anew() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.0 200 OK\r\n\r\nuntil the end");
    });
    let mut queue = queue(app.port()).start();
    let reply = exchange(queue.http(), "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((reply.header("transfer-encoding"), reply.text().as_str()), (Some("chunked"), "until the end"));
}

/// 3.9: how large the head of a response may be is a setting, and the answer says what it was.
#[test]
fn given_response_heads_of_many_lines_or_bytes_when_answered_then_those_within_the_limits_pass() {
    let app = App::each(|head, _| {
        let (_, query) = head.target().split_once('?').unwrap();
        let (lines, bytes) = query.split_once('x').unwrap();
        let (lines, bytes): (usize, usize) = (lines.parse().unwrap(), bytes.parse().unwrap());
        let many: String = (0..lines).map(|n| format!("X-{n}: {}\r\n", "y".repeat(bytes))).collect();
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{many}\r\nok")
    });
    let named = |port: u16, query: &str| {
        let reply = get(port, &format!("/?{query}"), "");
        (reply.status(), reply.header("x-lockkeeper-cause").map(str::to_owned))
    };
    let too_large = (502, Some("upstream_head_too_large".to_owned()));
    let mut by_default = queue(app.port()).start();
    let mut more = queue(app.port()).env("LOCKKEEPER_MAX_HEADERS", 3000).start();
    assert_eq!(named(by_default.http(), "499x1"), (200, None));
    assert_eq!(named(by_default.http(), "500x1"), too_large);
    assert_eq!(named(more.http(), "2999x1"), (200, None));
    assert_eq!(named(more.http(), "3000x1"), too_large);
    assert_eq!(named(more.http(), "400x2000"), (200, None));
    assert_eq!(named(more.http(), "400x3000"), too_large);
    let reply = get(more.http(), "/?3000x1", "");
    assert!(reply.text().contains("too many lines"), "{}", reply.text());
}
