//! A pod that goes away with requests on it: which of them go to another pod, and what the others are told.

use lockkeeper::local::client::{Connection, Outgoing, Protocol};

use super::world::{Activator, NAMESPACE, Pod, REVISION, World, free_ip, named};
use crate::support::app::{App, ok};
use crate::support::binary::Builder;
use crate::support::client::{Raw, local, run};
use crate::support::wait::{eventually, patience};

/// An application that takes requests and never answers.
fn silent() -> App {
    App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "*" {
                conn.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
                return;
            }
            conn.more_within(patience());
        }
    })
}

/// A cluster with a pod that never answers, and no other.
fn with_a_silent_pod(tls: bool, settings: impl FnOnce(Builder) -> Builder) -> (World, Activator, Pod) {
    let world = World::new(tls);
    world.create(world.revision());
    let activator = Activator::of(settings(world.builder()), tls);
    let pod = world.pod_with(silent(), |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    (world, activator, pod)
}

/// Requests that the application got, less the queue's question whether it speaks HTTP/2.
fn count(app: &App) -> usize {
    app.seen().iter().filter(|head| head.get("k-proxy-request").is_some()).count()
}

/// Kills the pod once it has so many requests, and puts another in its place.
fn replace(world: &World, mut pod: Pod, requests: usize) -> Pod {
    eventually("the requests are on the pod", || count(&pod.app) == requests);
    let other = world.pod();
    world.endpoints(&[pod.ip, other.ip], &[]);
    pod.queue.signal("KILL");
    pod.queue.exit();
    other
}

#[test]
fn given_requests_on_a_pod_when_it_is_killed_then_those_that_may_be_repeated_are_served_by_another() {
    for tls in [false, true] {
        let (world, activator, pod) = with_a_silent_pod(tls, |builder| builder);
        let mut safe = activator.ask();
        let mut empty = Raw::plain(activator.http1);
        empty.send(format!("DELETE / HTTP/1.1\r\nHost: x\r\n{}\r\n", named(NAMESPACE, REVISION)));
        let mut unsafe_one = Raw::plain(activator.http1);
        unsafe_one
            .send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{}\r\n", named(NAMESPACE, REVISION)));
        let mut body = Raw::plain(activator.http1);
        body.send(format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n{}\r\nhi", named(NAMESPACE, REVISION)));

        let other = replace(&world, pod, 4);

        assert_eq!((safe.reply().status(), empty.reply().status()), (200, 200), "TLS: {tls}");
        for client in [&mut unsafe_one, &mut body] {
            let reply = client.reply();
            assert_eq!(reply.status(), 502, "TLS: {tls}");
            let cause = reply.header("x-lockkeeper-cause").unwrap_or_default().to_owned();
            assert!(["upstream_eof", "upstream_reset"].contains(&cause.as_str()), "{cause}");
        }
        assert_eq!(count(&other.app), 2);
    }
}

#[test]
fn given_http2_requests_on_a_pod_when_it_is_killed_then_those_that_may_be_repeated_are_served_by_another() {
    for tls in [false, true] {
        let (world, activator, pod) = with_a_silent_pod(tls, |builder| builder);
        let port = activator.h2c;
        let ask = move |method: &'static str| {
            std::thread::spawn(move || {
                run(async {
                    let mut connection = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
                    let request = connection
                        .request(method, "x", "/")
                        .header("knative-serving-namespace", NAMESPACE)
                        .header("knative-serving-revision", REVISION)
                        .body(Outgoing::whole(""))
                        .unwrap();
                    connection.fetch(request).await.unwrap().status
                })
            })
        };
        let (safe, unsafe_one) = (ask("GET"), ask("POST"));

        let other = replace(&world, pod, 2);

        assert_eq!((safe.join().unwrap(), unsafe_one.join().unwrap()), (200, 502), "TLS: {tls}");
        assert_eq!(count(&other.app), 1);
    }
}

#[test]
fn given_the_setting_is_off_when_a_pod_is_killed_then_its_requests_are_answered_with_502() {
    let (world, activator, pod) = with_a_silent_pod(false, |builder| builder.env("LOCKKEEPER_RETRY_LOST", "false"));
    let mut client = activator.ask();

    let other = replace(&world, pod, 1);

    assert_eq!(client.reply().status(), 502);
    assert_eq!(count(&other.app), 0);
}

/// Once: a request that takes its pod down must not take all of them.
#[test]
fn given_a_request_that_was_lost_twice_when_there_is_a_third_pod_then_502() {
    let (world, activator, pod) = with_a_silent_pod(false, |builder| builder);
    let mut client = activator.ask();
    eventually("it is on the first pod", || count(&pod.app) == 1);
    let mut second = world.pod_with(silent(), |builder| builder);
    let mut first = pod;
    world.endpoints(&[second.ip], &[]);
    first.queue.signal("KILL");
    first.queue.exit();
    eventually("it is on the second pod", || count(&second.app) == 1);
    let third = world.pod();
    world.endpoints(&[second.ip, third.ip], &[]);
    second.queue.signal("KILL");
    second.queue.exit();

    assert_eq!(client.reply().status(), 502);
    assert_eq!(count(&third.app), 0);
}

/// The response has begun: nothing can be taken back.
#[test]
fn given_a_response_that_has_begun_when_the_pod_is_killed_then_the_caller_sees_it_end_early() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let app = App::start(|conn| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf");
            conn.more_within(patience());
        }
    });
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let mut client = activator.ask();
    assert_eq!(client.head().unwrap().status(), 200);
    assert_eq!(client.bytes(4), b"half");

    let other = replace(&world, pod, 1);

    assert!(client.closes());
    assert_eq!(count(&other.app), 0);
}

/// 5.5: a connection that turns out to be closed when it is used again: what Go's transport sends again goes out once more,
/// to the same pod, and nothing else does.
#[test]
fn given_a_pooled_connection_that_the_pod_gave_up_when_it_is_used_again_then_safe_requests_are_repeated() {
    let repeated = [("GET", ""), ("HEAD", ""), ("OPTIONS", ""), ("POST", "Idempotency-Key: 1\r\n")];
    let not = [("POST", ""), ("DELETE", ""), ("PUT", "")];
    let all = repeated.iter().map(|request| (request, true)).chain(not.iter().map(|request| (request, false)));
    for ((method, header), again) in all {
        let world = World::new(false);
        world.create(world.revision());
        // What is lost with its pod is another thing, and off.
        let builder = world.builder().env("WORKER_THREADS", 1).env("LOCKKEEPER_RETRY_LOST", "false");
        let activator = Activator::of(builder, false);
        let ip = free_ip();
        let pod = App::listen(std::net::TcpListener::bind((ip, 8012)).unwrap(), |conn| {
            // Whatever came before it, a request for /again is read, and nothing comes of it.
            let mut served = false;
            while let Some((head, _)) = conn.request() {
                if served && head.target() == "/again" {
                    return;
                }
                conn.send(ok(if head.get("k-network-probe").is_some() { "queue" } else { "ok" }));
                served = true;
            }
        });
        world.endpoints(&[ip], &[]);
        assert_eq!(activator.get().status(), 200);
        let mut client = Raw::plain(activator.http1);
        let head = named(NAMESPACE, REVISION);
        client.send(format!("{method} /again HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n{header}{head}\r\n"));
        let status = client.head().unwrap().status();
        assert_eq!(status, if again { 200 } else { 502 }, "{method} {header}");
        let asked = pod.seen().iter().filter(|head| head.target() == "/again").count();
        assert_eq!(asked, if again { 2 } else { 1 }, "{method} {header}");
    }
}
