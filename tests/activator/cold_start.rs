//! Sections 5.2, 5.3, 6 and 7: requests wait for pods.
use std::time::{Duration, Instant};

use super::world::{NAMESPACE, Pod, REVISION, World, free_ip, named};
use crate::support::app::App;
use crate::support::client::{Raw, run};
use crate::support::objects::revision;
use crate::support::wait::eventually;
use lockkeeper::local::client::{Connection, Outgoing, Protocol};

/// The heart of it: a request is held, a pod appears, the request is served, over TLS when TLS is on.
#[test]
fn given_a_request_for_a_revision_without_pods_when_a_pod_appears_then_it_is_served() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let mut client = activator.ask();
        eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
        assert!(client.reply_within(Duration::from_millis(100)).is_none(), "it waits");

        let pod = world.pod();
        // Not ready for Kubernetes yet: our own probe is what counts.
        world.endpoints(&[], &[pod.ip]);

        let reply = client.reply();
        assert_eq!((reply.status(), reply.text().as_str()), (200, "ok"), "TLS: {tls}");
        assert_eq!(pod.app.seen().len(), 1);
    }
}

/// 7, A3: the address is known before the pod listens; the request goes on soon after it does, not at the next tick.
#[test]
fn given_an_address_that_refuses_when_its_port_opens_then_the_request_is_served() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let ip = free_ip();
        world.endpoints(&[], &[ip]);
        let mut client = activator.ask();
        assert!(client.reply_within(Duration::from_millis(300)).is_none(), "it waits");

        let _pod = world.pod_at(ip, NAMESPACE, App::ok(), |builder| builder);

        assert_eq!(client.reply().status(), 200, "TLS: {tls}");
    }
}

/// 7.5: a pod whose readiness only the kubelet can tell takes requests when it is ready, not before.
#[test]
fn given_a_readiness_command_when_the_pod_is_not_ready_then_requests_wait_until_it_is() {
    let world = World::new(false);
    world.create(world.revision().exec_readiness());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[], &[pod.ip]);
    let mut client = activator.ask();
    assert!(client.reply_within(Duration::from_millis(300)).is_none());

    world.endpoints(&[pod.ip], &[]);

    assert_eq!(client.reply().status(), 200);
}

/// 7.11: Endpoints may come before their Revision.
#[test]
fn given_endpoints_that_came_first_when_the_revision_comes_then_it_is_served() {
    let world = World::new(false);
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 404);

    world.api.apply(world.revision());

    eventually("it is known", || activator.get().status() == 200);
}

/// 6: never more than `containerConcurrency` on the one pod, all are served, in the order in which they came.
#[test]
fn given_a_limit_of_one_when_many_come_then_they_run_one_by_one() {
    let world = World::new(false);
    world.create(world.revision().concurrency(1));
    let activator = world.start();
    let pod = world.pod_with(App::ok(), |builder| builder.env("CONTAINER_CONCURRENCY", 1));
    world.endpoints(&[pod.ip], &[]);
    let mut clients: Vec<Raw> = (0..50).map(|_| activator.ask()).collect();
    for client in &mut clients {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(pod.app.seen().len(), 50);
}

/// 5.3: the total limit counts waiting; the text and the cause say what happened.
#[test]
fn given_no_pod_when_the_revision_s_timeout_passes_then_504() {
    let world = World::new(false);
    world.create(world.revision().timeout(1));
    let activator = world.start();
    let start = Instant::now();
    let reply = activator.get();
    assert_eq!((reply.status(), reply.text().as_str()), (504, "activator request timeout"));
    assert_eq!(reply.header("x-lockkeeper-cause"), Some("timeout_total"));
    assert!(start.elapsed() >= Duration::from_secs(1));
}

/// A8: a limit of its own for waiting, and the answer says which ran out.
#[test]
fn given_a_limit_for_waiting_when_it_passes_then_504_names_it() {
    let world = World::new(false);
    world.create(world.revision());
    let builder = world.builder().env("LOCKKEEPER_WAITING_TIMEOUT", "200ms");
    let activator = super::world::Activator::of(builder, false);
    let reply = activator.get();
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (504, Some("timeout_waiting")));
    assert!(reply.text().contains("no pod could take the request in time"), "{}", reply.text());
}

/// A4: beyond the bound 503 at once, with `Retry-After`; who leaves frees a place.
#[test]
fn given_a_full_queue_when_another_request_comes_then_503_until_somebody_leaves() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = super::world::Activator::of(world.builder().env("LOCKKEEPER_QUEUE_DEPTH", 3), false);
    // Who is not answered waits, and goes on waiting: so the bound is reached whatever the order of arrival.
    let mut waiting: Vec<Raw> = Vec::new();
    eventually("it is full", || {
        let mut client = activator.ask();
        let Some(reply) = client.reply_within(Duration::from_millis(500)) else {
            waiting.push(client);
            return false;
        };
        assert_eq!((reply.status(), reply.text().as_str()), (503, "pending request queue full\n"));
        assert_eq!((reply.header("retry-after"), reply.header("x-lockkeeper-cause")), (Some("1"), Some("queue_full")));
        true
    });
    waiting.retain_mut(|client| client.reply_within(Duration::from_millis(10)).is_none());
    assert_eq!(waiting.len(), 3);

    drop(waiting.pop());

    eventually("a place is free", || activator.ask().reply_within(Duration::from_millis(100)).is_none());
}

/// A4: what all waiting requests hold together is bounded too.
#[test]
fn given_a_bound_in_bytes_when_it_is_reached_then_503() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = super::world::Activator::of(world.builder().env("LOCKKEEPER_WAITING_BYTES", "16Ki"), false);
    let _waiting: Vec<Raw> =
        (0..2).map(|_| activator.ask_for(REVISION, &format!("X: {}\r\n", "x".repeat(4096)))).collect();
    eventually("it is full", || {
        let mut client = activator.ask_for(REVISION, &format!("X: {}\r\n", "x".repeat(4096)));
        let Some(reply) = client.reply_within(Duration::from_millis(100)) else { return false };
        assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (503, Some("waiting_bytes_full")));
        true
    });
}

/// A4: the body of a request that waits is not read; when a pod is there it goes through whole.
#[test]
fn given_a_large_body_when_its_request_waits_then_it_is_not_read_and_arrives_whole() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let before = activator.process.memory_own();
    let size = 32 << 20;
    let port = activator.http1;
    let sender = std::thread::spawn(move || {
        let mut client = Raw::plain(port);
        let head = named(NAMESPACE, REVISION);
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{head}Content-Length: {size}\r\n\r\n"));
        client.send(vec![b'x'; size]);
        client.reply().status()
    });
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());
    std::thread::sleep(Duration::from_millis(200));
    let held = activator.process.memory_own().saturating_sub(before);
    assert!(held < 4 << 10, "{held} KiB more");

    let app = App::each(|_, body| crate::support::app::ok(&body.len().to_string()));
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);

    assert_eq!(sender.join().unwrap(), 200);
}

/// 6.1 of the throttle's doing, through the whole activator: pods get about the same.
#[test]
fn given_three_pods_when_requests_come_then_each_gets_its_share() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let pods: Vec<Pod> = (0..3).map(|_| world.pod()).collect();
        world.endpoints(&pods.iter().map(|pod| pod.ip).collect::<Vec<_>>(), &[]);
        assert_eq!(activator.get().status(), 200);
        eventually("all pods are in use", || {
            assert_eq!(activator.get().status(), 200);
            pods.iter().all(|pod| !pod.app.seen().is_empty())
        });
    }
}

/// A2: a pod that refuses is put aside and the request goes to another: nobody notices.
#[test]
fn given_a_pod_that_died_when_requests_come_then_all_are_served_by_the_other() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let (pod, mut dying) = (world.pod(), world.pod());
        world.endpoints(&[pod.ip, dying.ip], &[]);
        eventually("both are in use", || {
            assert_eq!(activator.get().status(), 200);
            !pod.app.seen().is_empty() && !dying.app.seen().is_empty()
        });

        dying.queue.signal("KILL");
        dying.queue.exit();

        for _ in 0..50 {
            assert_eq!(activator.get().status(), 200, "TLS: {tls}");
        }
    }
}

/// A revision that is deleted lets its waiting requests go with the answer for one that never was.
#[test]
fn given_a_waiting_request_when_its_revision_is_deleted_then_404() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let mut client = activator.ask();
    eventually("the autoscaler is told", || !world.autoscaler.told().is_empty());

    world.api.delete("revisions", NAMESPACE, REVISION);

    let reply = client.reply();
    assert_eq!(reply.status(), 404);
    assert!(reply.text().contains("revision.serving.knative.dev \"hello-00001\" not found"), "{}", reply.text());
}

/// 7.9: Endpoints that are emptied, or deleted and made again: requests wait meanwhile, and none is lost.
#[test]
fn given_endpoints_that_go_when_they_come_back_then_requests_have_waited() {
    for delete in [false, true] {
        let world = World::new(false);
        world.create(world.revision());
        let activator = world.start();
        let pod = world.pod();
        world.endpoints(&[pod.ip], &[]);
        assert_eq!(activator.get().status(), 200);

        match delete {
            true => world.api.delete("endpoints", NAMESPACE, &format!("{REVISION}-private")),
            false => world.endpoints(&[], &[]),
        }
        let mut waiting = None;
        eventually("requests wait", || {
            let mut client = activator.ask();
            let answered = client.reply_within(Duration::from_millis(300));
            assert!(answered.as_ref().is_none_or(|reply| reply.status() == 200));
            waiting = answered.is_none().then_some(client);
            waiting.is_some()
        });

        world.endpoints(&[pod.ip], &[]);

        assert_eq!(waiting.unwrap().reply().status(), 200, "deleted: {delete}");
    }
}

/// Two revisions, one with a pod that can't be reached: the other is not held up (section 7, 10).
#[test]
fn given_another_revision_whose_pod_is_a_hole_when_a_pod_appears_then_it_is_served_at_once() {
    let world = World::new(false);
    world.create(world.revision());
    world.api.apply(revision(NAMESPACE, "other-00001"));
    // Addresses for documentation (RFC 5737): nobody is there.
    let hole = crate::support::objects::private_endpoints(NAMESPACE, "other-00001").subset(
        &["192.0.2.1", "192.0.2.2"],
        &[],
        "http",
        8012,
    );
    world.api.apply(hole);
    let activator = world.start();
    let mut stuck = activator.ask_for("other-00001", "");
    let mut client = activator.ask();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);

    assert_eq!(client.reply().status(), 200);
    assert!(stuck.reply_within(Duration::from_millis(10)).is_none());
}

/// HTTP/2 requests wait and are served like the others; many on one connection.
#[test]
fn given_http2_requests_that_wait_when_a_pod_appears_then_all_are_served() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let address = ([127, 0, 0, 1], activator.h2c).into();
        let pod = std::cell::OnceCell::new();
        let statuses = run(async {
            let mut waiting = Vec::new();
            for _ in 0..20 {
                let mut connection = Connection::open(address, None, Protocol::Http2).await.unwrap();
                waiting.push(tokio::task::spawn_local(async move {
                    let host = format!("{REVISION}.{NAMESPACE}.svc.cluster.local");
                    let request = connection.request("GET", &host, "/");
                    let request = request
                        .header("knative-serving-namespace", NAMESPACE)
                        .header("knative-serving-revision", REVISION)
                        .body(Outgoing::whole(""))
                        .unwrap();
                    connection.fetch(request).await.unwrap().status
                }));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert!(waiting.iter().all(|request| !request.is_finished()));
            let started = pod.get_or_init(|| world.pod());
            world.endpoints(&[started.ip], &[]);
            let mut statuses = Vec::new();
            for request in waiting {
                statuses.push(request.await.unwrap());
            }
            statuses
        });
        // The application speaks HTTP/1.1 only: the queue finds out.
        assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    }
}

/// A4: a caller that leaves frees its place though nobody reads its body, whether it closes or resets.
#[test]
fn given_callers_whose_bodies_are_not_read_when_they_leave_then_their_places_are_free() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = super::world::Activator::of(world.builder().env("LOCKKEEPER_QUEUE_DEPTH", 1), false);
    let head = named(NAMESPACE, REVISION);
    let body = "x".repeat(20_000);
    let upload = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n{head}\r\n{body}");
    for reset in [false, true] {
        let mut waiting = None;
        // It waits when it is not answered; the one before may still have to be noticed.
        eventually("it waits", || {
            let mut client = Raw::plain(activator.http1);
            let answered = client.send(&upload).reply_within(Duration::from_millis(300)).is_some();
            waiting = (!answered).then_some(client);
            !answered
        });
        assert_eq!(activator.get().status(), 503, "the queue is full");
        let client = waiting.unwrap();
        if reset {
            client.reset_on_close();
        }
        drop(client);

        eventually("its place is free", || activator.ask().reply_within(Duration::from_millis(200)).is_none());
    }
}
