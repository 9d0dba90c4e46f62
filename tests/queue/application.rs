//! T11 and Q7: an application on ::1 alone, and one that restarts.
use std::net::TcpListener;
use std::time::{Duration, Instant};

use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use crate::support::app::{App, ok};
use crate::support::binary::{queue, timed};
use crate::support::client::{Raw, get, local, run};
use crate::support::wait::{eventually, patience};

fn respond(conn: &mut crate::support::app::Conn) {
    while conn.request().is_some() {
        conn.send(ok("ok"));
    }
}

/// T11: better than the original, which knows 127.0.0.1 only.
#[test]
fn given_an_application_on_ipv6_loopback_only_when_asked_then_it_is_reached_and_probed() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        eprintln!("no IPv6 here: nothing to see");
        return;
    };
    let app = App::listen(listener, respond);
    let mut queue = queue(app.port()).start();
    let http = queue.http();
    assert_eq!(get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n").status(), 200);
    for _ in 0..3 {
        assert_eq!(get(http, "/", "").text(), "ok");
    }
    assert_eq!(app.last().get("host"), Some("hello.example.com"));
}

/// T11: the same for HTTP/2.
#[test]
fn given_an_h2c_application_on_ipv6_loopback_only_when_asked_then_it_is_reached() {
    let Ok(app) = lockkeeper::local::app::App::start("[::1]:0".parse().unwrap()) else {
        eprintln!("no IPv6 here: nothing to see");
        return;
    };
    let mut queue = queue(app.addr().port()).start();
    let http = queue.http();
    let status = run(async {
        let mut client = Connection::open(local(http), None, Protocol::Http2).await.unwrap();
        let request = client.request("GET", "hello", "/").body(Outgoing::whole("")).unwrap();
        client.send(request).await.unwrap().status().as_u16()
    });
    assert_eq!(status, 200);
}

/// Q7: while the application is away requests wait; when it listens again they are served.
#[test]
fn given_hold_on_restart_when_the_application_comes_back_then_waiting_requests_are_served() {
    let first = App::start(respond);
    let port = first.port();
    let mut queue = queue(port).env("LOCKKEEPER_HOLD_ON_RESTART", "30s").start();
    let http = queue.http();
    let mut kept = Raw::plain(http);
    assert_eq!(kept.get("/", "").reply().status(), 200);
    drop(first);
    eventually("it is away", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());

    let mut waiting: Vec<Raw> = (0..20).map(|_| Raw::plain(http)).collect();
    waiting.push(kept);
    for client in &mut waiting {
        client.get("/", "");
    }
    assert!(waiting[0].reply_within(Duration::from_millis(200)).is_none(), "held");
    let _second = App::listen(TcpListener::bind(("127.0.0.1", port)).unwrap(), respond);
    for client in &mut waiting {
        assert_eq!(client.reply().status(), 200);
    }
}

/// Q7: only so long; and not at all by default.
#[test]
fn given_an_application_that_stays_away_when_asked_then_502_after_the_hold_time_or_at_once() {
    let port = crate::support::port::free_port();
    let mut held = queue(port).env("LOCKKEEPER_HOLD_ON_RESTART", "300ms").start();
    let (reply, took) = timed(|| get(held.http(), "/", ""));
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (502, Some("upstream_refused")));
    assert!(took >= Duration::from_millis(300), "{took:?}");

    let mut plain = queue(port).start();
    let (reply, took) = timed(|| get(plain.http(), "/", ""));
    assert_eq!(reply.status(), 502);
    assert!(took < patience(), "{took:?}");
}

/// Q7: the revision's timers go on while a request is held.
#[test]
fn given_a_held_request_when_its_timer_fires_then_504() {
    let port = crate::support::port::free_port();
    let mut queue = queue(port).env("LOCKKEEPER_HOLD_ON_RESTART", "60s").env("REVISION_TIMEOUT_SECONDS", 1).start();
    let reply = get(queue.http(), "/", "");
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (504, Some("timeout_total")));
}

/// Q7: no result outlives its round. A probe with a period says no at once; one without waits, and is told within
/// milliseconds of listening. The best of several is taken: the machine may be busy, the prober may not be slow.
#[test]
fn given_a_restart_when_probed_then_readiness_follows_at_once() {
    let app = App::start(respond);
    let port = app.port();
    let standard = format!(r#"{{"tcpSocket":{{"port":{port},"host":"127.0.0.1"}},"periodSeconds":1}}"#);
    let mut strict = queue(port).env("SERVING_READINESS_PROBE", standard).start();
    let mut eager = queue(port).start();
    let (strict, eager) = (strict.http(), eager.http());
    let probe = |http| get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n").status();
    assert_eq!((probe(strict), probe(eager)), (200, 200));
    drop(app);
    eventually("it is away", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    let best_no = (0..5).map(|_| timed(|| assert_eq!(probe(strict), 503)).1).min().unwrap();
    assert!(best_no < Duration::from_millis(100), "{best_no:?}");

    let mut best = Duration::MAX;
    for _ in 0..8 {
        let asked = std::thread::spawn(move || {
            let status = get(eager, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n").status();
            (status, Instant::now())
        });
        // The round is under way: it has been refused a few times.
        std::thread::sleep(Duration::from_millis(50));
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let listening = Instant::now();
        let app = App::listen(listener, respond);
        let (status, answered) = asked.join().unwrap();
        assert_eq!(status, 200);
        best = best.min(answered.saturating_duration_since(listening));
        drop(app);
        eventually("it is away", || std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    }
    assert!(best < Duration::from_millis(30), "{best:?}");
}
