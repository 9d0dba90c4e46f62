//! Sections 5.1, 5.4 and 5.5: which revision, what a pod sees, and what passes.
use super::world::{NAMESPACE, REVISION, World, named};
use crate::support::app::{App, ok, response};
use crate::support::client::{Raw, get};
use crate::support::wait::eventually;

/// 5.1: a name that is none, and no name at all.
#[test]
fn given_names_of_no_revision_when_asked_then_404_in_the_original_s_words() {
    let world = World::new(false);
    let activator = world.start();
    let reply = get(activator.http1, "/", &named("demo", "nothing"));
    assert_eq!(reply.status(), 404);
    assert_eq!(reply.text(), "Error getting active endpoint: revision.serving.knative.dev \"nothing\" not found\n");
    assert_eq!(reply.header("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
    let reply = get(activator.http1, "/", "");
    assert_eq!(reply.text(), "Error getting active endpoint: revision.serving.knative.dev \"\" not found\n");
}

/// 5.1: the host names a revision too.
#[test]
fn given_the_host_of_a_revision_when_there_are_no_headers_then_it_is_found() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    let host = format!("{REVISION}.{NAMESPACE}.svc.cluster.local:80");
    let reply = Raw::plain(activator.http1).send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).reply();
    assert_eq!(reply.status(), 200);
    // The queue puts back what the activator kept.
    assert_eq!(pod.app.last().get("host"), Some(host.as_str()));
}

/// 5.4: what the application sees, through activator and queue.
#[test]
fn given_a_request_when_it_passes_then_its_headers_are_the_original_s() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let pod = world.pod();
        world.endpoints(&[pod.ip], &[]);
        let more = "K-Network-Hash: abc\r\nX-Forwarded-For: 1.2.3.4\r\nX-Forwarded-Proto: https\r\nConnection: X-Hop\r\nX-Hop: 1\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: x=y\r\nbaggage: b=c\r\nX-Forwarded-Host: first.example.com\r\nTE: trailers, gzip\r\n";
        assert_eq!(activator.ask_for(REVISION, more).reply().status(), 200);
        let seen = pod.app.last();
        assert_eq!(seen.target(), "/path?query");
        assert_eq!(seen.get("host"), Some("hello.example.com"));
        assert_eq!(seen.get("k-proxy-request"), Some("activator"));
        assert_eq!(seen.get("x-forwarded-for"), Some("1.2.3.4, 127.0.0.1, 127.0.0.1"));
        assert_eq!(seen.get("x-forwarded-proto"), Some("https"));
        assert_eq!(seen.get("x-forwarded-host"), Some("first.example.com"));
        assert_eq!((seen.get("tracestate"), seen.get("baggage")), (Some("x=y"), Some("b=c")));
        assert_eq!(seen.get("te"), Some("trailers"));
        assert!(seen.get("traceparent").is_some_and(|value| value.contains("b7ad6b7169203331")), "{tls}");
        for gone in ["knative-serving-revision", "knative-serving-namespace", "k-network-hash", "x-hop", "user-agent"] {
            assert_eq!(seen.get(gone), None, "{gone}");
        }
    }
}

/// 5.4: a client's own `K-Original-Host` is kept.
#[test]
fn given_an_original_host_when_the_caller_names_one_then_it_is_kept() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.ask_for(REVISION, "K-Original-Host: first.example.com\r\n").reply().status(), 200);
    assert_eq!(pod.app.last().get("host"), Some("first.example.com"));
}

/// 5.5: what the pod answers passes untouched, 503 included.
#[test]
fn given_the_application_answers_503_when_asked_then_it_passes() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let app = App::each(|_, _| response("503 Service Unavailable", &[("X-App", "1")], "busy"));
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let reply = activator.get();
    assert_eq!((reply.status(), reply.text().as_str(), reply.header("x-app")), (503, "busy", Some("1")));
}

/// 5.4: chunked both ways, trailers, keep-alive: several requests on one connection.
#[test]
fn given_a_connection_when_it_carries_several_requests_then_each_is_answered() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let app = App::each(|_, body| ok(&String::from_utf8_lossy(body)));
        let pod = world.pod_with(app, |builder| builder);
        world.endpoints(&[pod.ip], &[]);
        let mut client = activator.ask();
        assert_eq!(client.reply().status(), 200);
        for number in 0..5 {
            let head = named(NAMESPACE, REVISION);
            client.send(format!(
                "POST / HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\n{number}\r\n0\r\n\r\n"
            ));
            assert_eq!(client.reply().text(), format!("abc{number}"));
        }
    }
}

/// 5.4: upgrades pass; bytes go both ways afterwards.
#[test]
fn given_an_upgrade_when_the_application_switches_then_bytes_pass_both_ways() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
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
        let mut client = activator.ask_for(REVISION, "Connection: Upgrade\r\nUpgrade: echo\r\n");
        assert_eq!(client.head().unwrap().status(), 101, "TLS: {tls}");
        for word in ["hello", "again"] {
            assert_eq!(client.send(word).bytes(5), word.as_bytes());
        }
    }
}

/// 5.5 and A2: a revision whose only pod refuses: the request waits for it to come back.
#[test]
fn given_the_only_pod_restarts_when_a_request_comes_meanwhile_then_it_is_served() {
    for tls in [false, true] {
        let world = World::new(tls);
        world.create(world.revision());
        let activator = world.start();
        let mut pod = world.pod();
        world.endpoints(&[pod.ip], &[]);
        assert_eq!(activator.get().status(), 200);
        let ip = pod.ip;
        pod.queue.signal("KILL");
        pod.queue.exit();

        let mut client = activator.ask();
        assert!(client.reply_within(std::time::Duration::from_millis(200)).is_none(), "it waits");
        let _pod = world.pod_at(ip, NAMESPACE, App::ok(), |builder| builder);

        assert_eq!(client.reply().status(), 200, "TLS: {tls}");
    }
}

/// A9: once a pod took a request that may not be repeated, it is never sent again.
#[test]
fn given_a_pod_that_dies_with_a_request_when_the_request_is_a_post_then_502_and_no_second_try() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let app = App::start(|conn| {
        if conn.request().is_some() {
            conn.reset();
        }
    });
    let pod = world.pod_with(app, |builder| builder);
    world.endpoints(&[pod.ip], &[]);
    let head = named(NAMESPACE, REVISION);
    let mut client = Raw::plain(activator.http1);
    let reply = client.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{head}Content-Length: 2\r\n\r\nhi")).reply();
    assert_eq!(reply.status(), 502);
    eventually("it settles", || pod.app.open() == 0);
    assert_eq!(pod.app.seen().len(), 1);
}
