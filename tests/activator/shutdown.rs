//! Section 13: leaving.
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::world::{Activator, NAMESPACE, REVISION, World, named};
use crate::support::app::{App, ok};
use crate::support::client::{Raw, local, run};
use crate::support::h2::{Frames, SETTINGS};
use crate::support::wait::{eventually, patience};
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

/// 13.1: readiness fails at once; everything else goes on for the drain time; then it exits with 0.
#[test]
fn given_a_signal_when_the_drain_time_runs_then_requests_are_served_as_before() {
    let world = World::new(false);
    world.create(world.revision());
    let mut activator = Activator::of(world.builder().env("LOCKKEEPER_DRAIN_TIME", "1s"), false);
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let start = Instant::now();
    activator.process.signal("TERM");
    eventually("not ready", || {
        let reply = activator.health();
        reply.status() == 500 && reply.text() == "received SIGTERM from kubelet\n"
    });
    assert_eq!(activator.get().status(), 200);
    assert_eq!(activator.process.exit().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1));
}

fn slow() -> App {
    App::each(|_, _| {
        std::thread::sleep(Duration::from_millis(700));
        ok("slow")
    })
}

/// 13.2, and better than 13.3: requests in flight end, over HTTP/1.1 and over HTTP/2 without TLS.
#[test]
fn given_requests_in_flight_when_it_leaves_then_they_end_well() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let world = World::new(false);
        world.create(world.revision());
        let mut activator = world.start();
        let pod = world.pod_with(slow(), |builder| builder);
        world.endpoints(&[pod.ip], &[]);
        let address = ([127, 0, 0, 1], activator.h2c).into();
        let status = run(async {
            let mut connection = Connection::open(address, None, protocol).await.unwrap();
            let request = connection.request("GET", "hello.example.com", "/");
            let request = request
                .header("knative-serving-namespace", NAMESPACE)
                .header("knative-serving-revision", REVISION)
                .body(Outgoing::whole(""))
                .unwrap();
            let asked = tokio::task::spawn_local(async move { connection.fetch(request).await.unwrap().status });
            while pod.app.seen().is_empty() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            activator.process.signal("TERM");
            asked.await.unwrap()
        });
        assert_eq!(status, 200, "{protocol:?}");
        assert_eq!(activator.process.exit().code(), Some(0));
    }
}

/// A request that is still waiting is in flight too: it is served when its pod comes.
#[test]
fn given_a_waiting_request_when_it_leaves_then_it_is_still_served() {
    let world = World::new(false);
    world.create(world.revision());
    let mut activator = world.start();
    let mut client = activator.ask();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
    activator.process.signal("TERM");
    activator.process.logs("Done waiting, shutting down servers.");
    for port in [activator.http1, activator.h2c] {
        eventually("nobody else is let in", || TcpStream::connect(local(port)).is_err());
    }
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(client.reply().status(), 200);
    assert_eq!(activator.process.exit().code(), Some(0));
}

/// An upgraded connection is waited for, up to the grace period, and then cut.
#[test]
fn given_an_upgraded_connection_when_it_leaves_then_it_lives_until_the_grace_period_is_over() {
    let world = World::new(false);
    world.create(world.revision());
    let mut activator = Activator::of(world.builder().env("LOCKKEEPER_SHUTDOWN_GRACE", "2s"), false);
    let app = App::start(|conn| {
        conn.head();
        conn.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
        loop {
            let bytes = conn.some();
            if bytes.is_empty() {
                return;
            }
            conn.send(bytes);
        }
    });
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let mut client = Raw::plain(activator.http1);
    client.get("/", &format!("{}Connection: Upgrade\r\nUpgrade: echo\r\n", named(NAMESPACE, REVISION)));
    assert_eq!(client.head().unwrap().status(), 101);
    activator.process.signal("TERM");
    activator.process.logs("Done waiting, shutting down servers.");
    assert_eq!(client.send("hello").bytes(5), b"hello");
    assert_eq!(activator.process.exit().code(), Some(0));
}

/// 13.3, better: an idle HTTP/2 connection without TLS is told to go, and ends, while another still waits for its answer.
#[test]
fn given_an_idle_http2_connection_when_it_leaves_then_it_gets_goaway_and_ends() {
    let world = World::new(false);
    world.create(world.revision());
    let mut activator = world.start();
    let waiting = activator.ask();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
    let mut idle = Frames::connect(activator.h2c);
    let settings = idle.until("its settings", |frame| frame.kind == SETTINGS && frame.flags == 0).payload;
    // SETTINGS_MAX_CONCURRENT_STREAMS, as the original's.
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 250]), "{settings:?}");
    activator.process.signal("TERM");
    let (goaway, ended) = idle.end(patience());
    assert!(ended && goaway.is_some_and(|frame| frame.code() == 0));
    assert!(activator.process.poll().is_none(), "a request waits");
    drop(waiting);
    assert_eq!(activator.process.exit().code(), Some(0));
}

/// Nothing in flight: it does not wait for a peer's silence to end.
#[test]
fn given_nothing_in_flight_when_it_leaves_then_it_exits_at_once() {
    let world = World::new(false);
    let mut activator = world.start();
    let start = Instant::now();
    activator.process.signal("TERM");
    assert_eq!(activator.process.exit().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

/// 13: SIGINT is as good as SIGTERM, and a second signal ends it at once, with 1.
#[test]
fn given_a_request_that_waits_when_a_second_signal_comes_then_it_exits_at_once() {
    for (first, second) in [("TERM", "INT"), ("INT", "TERM")] {
        let world = World::new(false);
        world.create(world.revision());
        let mut activator = world.start();
        let mut client = activator.ask();
        eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
        activator.process.signal(first);
        activator.process.logs("Done waiting, shutting down servers.");
        assert!(activator.process.poll().is_none(), "{first} waits for the request");
        activator.process.signal(second);
        assert_eq!(activator.process.exit().code(), Some(1));
        assert!(client.closes());
    }
}

/// A signal counts while the start still waits for others. Without a handler, the first process of a container would not get
/// it at all.
#[test]
fn given_a_start_that_waits_when_it_is_told_to_leave_then_it_does() {
    for signal in ["TERM", "INT"] {
        let world = World::new(false);
        world.api.stop();
        let mut process = world.builder().spawn();
        process.logs("Failed to get k8s version");
        process.signal(signal);
        assert_eq!(process.exit().code(), Some(0), "{signal}");

        world.api.restart();
        world.api.fail_next("revisions", usize::MAX, 503);
        let mut process = world.builder().spawn();
        process.logs("Starting the knative activator");
        process.signal(signal);
        assert_eq!(process.exit().code(), Some(0), "{signal}");
    }
}
