//! Sections 5.4 and 7: meshes. Which addresses are used in each mode, and how requests are named in one.
use std::net::{IpAddr, TcpListener};

use super::world::{NAMESPACE, REVISION, SYSTEM, World, free_ip};
use crate::support::app::{App, ok};
use crate::support::objects::{Object, config_map, service};
use crate::support::wait::eventually;

/// A pod without a queue: it answers probes and requests, and keeps both.
fn pod() -> (IpAddr, App) {
    let ip = free_ip();
    let app = App::listen(TcpListener::bind((ip, 8012)).unwrap(), |conn| {
        while let Some((head, _)) = conn.request() {
            conn.send(ok(if head.get("k-network-probe").is_some() { "queue" } else { "ok" }));
        }
    });
    (ip, app)
}

/// The revision's private Service, whose cluster IP is this pod.
fn behind(ip: IpAddr) -> Object {
    service(NAMESPACE, &format!("{REVISION}-private"), &ip.to_string())
        .label("serving.knative.dev/revision", REVISION)
        .label("networking.internal.knative.dev/serviceType", "Private")
        .port("http", 8012)
}

fn requests(app: &App) -> usize {
    app.seen().iter().filter(|head| head.get("k-network-probe").is_none()).count()
}

/// 5.4: with addressable pods in a mesh, requests and probes name the private Service, and ask for this very pod.
#[test]
fn given_pods_that_a_mesh_can_address_when_requests_pass_then_they_name_the_private_service() {
    let world = World::new(false);
    world.api.apply(config_map(SYSTEM, "config-network").entry("enable-mesh-pod-addressability", "true"));
    world.create(world.revision());
    let activator = world.start();
    let (ip, app) = pod();
    world.endpoints(&[ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let seen = app.seen();
    assert!(seen.len() >= 2, "a probe and a request");
    for head in seen {
        assert_eq!(head.get("host"), Some("hello-00001-private.default"), "{head:?}");
        assert_eq!(head.get("k-passthrough-lb"), Some("true"), "{head:?}");
    }
    assert_eq!(app.last().get("k-original-host"), Some("hello.example.com"));
}

/// 7.3: which addresses are used is the mode's to say. Both of them would answer.
#[test]
fn given_each_mesh_mode_when_requests_come_then_pods_or_the_cluster_ip_are_used() {
    for (mode, to_pod) in
        [("enabled", false), ("Enabled", false), ("auto", true), ("disabled", true), ("perhaps", true)]
    {
        let world = World::new(false);
        world.api.apply(config_map(SYSTEM, "config-network").entry("mesh-compatibility-mode", mode));
        world.create(world.revision());
        let ((ip, app), (cluster_ip, behind_it)) = (pod(), pod());
        world.api.apply(behind(cluster_ip));
        let activator = world.start();
        world.endpoints(&[ip], &[]);
        for _ in 0..3 {
            assert_eq!(activator.get().status(), 200, "{mode}");
        }
        let (pods, others) = (requests(&app), requests(&behind_it));
        assert_eq!((pods, others), if to_pod { (3, 0) } else { (0, 3) }, "{mode}");
        if !to_pod {
            assert!(app.seen().is_empty(), "{mode}: pods are not even probed");
        }
    }
}

/// 7.3: without a mesh there is no fallback, though the cluster IP would answer.
#[test]
fn given_no_mesh_when_pods_do_not_answer_then_requests_wait_for_them() {
    let world = World::new(false);
    world.api.apply(config_map(SYSTEM, "config-network").entry("mesh-compatibility-mode", "disabled"));
    world.create(world.revision());
    let (cluster_ip, behind_it) = pod();
    world.api.apply(behind(cluster_ip));
    let activator = world.start();
    let ip = free_ip();
    world.endpoints(&[], &[ip]);
    let mut client = activator.ask();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
    assert!(client.reply_within(std::time::Duration::from_millis(1000)).is_none(), "it waits");
    assert!(behind_it.seen().is_empty());
    let _pod = world.pod_at(ip, NAMESPACE, App::ok(), |builder| builder);
    assert_eq!(client.reply().status(), 200);
}
