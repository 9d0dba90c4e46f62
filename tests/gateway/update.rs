//! Contract, section 8: changes and the end of a process lose no request.
use super::harness::{Directory, NAMESPACE, app, builder, get, simple};
use crate::support::app::{App, ok};
use crate::support::client::Raw;
use crate::support::objects::config_map;
use crate::support::wait::eventually;

/// Addresses that come and go act without a change of the routes.
#[test]
fn given_new_addresses_when_the_old_ones_go_then_requests_follow() {
    let directory = Directory::new();
    let (first, second) = (app("first"), app("second"));
    directory.backend("app", "http", &[first.port()]).apply(simple("hello", "a", "app"));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();

    gateway.directory.apply(super::harness::slice("app", 0, "http", second.port()));
    eventually("the second answers", || get(port, "a", "/").text() == "second");
    let before = first.count();
    for _ in 0..20 {
        assert_eq!(get(port, "a", "/").text(), "second");
    }
    assert_eq!(first.count(), before);

    gateway.directory.delete("EndpointSlice", NAMESPACE, "app-0");
    eventually("there is nobody", || get(port, "a", "/").status() == 503);
    gateway.directory.apply(super::harness::slice("app", 0, "http", first.port()));
    eventually("the first answers", || get(port, "a", "/").text() == "first");
}

/// Sections 3.6 and 8: a signal makes the replica unready at once, requests in flight end, and the process leaves.
#[test]
fn given_a_request_in_flight_when_told_to_leave_then_it_is_answered_first() {
    let directory = Directory::new();
    let slow = App::each(|head, _| {
        if head.get("k-network-hash").is_none() && head.target() == "/slow" {
            std::thread::sleep(std::time::Duration::from_millis(700));
        }
        ok("done")
    });
    directory.backend("app", "http", &[slow.port()]).apply(simple("hello", "a", "app"));
    let mut gateway = directory.start(builder().env("LOCKKEEPER_DRAIN_SETTLE", "300ms"));
    let (port, internal, admin) = (gateway.http(), gateway.internal_http(), gateway.admin());
    eventually("it serves", || get(port, "a", "/").status() == 200);
    assert_eq!(get(internal, "internalkourier", "/ready").status(), 200);
    assert_eq!(get(admin, "x", "/ready").status(), 200);

    let mut caller = Raw::plain(port);
    caller.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has arrived", || slow.seen().iter().any(|head| head.target() == "/slow"));
    gateway.binary.signal("TERM");

    eventually("unready", || get(admin, "x", "/ready").status() == 503);
    let reply = caller.reply();
    assert_eq!((reply.status(), reply.header("connection")), (200, Some("close")));
    assert_eq!(gateway.binary.exit().code(), Some(0));
}

/// net-kourier's `gracefulshutdown`: what takes longer than the drain time is cut.
#[test]
fn given_a_request_that_outlasts_the_drain_time_when_told_to_leave_then_it_is_cut() {
    let directory = Directory::new();
    let slow = App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "/stuck" {
                return conn.wait_close();
            }
            conn.send(ok("ok"));
        }
    });
    directory.backend("app", "http", &[slow.port()]).apply(simple("hello", "a", "app"));
    let mut gateway = directory.start(builder().env("DRAIN_TIME_SECONDS", 1));
    let port = gateway.http();
    eventually("it serves", || get(port, "a", "/").status() == 200);
    let mut caller = Raw::plain(port);
    caller.send("GET /stuck HTTP/1.1\r\nHost: a\r\n\r\n");
    eventually("the request has arrived", || slow.seen().iter().any(|head| head.target() == "/stuck"));

    gateway.binary.signal("TERM");

    assert!(caller.try_reply().is_none());
    assert_eq!(gateway.binary.exit().code(), Some(0));
}

/// net-kourier's `timeout`, and `proxyprotocol`: a silent stream is ended; the PROXY header is demanded and believed.
#[test]
fn given_stream_idle_timeout_and_proxy_protocol_when_set_then_both_act() {
    let directory = Directory::new();
    let backend = App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "/silent" {
                return conn.wait_close();
            }
            conn.send(ok("ok"));
        }
    });
    let config = || config_map("knative-serving", "config-kourier");
    directory
        .backend("app", "http", &[backend.port()])
        .apply(simple("hello", "a", "app"))
        .apply(config().entry("stream-idle-timeout", "300ms"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("it serves", || get(port, "a", "/").status() == 200);
    let reply = get(port, "a", "/silent");
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (504, Some("timeout_idle")));

    gateway.directory.apply(config().entry("enable-proxy-protocol", "true"));
    let proxied = |header: &str| {
        let mut caller = Raw::plain(port);
        caller.send(format!("{header}GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
        caller.try_reply().map(|reply| reply.status())
    };
    eventually("the header is demanded", || proxied("").is_none());
    assert_eq!(proxied("PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n"), Some(200));
    assert_eq!(backend.last().get("x-forwarded-for"), Some("192.0.2.7"));
    assert_eq!(get(gateway.internal_http(), "a", "/").status(), 200, "never on internal ports");
    // Ours: from where it is accepted, and on which port.
    let apply = |key: &str, value: &str| {
        gateway.directory.apply(config().entry("enable-proxy-protocol", "true").entry(key, value));
    };
    const HEADER: &str = "PROXY TCP4 192.0.2.7 127.0.0.1 4711 80\r\n";
    apply("proxy-protocol-sources", "10.0.0.0/8");
    eventually("it is not accepted from here", || proxied(HEADER).is_none());
    assert_eq!(proxied(""), None, "and nothing else is either");
    apply("proxy-protocol-sources", "10.0.0.0/8, 127.0.0.1");
    eventually("it is accepted from here", || proxied(HEADER) == Some(200));
    apply("proxy-protocol-listeners", "https");
    eventually("the plain port does without", || proxied("") == Some(200));
    assert_ne!(proxied(HEADER), Some(200));
}

/// Section 10.1, needed by ours: endpoints go to zero and come back; a split and a Service that name their ports.
#[test]
fn given_named_ports_when_the_endpoints_go_and_come_back_then_so_do_the_answers() {
    let (directory, backend) = (Directory::new(), app("one"));
    let mut object = simple("hello", "a", "app");
    object["spec"]["rules"][0]["http"]["paths"][0]["splits"][0]["servicePort"] = "web".into();
    let mut service = super::harness::service("app", "web");
    service["spec"]["ports"][0]["targetPort"] = "named".into();
    let slice = || super::harness::slice("app", 0, "web", backend.port());
    directory.apply(service).apply(slice()).apply(object);
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();
    assert_eq!(get(port, "a", "/").text(), "one");

    for _ in 0..3 {
        let mut none = slice();
        none["endpoints"][0]["conditions"]["ready"] = false.into();
        gateway.directory.apply(none);
        eventually("nobody is there", || get(port, "a", "/").header("x-lockkeeper-cause") == Some("no_endpoints"));
        gateway.directory.apply(slice());
        eventually("it is back", || get(port, "a", "/").text() == "one");
    }
}
