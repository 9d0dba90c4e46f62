//! Sections 3 and 4: ports, health, and what answers before a revision is looked for.
use super::world::{Activator, World};
use crate::support::client::{Raw, get, local, run};
use crate::support::wait::eventually;
use lockkeeper::local::client::{Connection, Protocol};

/// 4.1: any path, method and port; and `curl` is no probe.
#[test]
fn given_the_link_is_up_when_kubelet_probes_then_every_form_gets_200_and_an_empty_body() {
    let world = World::new(false);
    let activator = world.start();
    for (port, request) in [
        (activator.http1, "GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/1.34\r\n\r\n"),
        (activator.h2c, "GET /any/path HTTP/1.1\r\nHost: x\r\nK-Kubelet-Probe: activator\r\n\r\n"),
        (activator.http1, "POST /x HTTP/1.1\r\nHost: x\r\nUser-Agent: kube-probe/\r\nContent-Length: 0\r\n\r\n"),
    ] {
        let reply = Raw::plain(port).send(request).reply();
        assert_eq!((reply.status(), reply.text().as_str()), (200, ""), "{request}");
    }
    assert_eq!(get(activator.http1, "/", "User-Agent: curl/8\r\n").status(), 404);
}

/// 4.1 and A6: not ready before the link was up once; afterwards its loss is no reason, by default.
#[test]
fn given_no_autoscaler_when_probed_then_not_ready_until_it_was_there_once() {
    let world = World::new(false);
    world.autoscaler.stop();
    let activator = Activator::unready(world.builder());
    let reply = activator.health();
    assert_eq!((reply.status(), reply.text().as_str()), (500, "connection has not yet been established\n"));
    assert_eq!(get(activator.http1, "/live", "User-Agent: kube-probe/1.34\r\n").status(), 200, "it runs");

    world.autoscaler.restart();
    eventually("it is ready", || activator.health().status() == 200);
    world.autoscaler.stop();
    eventually("the loss is noticed", || {
        !activator.process.log.lines(|line| line.contains("Lost the connection to Autoscaler")).is_empty()
    });
    assert_eq!(activator.health().status(), 200);
}

/// A6: the original's behaviour can be chosen.
#[test]
fn given_readiness_always_follows_the_link_when_it_is_lost_then_not_ready() {
    let world = World::new(false);
    let activator = Activator::of(world.builder().env("LOCKKEEPER_AUTOSCALER_READINESS", "always"), false);
    world.autoscaler.stop();
    eventually("not ready", || activator.health().status() == 500);
    world.autoscaler.restart();
    eventually("ready again", || activator.health().status() == 200);
}

/// 4.2: the network's probe echoes the hash, and needs one.
#[test]
fn given_network_probes_when_they_carry_a_hash_then_it_is_echoed() {
    let world = World::new(false);
    let activator = world.start();
    let reply = get(activator.http1, "/", "K-Network-Probe: probe\r\nK-Network-Hash: abc\r\n");
    assert_eq!((reply.status(), reply.header("k-network-hash"), reply.text().as_str()), (200, Some("abc"), ""));
    let reply = get(activator.http1, "/", "K-Network-Probe: probe\r\n");
    assert_eq!(reply.status(), 400);
    assert_eq!(reply.text(), "a probe request must contain a non-empty \"K-Network-Hash\" header\n");
}

/// 4.3: a component's probe is answered or refused, and never reaches a pod.
#[test]
fn given_component_probes_when_they_ask_for_another_component_then_400_with_the_value_escaped() {
    let world = World::new(false);
    let activator = world.start();
    let reply = get(activator.http1, "/", "K-Network-Probe: activator\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (200, "activator"));
    let reply = get(activator.http1, "/", "K-Network-Probe: queue<b>\r\n");
    assert_eq!((reply.status(), reply.text().as_str()), (400, "unexpected probe header value: \"queue&lt;b&gt;\"\n"));
}

/// 3: both cleartext ports speak HTTP/1.1 and HTTP/2 with prior knowledge; profiling answers 404.
#[test]
fn given_each_cleartext_port_when_either_protocol_is_spoken_then_it_is_answered() {
    let world = World::new(false);
    let mut activator = world.start();
    for port in [activator.http1, activator.h2c] {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let answer = run(async {
                let mut connection = Connection::open(local(port), None, protocol).await.unwrap();
                connection.get("x.example.com", "/").await.unwrap()
            });
            assert_eq!(answer.status, 404, "{port} {protocol:?}");
        }
    }
    let profile = activator.process.port_of("server profile:");
    assert_eq!(get(profile, "/debug/pprof/", "").status(), 404);
}
