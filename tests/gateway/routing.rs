//! Contract, sections 2, 3 and 10.1: which request goes where.
use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::cluster::Cluster;
use super::harness::{Directory, NAMESPACE, app, builder, get, get_with, ingress, path, rule, simple, split, way_back};
use crate::support::client::Raw;
use crate::support::objects::config_map;
use crate::support::wait::eventually;

/// `basics`, `headers/pre-split`, `headers/post-split`: a header of the route replaces the caller's, values are literal,
/// the path's value goes before the split's.
#[test]
fn given_a_route_with_headers_when_asked_then_the_backend_sees_them() {
    let (directory, backend) = (Directory::new(), app("one"));
    let mut to = split("app", 100);
    to["appendHeaders"] = json!({"Who": "split", "Odd": "%REQ(x)% 100%"});
    directory.backend("app", "http", &[backend.port()]).apply(ingress(
        "hello",
        1,
        json!({"rules": [rule("ExternalIP", &["hello.example.com"], vec![json!({"appendHeaders": {"Who": "path"}, "splits": [to]})])]}),
    ));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();

    let reply = get_with(port, "Hello.example.com:8080", "/x?y=z", "Who: caller\r\nX-Forwarded-For: 192.0.2.1\r\n");

    assert_eq!((reply.status(), reply.text().as_str(), reply.header("server")), (200, "one", Some("envoy")));
    assert!(reply.header("x-envoy-upstream-service-time").is_some());
    let head = backend.last();
    assert_eq!(head.target(), "/x?y=z");
    assert_eq!(head.all("who"), ["path"]);
    assert_eq!(head.get("odd"), Some("%REQ(x)% 100%"));
    assert_eq!(head.get("host"), Some("Hello.example.com:8080"), "as it was sent");
    assert_eq!(head.get("x-forwarded-for"), Some("192.0.2.1"), "passed on unchanged by default");
    assert_eq!(head.get("x-forwarded-proto"), Some("http"));
    assert!(head.get("x-request-id").is_some_and(|id| id.len() == 36));
}

/// `dispatch/path`, `headers/tags`, section 2.3: the longest prefix wins, headers choose, nothing is normalised.
#[test]
fn given_paths_and_header_matches_when_asked_then_the_longest_that_fits_wins() {
    let directory = Directory::new();
    let (rest, foo, tag) = (app("rest"), app("foo"), app("tag"));
    for (name, app) in [("rest", &rest), ("foo", &foo), ("tag", &tag)] {
        directory.backend(name, "http", &[app.port()]);
    }
    let mut tagged = path("/foo", "tag");
    tagged["headers"] = json!({"Knative-Serving-Tag": {"exact": "t"}});
    directory.apply(ingress(
        "hello",
        1,
        json!({"rules": [rule("ExternalIP", &["a.example.com"], vec![path("", "rest"), path("/foo", "foo"), tagged])]}),
    ));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();

    for (path, header, answer) in [
        ("/", "", "rest"),
        ("/foo", "", "foo"),
        ("/foobar", "", "foo"),
        ("/foo/../bar", "", "foo"),
        ("//foo", "", "rest"),
        ("/Foo", "", "rest"),
        ("/foo", "Knative-Serving-Tag: t\r\n", "foo"),
        ("/foo", "Knative-Serving-Tag: other\r\n", "foo"),
        ("/?x=/foo", "", "rest"),
    ] {
        let reply = get_with(port, "a.example.com", path, header);
        assert_eq!((reply.status(), reply.text().as_str()), (200, answer), "{path} {header}");
    }
    assert_eq!(tag.count(), 0, "among equals the order of the object counts");
}

/// `visibility`: local rules are not there from outside; section 2.4: under all three names inside.
#[test]
fn given_local_rules_when_asked_from_outside_then_they_are_not_there() {
    let (directory, backend) = (Directory::new(), app("local"));
    let hosts = ["app.ns1.svc.cluster.local", "app.ns1.svc", "app.ns1"];
    directory
        .backend("app", "http", &[backend.port()])
        .apply(ingress("local", 1, json!({"rules": [rule("ClusterLocal", &hosts, vec![path("", "app")])]})))
        .apply(simple("outer", "outer.example.com", "app"));
    let mut gateway = directory.start(builder());
    gateway.ready("local", 1);
    gateway.ready("outer", 1);
    let (external, internal) = (gateway.http(), gateway.internal_http());

    for host in hosts {
        let reply = get(external, host, "/");
        assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (404, Some("no_route_visibility")));
        assert_eq!(get(internal, host, "/").status(), 200, "{host}");
    }
    assert_eq!(get(internal, "outer.example.com", "/").status(), 200, "external rules are served inside too");
    let reply = get(external, "unknown.example.com", "/");
    assert_eq!((reply.status(), reply.text().as_str()), (404, ""));
}

/// `dispatch/percentage`: each share gets its part, 0 % nothing.
#[test]
fn given_shares_when_asked_many_times_then_each_gets_its_part() {
    let directory = Directory::new();
    let (most, few, none) = (app("most"), app("few"), app("none"));
    for (name, app) in [("most", &most), ("few", &few), ("none", &none)] {
        directory.backend(name, "http", &[app.port()]);
    }
    let splits = json!([split("few", 20), split("none", 0), split("most", 80)]);
    directory.apply(ingress(
        "hello",
        1,
        json!({"rules": [rule("ExternalIP", &["a"], vec![json!({"splits": splits})])]}),
    ));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let mut caller = Raw::plain(gateway.http());
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..1000 {
        let text = caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply().text();
        *counts.entry(text).or_default() += 1;
    }

    // Ten points either way, as the conformance test has it: 7.9 standard deviations.
    assert!((100..300).contains(&counts["few"]) && !counts.contains_key("none"), "{counts:?}");
}

/// `headers/probe`, section 3.4: `override` becomes the object's hash, another hash passes.
#[test]
fn given_a_hash_probe_when_it_asks_for_the_hash_then_the_backend_echoes_the_objects() {
    let (directory, backend) = (Directory::new(), app("one"));
    directory.backend("hello-00001", "http", &[backend.port()]).apply(ingress(
        "hello",
        1,
        json!({"rules": [rule("ExternalIP", &["hello.ns1.example.com"], vec![json!({"splits": [split("hello-00001", 100)]})])], "httpOption": "Enabled"}),
    ));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();

    for (sent, told) in
        [("override", "18b32029be972c96f126c67c35c036ba3edfcce9d88dd4400ab9060c990c7b56"), ("0123", "0123")]
    {
        let headers = format!("K-Network-Probe: probe\r\nK-Network-Hash: {sent}\r\n");
        let reply = get_with(port, "hello.ns1.example.com", "/healthz", &headers);
        assert_eq!((reply.status(), reply.header("k-network-hash")), (200, Some(told)));
    }
    get(port, "hello.ns1.example.com", "/");
    assert_eq!(backend.last().get("k-network-hash"), None, "nothing is added to other requests");
}

/// `host-rewrite`: the upstream is this gateway, so the way goes on inside the process; the header of a domain mapping
/// arrives.
#[test]
fn given_a_rewrite_that_leads_back_when_asked_then_no_second_hop_is_made() {
    let (directory, backend) = (Directory::new(), app("mapped"));
    let mut to = split("way-back", 100);
    to["appendHeaders"] = json!({"K-Original-Host": "vanity.example.com"});
    directory
        .backend("app", "http", &[backend.port()])
        .apply(ingress("local", 1, json!({"rules": [rule("ClusterLocal", &["app.ns1.svc.cluster.local"], vec![path("", "app")])]})))
        .apply(way_back("way-back"))
        .apply(ingress(
            "mapping",
            1,
            json!({"rules": [rule("ExternalIP", &["vanity.example.com"], vec![json!({"rewriteHost": "app.ns1.svc.cluster.local", "splits": [to]})])]}),
        ));
    let mut gateway = directory.start(builder());
    gateway.ready("mapping", 1);

    let reply = get(gateway.http(), "vanity.example.com", "/x");

    assert_eq!((reply.status(), reply.text().as_str()), (200, "mapped"));
    let head = backend.last();
    assert_eq!(head.get("host"), Some("app.ns1.svc.cluster.local"));
    assert_eq!(head.get("k-original-host"), Some("vanity.example.com"));
}

/// `ingressclass`: objects of another class, or of none, are not touched; one that is given to another class is let go.
#[test]
fn given_objects_of_other_classes_when_read_then_they_are_left_as_they_are() {
    const CLASS: &str = "networking.knative.dev/ingress.class";
    const OTHER: &str = "istio.ingress.networking.knative.dev";
    let (cluster, backend) = (Cluster::new(), app("one"));
    cluster.backend("app", backend.port());
    let of_class = |name: &str, annotations: Value| {
        let mut object = simple(name, &format!("{name}.example.com"), "app");
        object["metadata"]["annotations"] = annotations;
        cluster.api.apply(object);
    };
    of_class("nil", Value::Null);
    of_class("absent", json!({}));
    of_class("empty", json!({CLASS: ""}));
    of_class("wrong", json!({CLASS: OTHER}));
    let now = || ["nil", "absent", "empty", "wrong"].map(|name| cluster.ingress(NAMESPACE, name));
    let before = now();
    let mut gateway = cluster.replica("one");
    let port = gateway.port_of("Starting http server:");
    cluster.api.apply(simple("ours", "ours.example.com", "app"));
    cluster.ready(NAMESPACE, "ours");

    assert_eq!(now(), before);
    for object in &before {
        let name = object["metadata"]["name"].as_str().unwrap();
        assert_eq!((get(port, &format!("{name}.example.com"), "/").status(), cluster.writes(name)), (404, 0), "{name}");
    }
    of_class("ours", json!({CLASS: OTHER}));
    eventually("it is let go", || get(port, "ours.example.com", "/").status() == 404);
}

/// net-kourier's `e2e/conflict`: the oldest keeps a host; the next one gets it when the first is gone.
#[test]
fn given_two_objects_that_want_a_host_when_the_older_goes_then_the_younger_has_it() {
    let directory = Directory::new();
    let (first, second) = (app("first"), app("second"));
    let mut younger = simple("younger", "a.example.com", "second");
    younger["metadata"]["creationTimestamp"] = json!("2026-01-02T00:00:00Z");
    directory
        .backend("first", "http", &[first.port()])
        .backend("second", "http", &[second.port()])
        .apply(younger)
        .apply(simple("older", "a.example.com", "first"));
    let mut gateway = directory.start(builder());
    gateway.ready("older", 1);
    let port = gateway.http();
    gateway.says("younger", "LoadBalancerReady", "DomainConflict");
    assert_eq!(get(port, "a.example.com", "/").text(), "first");

    gateway.directory.delete("Ingress", "ns1", "older");

    gateway.ready("younger", 1);
    assert_eq!(get(port, "a.example.com", "/").text(), "second");
}

/// Section 6: an upstream that is not there is passed over; a Service without addresses answers 503, others go on.
#[test]
fn given_upstreams_that_are_gone_when_asked_then_another_one_answers() {
    let directory = Directory::new();
    let (alive, closed) = (app("alive"), crate::support::port::free_port());
    directory
        .backend("app", "http", &[closed, alive.port()])
        .backend("empty", "http", &[])
        .apply(simple("hello", "a.example.com", "app"))
        .apply(simple("nobody", "b.example.com", "empty"))
        .apply(simple("nothing", "c.example.com", "absent"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("the route is there", || get(port, "a.example.com", "/").status() == 200);

    for _ in 0..20 {
        let reply =
            Raw::plain(port).send("POST / HTTP/1.1\r\nHost: a.example.com\r\nContent-Length: 2\r\n\r\nhi").reply();
        assert_eq!((reply.status(), reply.text().as_str()), (200, "alive"));
    }
    for (host, cause) in [("b.example.com", "no_endpoints"), ("c.example.com", "no_service")] {
        let reply = get(port, host, "/");
        assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (503, Some(cause)));
    }
}

/// `retry`: what an upstream answers reaches the caller, a 503 too; an upgrade other than WebSocket is refused.
#[test]
fn given_an_answer_of_the_upstream_when_it_is_an_error_then_it_is_passed_on_once() {
    let directory = Directory::new();
    let backend =
        crate::support::app::App::each(|_, _| crate::support::app::response("503 Service Unavailable", &[], "mine"));
    directory.backend("app", "http", &[backend.port()]).apply(simple("hello", "a", "app"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("the route is there", || get(port, "a", "/x").text() == "mine");
    let before = backend.count();
    let mine = |seen: &crate::support::message::Head| seen.get("k-network-probe").is_none();

    let reply = get(port, "a", "/");
    assert_eq!((reply.status(), reply.header("x-lockkeeper-cause")), (503, None));
    let refused = get_with(port, "a", "/", "Connection: upgrade\r\nUpgrade: other\r\n");
    assert_eq!((refused.status(), refused.header("x-lockkeeper-cause")), (403, Some("upgrade_refused")));
    assert_eq!(backend.seen()[before..].iter().filter(|seen| mine(seen)).count(), 1);
    // Java's client offers this with each first request; it is nothing that the backend should hear of.
    let offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let ignored = get_with(port, "a", "/", offer);
    assert_eq!((ignored.text().as_str(), backend.last().get("upgrade")), ("mine", None));
}

/// Section 7: settings act while the gateway runs; one that can't be used leaves the previous ones.
#[test]
fn given_config_kourier_when_it_changes_then_it_acts_at_once_and_nonsense_is_refused() {
    let (directory, backend) = (Directory::new(), app("one"));
    directory
        .backend("app", "http", &[backend.port()])
        .apply(simple("hello", "a", "app"))
        .apply(config_map("knative-serving", "config-kourier").entry("use-remote-address", "false"));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();

    let trusted = config_map("knative-serving", "config-kourier").entry("use-remote-address", "true");
    gateway.directory.apply(trusted.entry("disable-envoy-server-header", "true"));
    eventually("the caller's address is the connection's", || {
        get_with(port, "a", "/", "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n");
        backend.last().get("x-forwarded-for") == Some("192.0.2.1, 127.0.0.1")
    });
    assert_eq!(backend.last().get("x-forwarded-proto"), Some("http"));
    assert_eq!(get(port, "a", "/").header("server"), None);

    // Ours: what a caller says of itself counts from addresses that are trusted alone.
    let said = "X-Forwarded-For: 192.0.2.1, 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Real-Ip: 192.0.2.1\r\n";
    let told = |name: &str| backend.last().get(name).map(str::to_owned);
    for (proxies, forwarded_for, proto, external, real) in [
        ("none", "127.0.0.1", "http", "127.0.0.1", None),
        ("127.0.0.0/8, 198.51.100.1", "192.0.2.1, 198.51.100.1, 127.0.0.1", "https", "192.0.2.1", Some("192.0.2.1")),
    ] {
        gateway.directory.apply(config_map("knative-serving", "config-kourier").entry("trusted-proxies", proxies));
        eventually(proxies, || {
            get_with(port, "a", "/", said);
            told("x-forwarded-for").as_deref() == Some(forwarded_for)
        });
        assert_eq!(told("x-forwarded-proto").as_deref(), Some(proto));
        assert_eq!(told("x-envoy-external-address").as_deref(), Some(external));
        assert_eq!(told("x-real-ip").as_deref(), real);
    }
    let trusted = config_map("knative-serving", "config-kourier").entry("use-remote-address", "true");
    gateway.directory.apply(trusted.entry("trusted-hops-count", "2"));
    eventually("two proxies are trusted", || {
        get_with(port, "a", "/", said);
        told("x-envoy-external-address").as_deref() == Some("192.0.2.1")
            && told("x-forwarded-for").as_deref() == Some("192.0.2.1, 198.51.100.1, 127.0.0.1")
    });

    gateway.directory.apply(config_map("knative-serving", "config-kourier").entry("stream-idle-timeout", "soon"));
    gateway.binary.logs("stream-idle-timeout");
    get_with(port, "a", "/", "X-Forwarded-For: 192.0.2.1\r\n");
    assert_eq!(backend.last().get("x-forwarded-for"), Some("192.0.2.1, 127.0.0.1"));
}
