//! Section 3.6 and Q3: {HTTP/1.1, h2c, HTTP/2 over TLS} x {plain, events, WebSocket, gRPC} x {total, start, idle}.
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Peer, Protocol, Trust, frame};

use crate::support::app::App;
use crate::support::binary::{Binary, queue, timed};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::Pki;

const TOTAL: &str = "REVISION_TIMEOUT_SECONDS";
const START: &str = "REVISION_RESPONSE_START_TIMEOUT_SECONDS";
const IDLE: &str = "REVISION_IDLE_TIMEOUT_SECONDS";

struct Chain {
    queue: Binary,
    _app: lockkeeper::local::app::App,
    pki: Pki,
}

fn chain(timer: &str) -> Chain {
    styled(timer, "")
}

fn styled(timer: &str, style: &str) -> Chain {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let pki = Pki::new();
    let queue = queue(app.addr().port()).certs(pki.dir()).env(timer, 1).env("LOCKKEEPER_TIMEOUT_STYLE", style).start();
    Chain { queue, _app: app, pki }
}

/// HTTP/1.1, h2c, HTTP/2 over TLS.
fn ways(chain: &mut Chain) -> [(u16, Option<Trust>, Protocol); 3] {
    let (http, tls) = (chain.queue.http(), chain.queue.tls());
    [(http, None, Protocol::Http1), (http, None, Protocol::Http2), (tls, Some(chain.pki.trust()), Protocol::Http2)]
}

async fn open(way: &(u16, Option<Trust>, Protocol)) -> Connection {
    let connection = Connection::open(local(way.0), way.1.as_ref(), way.2).await.unwrap();
    let _: &Option<Peer> = &connection.peer;
    connection
}

/// Each timer before the first byte: 504 with the text and its own cause, on every protocol.
#[test]
fn given_each_timer_when_nothing_is_answered_in_time_then_504_names_the_timer() {
    for (timer, cause) in [(TOTAL, "timeout_total"), (START, "timeout_start"), (IDLE, "timeout_idle")] {
        let mut chain = chain(timer);
        for way in ways(&mut chain) {
            run(async {
                let start = Instant::now();
                let answer = open(&way).await.get("hello", "/slow?ms=60000").await.unwrap();
                assert_eq!((answer.status, answer.body.as_slice()), (504, b"request timeout".as_slice()), "{timer}");
                assert_eq!(answer.headers.get("x-lockkeeper-cause").unwrap(), cause);
                assert!(start.elapsed() >= Duration::from_millis(950), "{timer}: {:?}", start.elapsed());
            });
        }
    }
}

/// Q8: a gRPC caller learns it in its own words: DEADLINE_EXCEEDED.
#[test]
fn given_each_timer_when_a_grpc_call_is_not_answered_then_its_status_is_4() {
    // An application that takes the connection and says nothing.
    let app = App::start(|conn| conn.wait_close());
    for timer in [TOTAL, START, IDLE] {
        let mut queue = queue(app.port()).env(timer, 1).start();
        run(async {
            let mut client = Connection::open(local(queue.http()), None, Protocol::Http2).await.unwrap();
            let request = client
                .request("POST", "hello", "/grpc.Echo/S")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Outgoing::whole("x"))
                .unwrap();
            let answer = client.fetch(request).await.unwrap();
            let in_trailers = answer.trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
            let status = answer.headers.get("grpc-status").or(in_trailers).expect("a grpc-status");
            assert_eq!((answer.status, status.as_bytes()), (200, b"4".as_slice()), "{timer}");
        });
    }
}

/// Q3, 14.3: a response that has begun is reset by the total timer, never ended as if whole (the original appends
/// text); the start timer leaves it alone, and so does the idle timer while events flow.
#[test]
fn given_each_timer_when_events_flow_then_only_the_total_timer_cuts_and_it_resets() {
    for timer in [TOTAL, START, IDLE] {
        let mut chain = chain(timer);
        for way in ways(&mut chain) {
            run(async {
                let mut client = open(&way).await;
                // 16 events, 100 ms apart: half a second longer than the timer.
                let answer = client.get("hello", "/sse?n=16&ms=100").await;
                match timer {
                    TOTAL => assert!(answer.is_err(), "cut, and seen to be: {answer:?}"),
                    _ => {
                        let answer = answer.unwrap_or_else(|error| panic!("{timer} {way:?}: {error}"));
                        assert!(answer.body.ends_with(b"data: 15\n\n"), "{timer}");
                    }
                }
            });
        }
    }
}

/// 3.6: a stream that falls silent is cut by the idle timer, by a reset.
#[test]
fn given_the_idle_timer_when_events_stop_then_the_stream_is_reset() {
    let mut chain = chain(IDLE);
    for way in ways(&mut chain) {
        run(async {
            let mut client = open(&way).await;
            let request = client.request("GET", "hello", "/sse?n=2&ms=60000").body(Outgoing::whole("")).unwrap();
            let mut body = client.send(request).await.unwrap().into_body();
            let first = frame(&mut body).await.unwrap().unwrap().into_data().unwrap();
            assert_eq!(first, "data: 0\n\n");
            assert!(frame(&mut body).await.is_err(), "reset, not ended");
        });
    }
}

/// Q3: a gRPC stream whose messages flow lives on under start and idle timer, and is reset by the total one.
#[test]
fn given_each_timer_when_grpc_messages_flow_then_only_the_total_timer_cuts() {
    for timer in [TOTAL, START, IDLE] {
        let mut chain = chain(timer);
        let [_, h2c, tls] = ways(&mut chain);
        for way in [h2c, tls] {
            run(async {
                let mut client = open(&way).await;
                let (sender, body) = Outgoing::stream();
                let request = client.request("POST", "h", "/grpc.Echo/S").header("content-type", "application/grpc");
                sender.send(http_body::Frame::data("0".into())).await.unwrap();
                let mut body = client.send(request.body(body).unwrap()).await.unwrap().into_body();
                let start = Instant::now();
                let mut cut = frame(&mut body).await.is_err();
                let mut ticks = tokio::time::interval(Duration::from_millis(100));
                while !cut && start.elapsed() < Duration::from_millis(1600) {
                    ticks.tick().await;
                    cut = sender.send(http_body::Frame::data("x".into())).await.is_err()
                        || !matches!(frame(&mut body).await, Ok(Some(_)));
                }
                assert_eq!(cut, timer == TOTAL, "{timer}");
            });
        }
    }
}

/// 14.5: on an upgraded connection 101 is the first byte and bytes either way are activity; the total timer cuts.
#[test]
fn given_each_timer_when_a_websocket_talks_then_only_the_total_timer_cuts() {
    for timer in [TOTAL, START, IDLE] {
        let mut chain = chain(timer);
        let mut client = websocket(chain.queue.http());
        let start = Instant::now();
        let mut alive = true;
        while alive && start.elapsed() < Duration::from_millis(1800) {
            // A masked text frame "x" with a zero key; its echo is "x" unmasked.
            client.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
            alive = client.bytes(3) == [0x81, 1, b'x'];
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(alive, timer != TOTAL, "{timer}");
    }
}

/// 14.5: a WebSocket that is silent is cut by the idle timer, with close frame 1001.
#[test]
fn given_the_idle_timer_when_a_websocket_is_silent_then_it_gets_close_frame_1001() {
    let mut chain = chain(IDLE);
    let mut client = websocket(chain.queue.http());
    let (frame, took) = timed(|| client.bytes(4));
    assert_eq!(frame, [0x88, 2, 0x03, 0xe9], "close frame with 1001");
    assert!(took >= Duration::from_millis(900), "{took:?}");
}

fn websocket(port: u16) -> Raw {
    let mut client = Raw::plain(port);
    client.get(
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    );
    assert_eq!(client.head().unwrap().status(), 101);
    client
}

/// 14.4: a stalled upload does not delay the 504.
#[test]
fn given_a_stalled_upload_when_the_timer_fires_then_504_comes_in_time_and_the_connection_closes() {
    let app = App::start(|conn| conn.wait_close());
    let mut queue = queue(app.port()).env(TOTAL, 1).start();
    let mut client = Raw::plain(queue.http());
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nsome");
    let reply = client.reply();
    assert_eq!((reply.status(), reply.header("connection")), (504, Some("close")));
}

/// 3.6: after a 504 an HTTP/1.1 connection is usable, the application's connection is gone, the log has the warning.
#[test]
fn given_a_timeout_when_it_fired_then_the_connection_lives_on_and_the_log_says_why() {
    let app = App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "/held" {
                conn.wait_close();
                return;
            }
            conn.send(crate::support::app::ok("ok"));
        }
    });
    let mut queue = queue(app.port()).env(TOTAL, 1).env("CONTAINER_CONCURRENCY", 1).start();
    let mut client = Raw::plain(queue.http());
    assert_eq!(client.get("/held", "").reply().status(), 504);
    assert_eq!(client.get("/next", "").reply().text(), "ok", "slot and connection are free again");
    queue.logs("Request timeout: 1s");
    crate::support::wait::eventually("the application sees the end", || app.open() <= 1);
}

/// 14.6: 0 is off (the original answers 504 to everything).
#[test]
fn given_a_total_timeout_of_0_when_asked_then_it_is_off() {
    let app = App::ok();
    let mut queue = queue(app.port()).env(TOTAL, 0).start();
    assert_eq!(get(queue.http(), "/", "").status(), 200);
}

/// 3.6: an interim response that went to the caller counts as the response's start.
#[test]
fn given_early_hints_in_time_when_the_response_is_late_then_the_start_timer_is_over() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
        std::thread::sleep(Duration::from_millis(1500));
        conn.send(crate::support::app::ok("late"));
    });
    let mut queue = queue(app.port()).env(START, 1).start();
    let mut client = Raw::plain(queue.http());
    assert_eq!(client.get("/", "").head().unwrap().status(), 103);
    assert_eq!(client.reply().text(), "late");
}

/// Row 3 in the original's style: the text ends what has begun as if it were whole; the start timer leaves it alone.
#[test]
fn given_the_original_style_when_events_flow_then_the_total_timer_ends_them_with_its_text() {
    for timer in [TOTAL, START, IDLE] {
        let mut chain = styled(timer, "original");
        for way in ways(&mut chain) {
            run(async {
                let mut client = open(&way).await;
                let answer = client.get("hello", "/sse?n=16&ms=100").await.unwrap();
                let end = if timer == TOTAL { "request timeout" } else { "data: 15\n\n" };
                let text = String::from_utf8_lossy(&answer.body);
                assert!(answer.status == 200 && text.ends_with(end), "{timer}: {text}");
                assert!(text.starts_with("data: 0\n\n"), "{timer}: {text}");
                let next = client.get("hello", "/slow?ms=0").await.unwrap();
                assert_eq!(next.status, 200, "the connection goes on");
            });
        }
    }
}

/// The same for a stream that falls silent under the idle timer; before the first byte nothing differs.
#[test]
fn given_the_original_style_when_events_stop_then_the_idle_timer_ends_them_with_its_text() {
    let mut chain = styled(IDLE, "original");
    for way in ways(&mut chain) {
        run(async {
            let mut client = open(&way).await;
            let answer = client.get("hello", "/sse?n=2&ms=60000").await.unwrap();
            assert_eq!(answer.body, b"data: 0\n\nrequest timeout");
            assert_eq!(client.get("hello", "/slow?ms=60000").await.unwrap().status, 504);
        });
    }
}

/// With a `Content-Length` the end can be seen: the connection closes short of it.
#[test]
fn given_the_original_style_when_a_body_of_known_length_is_cut_then_it_ends_short_of_it() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        conn.wait_close();
    });
    for timer in [TOTAL, IDLE] {
        let mut queue = queue(app.port()).env(timer, 1).env("LOCKKEEPER_TIMEOUT_STYLE", "original").start();
        let mut client = Raw::plain(queue.http());
        assert_eq!(client.get("/", "").head().unwrap().status(), 200);
        assert_eq!(client.bytes(4), b"half");
        assert!(client.closes(), "{timer}");
    }
}

/// Row 5 in the original's style: the start timer of an upgrade waits for the application's first byte after the 101.
#[test]
fn given_the_original_style_when_the_application_is_silent_after_101_then_the_start_timer_cuts() {
    let mut chain = styled(START, "original");
    let mut silent = websocket(chain.queue.http());
    let (frame, took) = timed(|| silent.bytes(4));
    assert_eq!(frame, [0x88, 2, 0x03, 0xe9], "close frame with 1001");
    assert!(took >= Duration::from_millis(500), "{took:?}");

    let mut talks = websocket(chain.queue.http());
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1800) {
        talks.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
        assert_eq!(talks.bytes(3), [0x81, 1, b'x'], "after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What the caller says does not end that wait.
#[test]
fn given_the_original_style_when_only_the_caller_speaks_after_101_then_the_start_timer_cuts() {
    let app = App::start(|conn| {
        conn.request();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
        conn.wait_close();
    });
    let mut queue = queue(app.port()).env(START, 1).env("LOCKKEEPER_TIMEOUT_STYLE", "original").start();
    let mut client = websocket(queue.http());
    client.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
    assert_eq!(client.bytes(4), [0x88, 2, 0x03, 0xe9], "close frame with 1001");
}
