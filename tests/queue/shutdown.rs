//! Section 11 and Q1: leaving without losing a request.
use std::io::Read;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Protocol};
use rustls::version::TLS13;

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::{NAME, Pki};
use crate::support::wait::eventually;

/// 11, Q1: nothing in flight and no quiet period: gone at once, status 0.
#[test]
fn given_nothing_in_flight_when_terminated_then_it_leaves_at_once_with_status_0() {
    for signal in ["TERM", "INT"] {
        let app = App::ok();
        let mut queue = queue(app.port()).start();
        // An idle connection does not hold it.
        let mut idle = Raw::plain(queue.http());
        idle.get("/", "").reply();
        let start = Instant::now();
        queue.signal(signal);
        assert_eq!(queue.exit().code(), Some(0));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert!(queue.log.text().contains("Shutdown complete, exiting..."));
    }
}

/// 11: whoever sees an open port may send the signal.
#[test]
fn given_a_port_that_just_opened_when_terminated_then_it_drains() {
    for _ in 0..10 {
        let port = crate::support::port::free_port();
        let mut queue = queue(8080).env("QUEUE_SERVING_PORT", port).spawn();
        eventually("the port is open", || {
            assert!(queue.poll().is_none(), "exited early");
            TcpStream::connect(local(port)).is_ok()
        });
        queue.signal("TERM");
        assert_eq!(queue.exit().code(), Some(0));
    }
}

/// 11: a revision's timeout, and with it the grace period, may be shorter than the quiet period.
#[test]
fn given_a_grace_period_shorter_than_the_quiet_period_when_terminated_idle_then_nothing_is_called_a_failure() {
    let app = App::ok();
    let mut queue =
        queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "30s").env("LOCKKEEPER_SHUTDOWN_GRACE", "1s").start();
    get(queue.http(), "/", "");
    queue.signal("TERM");
    assert_eq!(queue.exit().code(), Some(0));
    assert!(!queue.log.text().contains("drain failed"), "{}", queue.log.text());
}

/// 11: a second signal ends it at once, status 1.
#[test]
fn given_a_drain_when_a_second_signal_comes_then_status_1() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "30s").start();
    queue.signal("TERM");
    queue.logs("attempting to gracefully shutdown servers");
    queue.signal("TERM");
    assert_eq!(queue.exit().code(), Some(1));
}

/// 11: during the quiet period probes fail and requests, old and new connections alike, are served.
#[test]
fn given_a_quiet_period_when_terminated_then_probes_fail_and_requests_are_served() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "1s").start();
    let http = queue.http();
    queue.signal("TERM");
    eventually("probes fail", || {
        let reply = get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
        (reply.status(), reply.text().as_str()) == (503, "shutting down\n")
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(1500) {
        assert_eq!(get(http, "/", "").status(), 200, "each request starts the quiet period anew");
    }
    let last = Instant::now();
    assert_eq!(queue.exit().code(), Some(0));
    assert!(last.elapsed() >= Duration::from_millis(900), "{:?}", last.elapsed());
}

/// Q1: requests in flight, of each protocol, are answered before it leaves.
#[test]
fn given_requests_in_flight_when_terminated_then_each_is_answered() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).start();
    let http = queue.http();
    let status = run(async {
        let mut h1 = Connection::open(local(http), None, Protocol::Http1).await.unwrap();
        let mut h2 = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        let get =
            |client: &Connection| client.request("GET", "hello", "/sse?n=16&ms=100").body(Outgoing::whole("")).unwrap();
        let (first, second) = (get(&h1), get(&h2));
        // Both have begun: now it may be told to leave.
        let (first, second) = (h1.send(first).await.unwrap(), h2.send(second).await.unwrap());
        queue.signal("TERM");
        for response in [first, second] {
            let answer = lockkeeper::local::client::read(response).await.unwrap();
            assert!(answer.body.ends_with(b"data: 15\n\n"));
        }
        drop((h1, h2));
        queue.exit()
    });
    assert_eq!(status.code(), Some(0));
}

/// Q1: traffic on kept and new connections while it leaves: not one request fails.
#[test]
fn given_steady_traffic_when_terminated_then_no_request_that_was_sent_is_lost() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "200ms").start();
    let http = queue.http();
    let load = std::thread::spawn(move || {
        let mut served = 0;
        let start = Instant::now();
        let mut client = Raw::plain(http);
        // As an endpoint does that is taken out of the rotation after a while.
        while start.elapsed() < Duration::from_millis(700) {
            let reply = client.get("/", "").try_reply().expect("an answer to each request");
            assert_eq!(reply.status(), 200);
            served += 1;
            if reply.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
                client = Raw::plain(http);
            }
        }
        served
    });
    eventually("traffic flows", || app.seen().len() > 10);
    queue.signal("TERM");
    assert!(load.join().unwrap() > 10);
    assert_eq!(queue.exit().code(), Some(0));
}

/// Q1: a WebSocket lives through the drain until its caller ends it.
#[test]
fn given_an_open_websocket_when_terminated_then_it_lives_on_until_closed() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).start();
    let mut client = Raw::plain(queue.http());
    client.get(
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n",
    );
    assert_eq!(client.head().unwrap().status(), 101);
    queue.signal("TERM");
    queue.logs("attempting to gracefully shutdown servers");
    for _ in 0..5 {
        client.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
        assert_eq!(client.bytes(3), [0x81, 1, b'x']);
    }
    assert!(queue.poll().is_none(), "the WebSocket is in flight");
    client.send([0x88, 0x80, 0, 0, 0, 0]);
    assert_eq!(queue.exit().code(), Some(0));
}

/// Q1: at the end of the grace period a WebSocket is cut, and told so: close frame 1001, in plaintext and over TLS.
#[test]
fn given_open_websockets_when_the_grace_period_ends_then_each_gets_close_frame_1001() {
    const UPGRADE: &str =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n";
    let (app, pki) = (lockkeeper::local::app::App::start(local(0)).unwrap(), Pki::new());
    let mut queue = queue(app.addr().port()).certs(pki.dir()).env("LOCKKEEPER_SHUTDOWN_GRACE", "1s").start();
    let plain = Raw::plain(queue.http());
    let tls = Raw::tls(queue.tls(), pki.client(&[&TLS13], &["http/1.1"]), NAME);
    let mut clients = [plain, tls];
    for client in &mut clients {
        client.get("/ws", UPGRADE);
        assert_eq!(client.head().unwrap().status(), 101);
    }
    let start = Instant::now();
    queue.signal("TERM");
    for client in &mut clients {
        assert_eq!(client.bytes(4), [0x88, 2, 0x03, 0xe9], "close frame with 1001");
    }
    assert!(start.elapsed() >= Duration::from_millis(500), "{:?}", start.elapsed());
    assert_eq!(queue.exit().code(), Some(0));
}

/// Q1: HTTP/2 connections are told by GOAWAY.
#[test]
fn given_an_idle_http2_connection_when_terminated_then_it_gets_goaway() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let mut stream = TcpStream::connect(local(queue.http())).unwrap();
    std::io::Write::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    let mut header = [0; 9];
    stream.read_exact(&mut header).unwrap();
    queue.signal("TERM");
    let mut types = vec![header[3]];
    let mut rest = Vec::new();
    let _ = stream.take(1 << 16).read_to_end(&mut rest);
    let mut at = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
    while let Some(frame) = rest.get(at..at + 9) {
        types.push(frame[3]);
        at += 9 + u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
    }
    assert!(types.contains(&7), "frame types {types:?}");
}

/// 11, Q1: an application that closes its WebSockets when it is told to leave gets to do so: they do not hold the hook that
/// stands before its signal, but a request does.
#[test]
fn given_a_websocket_and_a_request_when_terminated_then_the_hook_waits_for_the_request_alone() {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let mut queue = queue(app.addr().port()).start();
    let (admin, http) = (queue.admin(), queue.http());
    let mut websocket = Raw::plain(http);
    websocket.get(
        "/ws",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a\r\n",
    );
    assert_eq!(websocket.head().unwrap().status(), 101);
    let mut request = Raw::plain(http);
    request.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\na");
    assert_eq!(request.head().unwrap().status(), 200);
    assert_eq!(request.chunk().unwrap(), b"a", "it is at the application");
    let mut hook = Raw::plain(admin);
    hook.get("/wait-for-drain", "");
    queue.logs("Attached drain handler from user-container");
    queue.signal("TERM");
    queue.logs("Shutting down server: main");
    assert!(hook.reply_within(Duration::from_millis(700)).is_none(), "a request is in flight");
    request.send("b");
    assert_eq!(request.chunk().unwrap(), b"b");
    assert!(request.chunk().unwrap().is_empty(), "the response is whole");
    assert_eq!(hook.reply().status(), 200);
    // The WebSocket is alive until the application, or its caller, closes it.
    websocket.send([0x81, 0x81, 0, 0, 0, 0, b'x']);
    assert_eq!(websocket.bytes(3), [0x81, 1, b'x']);
    assert!(queue.poll().is_none(), "the WebSocket is in flight");
    websocket.send([0x88, 0x80, 0, 0, 0, 0]);
    assert_eq!(queue.exit().code(), Some(0));
}

/// 4 and 14.21: the hook returns when the drain is over, with the signal that came in time.
#[test]
fn given_a_hook_and_a_signal_when_quiet_then_the_hook_is_answered_and_the_process_leaves() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("LOCKKEEPER_DRAIN_QUIET_PERIOD", "1s").start();
    let (admin, http) = (queue.admin(), queue.http());
    let hook = std::thread::spawn(move || get(admin, "/wait-for-drain", "").status());
    eventually("the drain began", || get(http, "/", "K-Network-Probe: probe\r\nK-Network-Hash: a\r\n").status() == 503);
    queue.signal("TERM");
    assert_eq!(hook.join().unwrap(), 200);
    assert_eq!(queue.exit().code(), Some(0));
}
