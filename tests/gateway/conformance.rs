//! Contract, section 10.1: Knative's ingress conformance by the names of its tests, with upstreams in plaintext and with
//! system-internal TLS. What needs more than a request and its answer stands in the files beside this one: paths,
//! percentages, probes, tags, rewrites and classes in `routing`, `tls` and `httpoption` in `tls`, `update`, `websocket`.
use std::collections::BTreeSet;

use lockkeeper::local::client::{Answer, Connection, Outgoing, Protocol, read};
use serde_json::{Value, json};

use super::harness::{Directory, Gateway, NAMESPACE, SYSTEM, authority, builder, get_with, ingress, rule};
use crate::support::binary::{Binary, queue};
use crate::support::client::{local, run};
use crate::support::objects::{config_map, trust_bundle};
use crate::support::pki::Pki;
use crate::support::wait::eventually;

/// One of the tests, on a gateway that serves [`objects`].
type Check = fn(&mut Gateway);

const TESTS: &[(&str, Check)] = &[
    ("basics", |gateway| assert!(page(gateway, "basics", "").contains("HTTP/1.1"))),
    ("basics/http2", |gateway| assert!(page(gateway, "h2", "").contains("HTTP/2.0"))),
    ("headers/pre-split", |gateway| {
        let page = page(gateway, "pre", "Who: bogus\r\n");
        assert!(page.contains("who: pre") && !page.contains("bogus"), "{page}");
    }),
    ("headers/post-split", |gateway| {
        let all: BTreeSet<String> = (0..100)
            .map(|_| page(gateway, "post", "Who: bogus\r\n"))
            .map(|page| page.lines().find(|line| line.starts_with("who: ")).unwrap().to_owned())
            .collect();
        // That one of four is not among a hundred: 1 in 10^12.
        assert_eq!(all.len(), 4, "{all:?}");
    }),
    ("hosts/multiple", |gateway| {
        for host in ["m1", "m2", "m3", "m4"] {
            assert!(page(gateway, host, "").contains(&format!("host: {host}")));
        }
    }),
    ("dispatch/rule", |gateway| {
        assert!(page(gateway, "rule-a", "").contains("who: a"));
        assert!(page(gateway, "rule-b", "").contains("who: b"));
    }),
    ("timeout", |gateway| {
        let reply = get_with(gateway.http(), "basics", "/slow?ms=1000", "");
        assert_eq!(reply.status(), 200);
    }),
    ("visibility", |gateway| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        for host in ["app.ns1.svc.cluster.local", "app.ns1.svc", "app.ns1"] {
            assert_eq!(get_with(external, host, "/", "").status(), 404, "{host}");
            assert_eq!(get_with(internal, host, "/", "").status(), 200, "{host}");
        }
    }),
    ("dispatch/path", |gateway| {
        for (path, who) in [("/page/foo", "foo"), ("/page/bar", "bar"), ("/", "rest"), ("/page/asdf", "rest")] {
            assert_eq!(who_of(gateway.http(), "paths", path, ""), who, "{path}");
        }
    }),
    ("dispatch/path_and_percentage", |gateway| {
        let port = gateway.http();
        let (mut x, total) = (0_u32, 400);
        for _ in 0..total {
            x += u32::from(who_of(port, "halves", "/page/foo", "") == "x");
        }
        // 15 points either way, as the conformance test has it: 6 standard deviations.
        assert!((total * 35 / 100..=total * 65 / 100).contains(&x), "{x} of {total}");
        assert_eq!(who_of(port, "halves", "/", ""), "rest");
    }),
    ("headers/tags", |gateway| {
        let port = gateway.http();
        for (header, who) in [("t", "tag"), ("", "rest"), ("other", "rest")] {
            let line = format!("Knative-Serving-Tag: {header}\r\n");
            assert_eq!(who_of(port, "tags", "/", &line), who, "{header:?}");
        }
        assert_eq!(who_of(port, "tags", "/", ""), "rest");
    }),
    ("visibility/split", |gateway| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        assert_eq!(get_with(external, "split.ns1", "/", "").status(), 404);
        let all: BTreeSet<_> = (0..100).map(|_| who_of(internal, "split.ns1", "/", "")).collect();
        // That one of two is not among a hundred: 1 in 10^30.
        assert_eq!(all, BTreeSet::from(["x".to_owned(), "y".to_owned()]));
    }),
    ("visibility/path", |gateway| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        for (path, who) in [("/page/foo", "foo"), ("/page/bar", "bar"), ("/", "rest"), ("/page/asdf", "rest")] {
            assert_eq!(get_with(external, "path.ns1", path, "").status(), 404, "{path}");
            assert_eq!(who_of(internal, "path.ns1", path, ""), who, "{path}");
        }
    }),
    ("grpc", |gateway| {
        let port = gateway.http();
        let answer = run(async move {
            let mut caller = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
            grpc(&mut caller, "h2", 100).await
        });
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    }),
    ("grpc/split", |gateway| {
        let port = gateway.http();
        run(async move {
            let mut caller = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
            for _ in 0..40 {
                let answer = grpc(&mut caller, "h2-split", 1).await;
                assert_eq!(answer.trailers.unwrap()["grpc-status"], "0", "on one connection");
            }
        });
        let upstreams = || {
            let log = gateway.binary.log.text();
            let lines = log.lines().filter(|line| line.contains("/grpc.Echo/Stream") && line.contains("h2-split"));
            lines.filter_map(|line| line.split('"').nth_back(1).map(str::to_owned)).collect::<BTreeSet<_>>()
        };
        // That one of two is not among forty: 1 in 10^12.
        eventually("both backends have been asked", || upstreams().len() == 2);
    }),
];

async fn grpc(caller: &mut Connection, host: &str, messages: usize) -> Answer {
    let request = caller.request("POST", host, "/grpc.Echo/Stream");
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let message = "\0\0\0\0\u{5}hello".repeat(messages);
    let answer = caller.send(request.body(Outgoing::whole(message.clone())).unwrap()).await.unwrap();
    let answer = read(answer).await.unwrap();
    assert_eq!((answer.status, String::from_utf8_lossy(&answer.body).into_owned()), (200, message));
    answer
}

#[track_caller]
fn page(gateway: &mut Gateway, host: &str, headers: &str) -> String {
    let reply = get_with(gateway.http(), host, "/", headers);
    assert_eq!(reply.status(), 200, "{host}: {}", reply.text());
    reply.text()
}

/// The header that tells the share or the path that was taken.
#[track_caller]
fn who_of(port: u16, host: &str, path: &str, headers: &str) -> String {
    let reply = get_with(port, host, path, headers);
    let page = reply.text();
    page.lines()
        .find_map(|line| line.strip_prefix("who: "))
        .unwrap_or_else(|| panic!("{host}{path}: {page}"))
        .to_owned()
}

/// One Ingress with all rules; splits name the Service's plain or its TLS port.
fn objects(port: u16) -> Value {
    let to = |service: &str, percent: u32, who: Option<&str>| {
        let mut split =
            json!({"serviceNamespace": NAMESPACE, "serviceName": service, "servicePort": port, "percent": percent});
        if let Some(who) = who {
            split["appendHeaders"] = json!({"Who": who});
        }
        split
    };
    let one = |host: &str, service: &str, who: Option<&str>| {
        rule("ExternalIP", &[host], vec![json!({"splits": [to(service, 100, who)]})])
    };
    let quarters: Vec<_> = ["w", "x", "y", "z"].map(|who| to("app", 25, Some(who))).into();
    let local = ["app.ns1.svc.cluster.local", "app.ns1.svc", "app.ns1"];
    let at = |path: &str, who: &str| json!({"path": path, "splits": [to("app", 100, Some(who))]});
    let paths = || vec![at("", "rest"), at("/page/foo", "foo"), at("/page/bar", "bar")];
    let halves = || json!([to("app", 50, Some("x")), to("app", 50, Some("y"))]);
    let mut tagged = at("", "tag");
    tagged["headers"] = json!({"Knative-Serving-Tag": {"exact": "t"}});
    ingress(
        "all",
        1,
        json!({"rules": [
            one("basics", "app", None),
            one("h2", "app-h2", None),
            rule("ExternalIP", &["pre"], vec![json!({"appendHeaders": {"Who": "pre"}, "splits": [to("app", 100, None)]})]),
            rule("ExternalIP", &["post"], vec![json!({"splits": quarters})]),
            rule("ExternalIP", &["m1", "m2", "m3", "m4"], vec![json!({"splits": [to("app", 100, None)]})]),
            one("rule-a", "app", Some("a")),
            one("rule-b", "app", Some("b")),
            rule("ClusterLocal", &local, vec![json!({"splits": [to("app", 100, None)]})]),
            rule("ExternalIP", &["paths"], paths()),
            rule("ExternalIP", &["halves"], vec![json!({"path": "/page/foo", "splits": halves()}), at("", "rest")]),
            rule("ExternalIP", &["tags"], vec![tagged, at("", "rest")]),
            rule("ClusterLocal", &["split.ns1"], vec![json!({"splits": halves()})]),
            rule("ClusterLocal", &["path.ns1"], paths()),
            rule("ExternalIP", &["h2-split"], vec![json!({"splits": [to("app-h2", 50, None), to("app-h2-too", 50, None)]})]),
        ]}),
    )
}

/// A Service whose slice leads to a queue.
fn backend(directory: &Directory, name: &str, port_name: &str, queue: &mut Binary, tls: bool) {
    let mut ports = vec![json!({"name": port_name, "port": 80})];
    let mut of_slice = vec![json!({"name": port_name, "port": queue.http()})];
    if tls {
        ports.push(json!({"name": "https", "port": 443}));
        of_slice.push(json!({"name": "https", "port": queue.tls()}));
    }
    directory.apply(json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": name},
        "spec": {"ports": ports}
    }));
    let mut slice = super::harness::slice(name, 0, port_name, 0);
    slice["ports"] = of_slice.into();
    directory.apply(slice);
}

fn check(tls: bool) {
    let app = lockkeeper::local::app::App::start(local(0)).unwrap();
    let (directory, ca, mut pki) = (Directory::new(), authority(), Pki::empty());
    pki.mount.publish_leaf(&ca.leaf(&["kn-user-ns1"], 1).unwrap(), &ca).unwrap();
    let mut settings = config_map(SYSTEM, "config-network");
    let mut queue = queue(app.addr().port());
    if tls {
        queue = queue.certs(pki.dir());
        settings = settings.entry("system-internal-tls", "enabled");
    }
    let (mut another, mut queue) = (queue.clone().start(), queue.start());
    for (name, port_name) in [("app", "http"), ("app-h2", "http2")] {
        backend(&directory, name, port_name, &mut queue, tls);
    }
    backend(&directory, "app-h2-too", "http2", &mut another, tls);
    directory.apply(settings).apply(trust_bundle(SYSTEM, "bundle", ca.pem()));
    directory.apply(objects(if tls { 443 } else { 80 }));
    let mut gateway = directory.start(builder());
    gateway.ready("all", 1);
    for (name, test) in TESTS {
        eprintln!("{name}");
        test(&mut gateway);
    }
}

#[test]
fn given_plain_upstreams_when_asked_then_the_ingress_conforms() {
    check(false);
}

#[test]
fn given_system_internal_tls_when_asked_then_the_ingress_conforms() {
    check(true);
}
