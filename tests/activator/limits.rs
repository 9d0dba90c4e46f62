//! A4: what waiting requests cost, how soon the rest is refused, and how soon a place is free again.
use std::time::{Duration, Instant};

use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World, named};
use crate::support::binary::Stream;
use crate::support::client::{Raw, run_for};
use crate::support::objects::config_map;
use crate::support::wait::eventually;

fn sorted(mut times: Vec<Duration>) -> Vec<Duration> {
    times.sort();
    times
}

/// Beyond the bound the answer is made in less than a millisecond, as the activator itself measures it.
#[test]
fn given_a_full_queue_when_requests_come_then_they_are_refused_in_less_than_a_millisecond() {
    let world = World::new(false);
    world.create(world.revision());
    world.api.apply(
        config_map(SYSTEM, "config-observability")
            .entry("logging.enable-request-log", "true")
            .entry("logging.request-log-template", "{{.Response.Code}} {{.Response.Latency}}"),
    );
    let activator = Activator::of(world.builder().env("LOCKKEEPER_QUEUE_DEPTH", 1), false);
    let _waiting = activator.ask();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
    let mut client = Raw::plain(activator.http1);
    for _ in 0..200 {
        assert_eq!(client.get("/", &named(NAMESPACE, REVISION)).reply().status(), 503);
    }
    let refused = || -> Vec<Duration> {
        let lines = activator.process.log.of(Stream::Stdout);
        let seconds = lines.iter().filter_map(|line| line.strip_prefix("503 ")?.parse().ok());
        seconds.map(Duration::from_secs_f64).collect()
    };
    eventually("all are in the log", || refused().len() >= 200);
    let took = sorted(refused());
    println!("503 after {:?} in the middle, {:?} for 90 of 100", took[100], took[180]);
    // Half of them: the others may have met a busy machine.
    assert!(took[100] < Duration::from_millis(1), "{took:?}");
}

/// A caller that leaves is noticed at once, not at the next look.
#[test]
fn given_the_only_place_is_taken_when_its_caller_leaves_then_it_is_free_within_ten_milliseconds() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = Activator::of(world.builder().env("LOCKKEEPER_QUEUE_DEPTH", 1), false);
    let mut took = Vec::new();
    let mut waiting = activator.ask();
    assert!(waiting.reply_within(Duration::from_millis(200)).is_none(), "it waits");
    for _ in 0..15 {
        // On a connection that is there, so that nothing but the place is measured.
        let mut next = Raw::plain(activator.http1);
        assert_eq!(next.get("/", &named(NAMESPACE, REVISION)).reply().status(), 503);
        let start = Instant::now();
        drop(waiting);
        let free = loop {
            let asked = Instant::now();
            if next.get("/", &named(NAMESPACE, REVISION)).reply_within(Duration::from_millis(60)).is_none() {
                break asked;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "the place is never free");
        };
        took.push(free - start);
        waiting = next;
    }
    let took = sorted(took);
    println!("a place is free after {:?} in the middle, {:?} at most", took[7], took[14]);
    assert!(took[7] <= Duration::from_millis(10), "{took:?}");
}

/// A waiting request costs at most 8 KiB, with all that belongs to its stream.
#[test]
fn given_thousands_of_waiting_requests_when_memory_is_measured_then_each_costs_less_than_eight_kib() {
    const CONNECTIONS: usize = 20;
    const EACH: usize = 200;
    let world = World::new(false);
    world.create(world.revision().concurrency(1));
    let activator = world.start();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], activator.h2c));
    let before = activator.process.memory_own();
    let held = run_for(Duration::from_secs(60), async {
        let mut open = Vec::new();
        let mut answers = Vec::new();
        for _ in 0..CONNECTIONS {
            let socket = tokio::net::TcpStream::connect(address).await.unwrap();
            let (send, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::task::spawn_local(async move {
                let _ = connection.await;
            });
            for _ in 0..EACH {
                let mut ready = send.clone().ready().await.unwrap();
                let request = http::Request::get("http://hello.example.com/path")
                    .header("knative-serving-namespace", NAMESPACE)
                    .header("knative-serving-revision", REVISION)
                    .header("user-agent", "a caller of the usual kind/1.0")
                    .header("accept", "*/*")
                    .body(())
                    .unwrap();
                answers.push(ready.send_request(request, true).unwrap().0);
            }
            open.push(send);
        }
        // A ping's answer is behind the requests; then they are all held.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut held = 0;
        let start = Instant::now();
        let arrived = || -> f64 { world.autoscaler.told().iter().map(|told| told.count).sum() };
        while arrived() < (CONNECTIONS * EACH) as f64 {
            assert!(start.elapsed() < Duration::from_secs(50), "only {} arrived", arrived());
            tokio::time::sleep(Duration::from_millis(50)).await;
            held = held.max(activator.process.memory_own());
        }
        held = held.max(activator.process.memory_own());
        drop((answers, open));
        held
    });
    let each = held.saturating_sub(before) as f64 / (CONNECTIONS * EACH) as f64;
    println!("{before} KiB before, {held} KiB then: {each:.2} KiB a request");
    assert!(each <= 8.0, "{each} KiB");
    assert!(each > 0.5, "{each} KiB: nothing was held");
}

/// A caller that says nothing is let go when its time is up; one that was served may be silent for longer.
#[test]
fn given_a_limit_for_the_first_header_when_a_caller_is_silent_then_its_connection_is_closed() {
    let world = World::new(false);
    let activator = Activator::of(world.builder().env("LOCKKEEPER_HEADER_READ_TIMEOUT", "1s"), false);
    let mut served = Raw::plain(activator.http1);
    assert_eq!(served.get("/", "").reply().status(), 404);
    let start = Instant::now();
    assert!(Raw::plain(activator.http1).closes());
    assert!(Raw::plain(activator.http1).send("GET / HTTP/1.1\r\n").closes());
    assert!(start.elapsed() >= Duration::from_secs(2));
    assert_eq!(served.get("/", "").reply().status(), 404);
}
