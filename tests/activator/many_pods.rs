//! Many pods: one that swallows everything, and a crowd that appears at once.
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::crowd::Crowd;
use super::world::{Activator, NAMESPACE, REVISION, World, named};
use crate::support::client::Raw;
use crate::support::objects::private_endpoints;
use crate::support::wait::eventually;

/// Figures: one handshake a pod before its first request, though all pods appear at once and many requests wait.
#[test]
fn given_waiting_requests_when_five_hundred_pods_appear_at_once_then_each_shakes_hands_once() {
    const PODS: usize = 500;
    let world = World::new(true);
    world.create(world.revision().concurrency(1));
    let builder = world.builder().env("WORKER_THREADS", 1);
    let activator = Activator::of(builder, true);
    let crowd = Crowd::together(PODS, Some(&world.authority));
    let mut clients: Vec<Raw> = (0..PODS).map(|_| activator.ask()).collect();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());

    let ips: Vec<&str> = crowd.ips.iter().map(String::as_str).collect();
    world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&[], &ips, "http", 8012));

    // And the connections stay: another round needs no handshake.
    for round in 1..=2 {
        for client in &mut clients {
            assert_eq!(client.reply().status(), 200);
        }
        let of = |counts: &[AtomicUsize]| counts.iter().map(|count| count.load(Ordering::SeqCst)).collect::<Vec<_>>();
        assert_eq!(of(&crowd.requests), [round; PODS], "each pod had one");
        assert_eq!(of(&crowd.handshakes), [1; PODS]);
        if round == 1 {
            for client in &mut clients {
                client.get("/", &named(NAMESPACE, REVISION));
            }
        }
    }
}

/// A2: one of ten pods takes connections and never answers a handshake: nobody notices but by the time of one try.
#[test]
fn given_ten_pods_when_one_is_stopped_then_no_request_fails() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let builder = world.builder().env("LOCKKEEPER_HANDSHAKE_TIMEOUT", "500ms");
        let activator = Activator::of(builder, tls);
        let crowd = Crowd::start(9, tls.then_some(&world.authority));
        let hole = world.pod();
        let mut ips: Vec<&str> = crowd.ips.iter().map(String::as_str).collect();
        let ip = hole.ip.to_string();
        ips.push(&ip);
        world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&ips, &[], "http", 8012));
        eventually("all are in use", || {
            assert_eq!(activator.get().status(), 200);
            hole.app.count() > 0 && crowd.requests.iter().all(|count| count.load(Ordering::SeqCst) > 0)
        });

        hole.queue.signal("STOP");
        // In plaintext a connection that the kernel takes for a stopped process has taken the request; what is on such
        // connections waits for the process. Where TLS is on, the handshake tells.
        let start = Instant::now();
        let mut waiting = Vec::new();
        let mut served = 0;
        while start.elapsed() < Duration::from_secs(3) {
            let mut client = activator.ask();
            match client.reply_within(Duration::from_millis(if waiting.is_empty() { 2000 } else { 200 })) {
                Some(reply) => {
                    assert_eq!(reply.status(), 200, "TLS: {tls}");
                    served += 1;
                }
                None => waiting.push(client),
            }
        }
        assert!(served > 20, "{served}");
        hole.queue.signal("CONT");
        for mut client in waiting {
            assert_eq!(client.reply().status(), 200, "TLS: {tls}");
        }
    }
}

/// A2: two pods are tried and no more; the caller is told why the second did not take it.
#[test]
fn given_ten_pods_that_cannot_be_verified_when_a_request_comes_then_two_are_tried() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = Activator::of(world.builder(), true);
    let stranger = World::new(false);
    let crowd = Crowd::start(10, Some(&stranger.authority));
    let ips: Vec<&str> = crowd.ips.iter().map(String::as_str).collect();
    world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&ips, &[], "http", 8012));
    let reply = activator.get();
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (502, Some("tls_unknown_ca")));
    assert_eq!(crowd.tried.load(Ordering::SeqCst), 2);
}
