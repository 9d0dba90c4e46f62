//! Section 7 and Q9: every answer of our own names its cause; one test for each token.
use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, Reply, exchange, get};

#[track_caller]
fn names(reply: &Reply, status: u16, cause: &str) {
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (status, Some(cause)));
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
}

/// What a caller sees when the application does `script`.
fn asked(script: impl Fn(&mut crate::support::app::Conn) + Send + Sync + 'static) -> Reply {
    let app = App::start(script);
    let mut queue = queue(app.port()).start();
    get(queue.http(), "/", "")
}

#[test]
fn given_nobody_listens_when_asked_then_upstream_refused() {
    let port = crate::support::port::free_port();
    let mut queue = queue(port).start();
    let reply = get(queue.http(), "/", "");
    names(&reply, 502, "upstream_refused");
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    assert!(!reply.text().contains("127.0.0.1"), "no address of the pod: {}", reply.text());
    queue.logs("upstream_refused");
}

#[test]
fn given_the_application_closes_before_a_byte_when_asked_then_upstream_eof() {
    names(&asked(|conn| drop(conn.request())), 502, "upstream_eof");
}

#[test]
fn given_the_application_resets_when_asked_then_upstream_reset() {
    let reply = asked(|conn| {
        conn.request();
        conn.reset();
    });
    names(&reply, 502, "upstream_reset");
}

#[test]
fn given_an_answer_that_is_not_http_when_asked_then_upstream_malformed() {
    let answers = ["SSH-2.0-OpenSSH\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/1.1 200 OK\r\nno colon\r\n\r\n"];
    for answer in answers {
        let reply = asked(move |conn| {
            conn.request();
            conn.send(answer);
            conn.wait_close();
        });
        names(&reply, 502, "upstream_malformed");
    }
}

#[test]
fn given_a_switch_that_was_not_asked_for_when_asked_then_upstream_switch() {
    let switch = |conn: &mut crate::support::app::Conn| {
        conn.request();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n");
        conn.wait_close();
    };
    names(&asked(switch), 502, "upstream_switch");
    let app = App::start(switch);
    let mut queue = queue(app.port()).start();
    let reply = get(queue.http(), "/", "Connection: Upgrade\r\nUpgrade: websocket\r\n");
    names(&reply, 502, "upstream_switch");
}

#[test]
fn when_connect_is_asked_then_connect_unsupported() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let reply = exchange(queue.http(), "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n");
    names(&reply, 502, "connect_unsupported");
}

#[test]
fn given_an_unknown_expectation_when_asked_then_expectation() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let reply = get(queue.http(), "/", "Expect: tea\r\n");
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (417, Some("expectation")));
}

#[test]
fn given_a_chunk_size_that_is_none_when_sent_then_request_body() {
    let app = App::start(|conn| {
        let head = conn.head().unwrap();
        conn.body(&head);
    });
    let mut queue = queue(app.port()).start();
    let request = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n";
    names(&exchange(queue.http(), request), 502, "request_body");
}

/// `queue_full`: tests/queue/breaker.rs; `timeout_*`: timeouts.rs; `draining` and `probe`: here.
#[test]
fn given_probes_that_are_refused_when_asked_then_probe_and_draining() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "30s").start();
    let http = queue.http();
    let reply = get(http, "/", "K-Network-Probe: probe\r\n");
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (400, Some("probe")));
    queue.signal("TERM");
    let reply = crate::support::wait::eventually_some("probes fail", || {
        let reply = get(http, "/", "K-Network-Probe: probe\r\nK-Network-Hash: a\r\n");
        (reply.status() == 503).then_some(reply)
    });
    assert_eq!((reply.text().as_str(), reply.header("x-lockkeeper-cause")), ("shutting down\n", Some("draining")));
}

/// 7: a body that the application cuts is cut for the caller too, never ended as if whole.
#[test]
fn given_a_body_that_is_cut_when_proxied_then_the_caller_sees_that_it_is_incomplete() {
    for framing in ["Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "Content-Length: 100\r\n\r\nabc"] {
        let app = App::start(move |conn| {
            conn.request();
            conn.send(format!("HTTP/1.1 200 OK\r\n{framing}"));
        });
        let mut queue = queue(app.port()).start();
        let mut client = Raw::plain(queue.http());
        if let Some(reply) = client.get("/", "").try_reply() {
            assert!(reply.status() == 502 || !reply.body.complete, "{framing}: {reply:?}");
        }
    }
}

/// Q9: a caller that left is no error; the application learns of it at once.
#[test]
fn given_a_caller_that_leaves_when_the_application_works_then_it_is_told_and_no_error_is_logged() {
    let app = App::start(|conn| {
        conn.request();
        conn.wait_close();
    });
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    let mut client = Raw::plain(http);
    client.get("/", "");
    crate::support::wait::eventually("the request is there", || app.seen().len() == 1);
    drop(client);
    crate::support::wait::eventually("the application's connection closes", || app.open() == 0);
    assert!(queue.log.lines(|line| line.contains(r#""severity":"ERROR""#)).is_empty());
}
