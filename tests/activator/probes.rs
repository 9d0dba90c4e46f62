//! Sections 3 and 4: ports, health, and what answers before a revision is looked for.
use std::time::{Duration, Instant};

use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World};
use crate::support::binary::Stream;
use crate::support::client::{Raw, get, local, run};
use crate::support::objects::config_map;
use crate::support::port::free_port;
use crate::support::scrape::{prometheus, sum};
use crate::support::wait::eventually;
use lockkeeper::local::client::{Connection, Outgoing, Protocol, Trust};

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

/// A6: or not ready when it was down for a while.
#[test]
fn given_readiness_falls_after_a_while_when_the_link_is_lost_then_it_does_so_then() {
    let world = World::new(false);
    let activator = Activator::of(world.builder().env("LOCKKEEPER_AUTOSCALER_READINESS", "2s"), false);
    let start = Instant::now();
    world.autoscaler.stop();
    eventually("not ready", || activator.health().status() == 500);
    assert!(start.elapsed() >= Duration::from_secs(2), "{:?}", start.elapsed());
    world.autoscaler.restart();
    eventually("ready again", || activator.health().status() == 200);
}

/// 4: probes come on every port, in either protocol, over TLS too; none of them is counted, logged, traced or reported.
#[test]
fn given_probes_of_all_kinds_when_they_come_on_any_port_then_they_are_answered_and_leave_no_trace() {
    let world = World::new(true);
    world.create(world.revision());
    let metrics = free_port();
    world.api.apply(
        config_map(SYSTEM, "config-observability")
            .entry("metrics-protocol", "prometheus")
            .entry("metrics-endpoint", &format!("127.0.0.1:{metrics}"))
            .entry("tracing-protocol", "stdout")
            .entry("logging.enable-request-log", "true")
            .entry("logging.request-log-template", "{{.Response.Code}} {{.Request.URL}}"),
    );
    let mut activator = world.start();
    let trust = Trust::new(world.authority.der(), "kn-routing");
    let ports = [(activator.http1, None), (activator.h2c, None), (activator.https(), Some(&trust))];
    let kinds: [(&[(&str, &str)], u16, &str); 4] = [
        (&[("user-agent", "kube-probe/1.34")], 200, ""),
        (&[("k-network-probe", "probe"), ("k-network-hash", "abc")], 200, ""),
        (&[("k-network-probe", "activator")], 200, "activator"),
        (&[("k-network-probe", "queue")], 400, "unexpected probe header value: \"queue\"\n"),
    ];
    run(async {
        for (port, trust) in ports {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let mut client = Connection::open(local(port), trust, protocol).await.unwrap();
                for (headers, status, text) in kinds {
                    // A revision is named, so that it could be asked for.
                    let host = format!("{REVISION}.{NAMESPACE}.svc.cluster.local");
                    let request = client.request("GET", &host, "/probe");
                    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
                    let answer = client.fetch(request.body(Outgoing::whole("")).unwrap()).await.unwrap();
                    let body = String::from_utf8(answer.body).unwrap();
                    assert_eq!((answer.status, body.as_str()), (status, text), "{port} {protocol:?} {headers:?}");
                }
            }
        }
    });
    // A request for nothing is counted, and not logged.
    assert_eq!(get(activator.http1, "/nothing", "").status(), 404);
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let said = || activator.process.log.of(Stream::Stdout);
    // Spans are objects; they are written later.
    let log = || said().into_iter().filter(|line| !line.starts_with('{')).collect::<Vec<_>>();
    eventually("the request is logged", || !log().is_empty());
    eventually("the request is traced", || said().iter().any(|line| line.contains("activator_proxy")));
    assert_eq!(log(), ["200 /path?query"]);
    assert!(!said().iter().any(|line| line.contains("/probe")), "{:?}", said());
    eventually("it is reported", || !world.autoscaler.told().is_empty());
    let count: f64 = world.autoscaler.told().iter().map(|told| told.count).sum();
    assert!((count - 1.0).abs() < 1e-9, "{:?}", world.autoscaler.told());
    let counted = |status| {
        let of = [("http_response_status_code", status)];
        sum(&prometheus(metrics), "http_server_request_duration_seconds_count", &of)
    };
    assert_eq!((counted("200"), counted("404"), counted("400")), (Some(1.0), Some(1.0), None));
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
