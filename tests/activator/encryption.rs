//! Section 11 and T1, T2, T3, T6, B1: certificates on both sides, and what follows when they change.
use std::time::Duration;

use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World, free_ip, named};
use crate::support::app::App;
use crate::support::client::{Raw, local, run};
use crate::support::objects::{config_map, private_endpoints, revision, routing_certs, trust_bundle};
use crate::support::wait::eventually;
use lockkeeper::local::client::{Connection, Protocol, Trust, dial};
use lockkeeper::local::pki::Authority;

fn serial(world: &World, port: u16) -> Option<String> {
    let trust = Trust::new(world.authority.der(), "kn-routing");
    run(dial(local(port), Some(&trust), Protocol::Http1)).ok().map(|(_, peer)| peer.unwrap().serial)
}

/// 11.2: both protocols on the TLS port, which serves the same revisions.
#[test]
fn given_tls_when_callers_come_over_it_then_they_are_served() {
    let world = World::new(true);
    world.create(world.revision());
    let mut activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    let port = activator.https();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let trust = Trust::new(world.authority.der(), "kn-routing");
        let answer = run(async {
            let mut connection = Connection::open(local(port), Some(&trust), protocol).await.unwrap();
            let host = format!("{REVISION}.{NAMESPACE}.svc.cluster.local");
            connection.get(&host, "/").await.unwrap()
        });
        assert_eq!(answer.status, 200, "{protocol:?}");
    }
    let seen = pod.app.last();
    assert_eq!(seen.get("k-proxy-request"), Some("activator"));
}

/// 11.1, T3, T6: only the exact name of the revision's namespace will do.
#[test]
fn given_pods_with_other_names_when_requests_come_then_502_and_no_request_passes() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    for name in ["kn-user-other", "kn-routing", "kn-user-default.example", "*.default"] {
        let certs = world.certs(name);
        let pod = world.pod_with(App::ok(), |builder| builder.certs(&certs));
        world.endpoints(&[pod.ip], &[]);
        eventually("the pod is in use", || activator.get().status() == 502);
        let reply = activator.get();
        assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (502, Some("tls_san_mismatch")), "{name}");
        assert!(pod.app.seen().is_empty());
        world.endpoints(&[], &[]);
    }
}

/// T6: a pod of another authority is refused.
#[test]
fn given_a_pod_of_an_unknown_authority_when_requests_come_then_502() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let stranger = World::new(true);
    let pod = stranger.pod();
    world.endpoints(&[pod.ip], &[]);
    eventually("the pod is in use", || activator.get().status() == 502);
    assert_eq!(activator.get().header("x-lockkeeper-cause"), Some("tls_unknown_ca"));
    assert!(pod.app.seen().is_empty());
}

/// T6: no fallback: a pod that speaks no TLS gets nothing while TLS is on.
#[test]
fn given_tls_when_the_pod_has_only_plaintext_then_requests_never_reach_it() {
    let world = World::new(true);
    world.create(world.revision().timeout(2));
    let activator = world.start();
    let pod = World::new(false).pod();
    world.endpoints(&[pod.ip], &[]);
    let status = activator.get().status();
    assert!([502, 504].contains(&status), "{status}");
    assert!(pod.app.seen().is_empty());
}

/// A namespace of 63 characters makes a name that is longer than a DNS label may be.
#[test]
fn given_the_longest_namespace_when_its_pod_is_verified_then_requests_pass() {
    let namespace = "n".repeat(63);
    let world = World::new(true);
    world.api.apply(revision(&namespace, REVISION));
    let activator = world.start();
    let pod = world.pod_at(free_ip(), &namespace, App::ok(), |builder| builder);
    world.api.apply(private_endpoints(&namespace, REVISION).subset(&[&pod.ip.to_string()], &[], "http", 8012));
    let mut client = Raw::plain(activator.http1);
    assert_eq!(client.get("/", &named(&namespace, REVISION)).reply().status(), 200);
}

/// An address that passes to a pod of another namespace inherits no connection.
#[test]
fn given_an_address_when_it_passes_to_another_namespace_then_it_is_verified_anew() {
    let world = World::new(true);
    world.create(world.revision());
    world.api.apply(revision("other", REVISION));
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    world.api.apply(private_endpoints("other", REVISION).subset(&[&pod.ip.to_string()], &[], "http", 8012));
    let ask = || Raw::plain(activator.http1).get("/", &named("other", REVISION)).reply();
    eventually("it is in use", || ask().status() == 502);
    assert_eq!(ask().header("x-lockkeeper-cause"), Some("tls_san_mismatch"));
    assert_eq!(pod.app.seen().len(), 1);
}

/// T1: every block of `ca.crt` and of the bundles counts, and new ones within a second.
#[test]
fn given_a_pod_of_a_new_authority_when_a_bundle_brings_it_then_requests_pass() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let newer = World::new(true);
    let pod = newer.pod();
    world.endpoints(&[pod.ip], &[]);
    eventually("the pod is refused", || activator.get().status() == 502);

    let both = format!("{}{}", Authority::mint("another").unwrap().pem(), newer.authority.pem());
    world.api.apply(trust_bundle(SYSTEM, "bundle", &both));

    eventually("it is trusted", || activator.get().status() == 200);
}

/// T1: an authority that is removed closes the idle connections that it verified, at once.
#[test]
fn given_an_idle_connection_when_its_authority_is_removed_then_it_is_closed_and_the_pod_refused() {
    let world = World::new(true);
    world.create(world.revision());
    let activator = world.start();
    let newer = World::new(true);
    world.api.apply(trust_bundle(SYSTEM, "bundle", newer.authority.pem()));
    let pod = newer.pod();
    world.endpoints(&[pod.ip], &[]);
    eventually("the pod is in use", || activator.get().status() == 200);
    let generation = || activator.process.log.lines(|line| line.contains("authorities changed")).len();
    let before = generation();

    world.api.delete("configmaps", SYSTEM, "bundle");

    eventually("the change is noticed", || generation() > before);
    let reply = activator.get();
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (502, Some("tls_unknown_ca")));
}

/// 11.2: a rotated Secret serves at the next handshake; a bad one changes nothing.
#[test]
fn given_a_rotated_secret_when_callers_shake_hands_then_they_see_the_new_leaf() {
    let world = World::new(true);
    let mut activator = world.start();
    let port = activator.https();
    let next = world.issue_routing_certs();
    eventually("the new leaf serves", || serial(&world, port).as_ref() == Some(&next));

    world.api.apply(routing_certs(SYSTEM, "junk", "junk", world.authority.pem()));
    activator.process.logs("stays in use");
    assert_eq!(serial(&world, port), Some(next));
}

/// T2: no certificate at start: it runs, is not ready, says why, and comes up when it arrives.
#[test]
fn given_no_certificate_at_start_when_it_arrives_then_the_activator_becomes_ready() {
    let world = World::new(false);
    world.set_tls(true);
    let mut activator = Activator::unready(world.builder());
    eventually("the reason is told", || {
        let reply = activator.health();
        assert_eq!(reply.status(), 500);
        reply.text().contains("there is no Secret knative-serving/routing-serving-certs")
    });
    activator.process.logs("not ready until it is there");

    world.issue_routing_certs();

    eventually("it is ready", || activator.health().status() == 200);
    assert!(serial(&world, activator.https()).is_some());
}

/// B1: the TLS port closes when TLS is switched off.
#[test]
fn given_tls_is_switched_off_when_it_is_noticed_then_the_port_closes() {
    let world = World::new(true);
    let mut activator = world.start();
    let port = activator.https();
    assert!(serial(&world, port).is_some());

    world.set_tls(false);

    eventually("the port is closed", || std::net::TcpStream::connect(local(port)).is_err());
    assert_eq!(activator.health().status(), 200);
}

/// A malformed `config-network` keeps the old values.
#[test]
fn given_a_config_network_that_cannot_be_used_when_it_comes_then_the_old_values_stay() {
    let world = World::new(true);
    world.create(world.revision());
    let mut activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);

    world.api.apply(config_map(SYSTEM, "config-network").entry("system-internal-tls", "perhaps"));

    activator.process.logs("the previous settings stay");
    assert_eq!(activator.get().status(), 200);
    assert!(serial(&world, activator.https()).is_some());
    std::thread::sleep(Duration::from_millis(50));
}
