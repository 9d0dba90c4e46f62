//! T1, T3: what becomes of connections and sessions when an authority goes, and how soon changes act.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::crowd::Crowd;
use super::world::{NAMESPACE, REVISION, SYSTEM, World, named};
use crate::support::app::App;
use crate::support::client::{Raw, local, run};
use crate::support::objects::{private_endpoints, trust_bundle};
use crate::support::wait::eventually;
use lockkeeper::local::client::{Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;

/// Established connections to `ip`'s TLS port, as this machine's kernel counts them.
fn open_to(ip: IpAddr) -> usize {
    let IpAddr::V4(ip) = ip else { panic!("an IPv4 address") };
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(Ipv4Addr::octets(&ip)), 8112);
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(2) == Some(&remote))
        .filter(|line| line.contains(" 01 "))
        .count()
}

/// Idle connections go at once, though nobody asks for anything.
#[test]
fn given_idle_connections_when_their_authority_is_removed_then_they_are_closed_and_other_pods_serve_on() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let newer = World::new(true);
    world.api.apply(trust_bundle(SYSTEM, "bundle", newer.authority.pem()));
    let (going, staying) = (newer.pod(), world.pod());
    world.endpoints(&[going.ip, staying.ip], &[]);
    eventually("both are in use", || {
        activator.get();
        open_to(going.ip) > 0 && open_to(staying.ip) > 0
    });

    world.api.delete("configmaps", SYSTEM, "bundle");

    eventually("what it vouched for is closed", || open_to(going.ip) == 0);
    // Connections that another authority vouched for are made anew as well, when they are needed.
    eventually("the other pod serves", || activator.get().status() == 200 && open_to(staying.ip) > 0);
}

/// What is under way ends as if nothing had happened; then its connection goes.
#[test]
fn given_a_response_under_way_when_its_authority_is_removed_then_it_arrives_whole() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let newer = World::new(true);
    world.api.apply(trust_bundle(SYSTEM, "bundle", newer.authority.pem()));
    let (go_on, wait) = channel::<()>();
    let wait = Arc::new(Mutex::new(wait));
    let app = App::start(move |conn| {
        if conn.head().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello");
            let _ = wait.lock().unwrap().recv();
            conn.send("world");
        }
    });
    let pod = newer.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let mut client = Raw::plain(activator.http1);
    eventually("the pod is in use", || {
        client = activator.ask();
        client.head().is_some_and(|head| head.status() == 200)
    });
    let changes = || activator.process.log.lines(|line| line.contains("authorities changed")).len();
    let before = changes();

    world.api.delete("configmaps", SYSTEM, "bundle");

    eventually("the change is noticed", || changes() > before);
    assert_eq!(open_to(pod.ip), 1, "the response is under way");
    go_on.send(()).unwrap();
    assert_eq!(client.bytes(10), b"helloworld");
    eventually("its connection is closed", || open_to(pod.ip) == 0);
    assert_eq!(activator.get().header("x-lockkeeper-cause"), Some("tls_unknown_ca"));
}

/// A pod that closed its connection is met again without a certificate's cost; after an authority went, in full.
#[test]
fn given_a_pod_that_was_verified_when_it_is_met_again_then_the_session_is_resumed_until_an_authority_goes() {
    let world = World::new(true);
    world.create(world.revision());
    let bundle = Authority::mint("lockkeeper tests, for a while").unwrap();
    world.api.apply(trust_bundle(SYSTEM, "bundle", bundle.pem()));
    let builder = world.builder().env("WORKER_THREADS", 1);
    let activator = super::world::Activator::of(builder, true);
    let crowd = Crowd::start(1, Some(&world.authority));
    world.api.apply(private_endpoints(NAMESPACE, REVISION).subset(&[&crowd.ips[0]], &[], "http", 8012));
    let last = || Raw::plain(activator.http1).get("/last", &named(NAMESPACE, REVISION)).reply().status();
    let seen = || (crowd.handshakes[0].load(Ordering::SeqCst), crowd.resumed[0].load(Ordering::SeqCst));
    for _ in 0..3 {
        assert_eq!(last(), 200);
    }
    assert_eq!(seen(), (3, 2));
    let changes = || activator.process.log.lines(|line| line.contains("authorities changed")).len();
    let before = changes();

    world.api.delete("configmaps", SYSTEM, "bundle");

    eventually("the change is noticed", || changes() > before);
    assert_eq!(last(), 200);
    assert_eq!(seen(), (4, 2), "in full");
    assert_eq!(last(), 200);
    assert_eq!(seen(), (5, 3));
}

/// Secret and bundles act within a second.
#[test]
fn given_a_changed_secret_or_bundle_when_a_second_has_passed_then_it_acts() {
    let world = World::new(true);
    world.create(world.revision());
    let mut activator = world.start();
    let port = activator.https();
    let mut took = Vec::new();
    for round in 0..3 {
        let newer = World::new(true);
        let pod = newer.pod();
        world.endpoints(&[pod.ip], &[]);
        eventually("the pod is refused", || activator.get().status() == 502);
        let start = Instant::now();
        world.api.apply(trust_bundle(SYSTEM, &format!("bundle-{round}"), newer.authority.pem()));
        // A pod that could not be verified is put aside for a while: the handshake is what is asked about.
        eventually("it is trusted", || {
            let trusted = activator.get().header("x-lockkeeper-cause") != Some("tls_unknown_ca");
            trusted && {
                took.push(start.elapsed());
                true
            }
        });
        let start = Instant::now();
        let next = world.issue_routing_certs();
        let trust = Trust::new(world.authority.der(), "kn-routing");
        eventually("the new leaf serves", || {
            let peer = run(dial(local(port), Some(&trust), Protocol::Http1)).unwrap().1;
            peer.is_some_and(|peer| peer.serial == next)
        });
        took.push(start.elapsed());
    }
    took.sort();
    println!("changes of Secret and bundles act after {took:?}");
    assert!(took[3] < Duration::from_secs(1), "{took:?}");
}
