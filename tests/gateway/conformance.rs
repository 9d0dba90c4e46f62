//! Contract, section 10.1: Knative's ingress conformance by the names of its tests, with upstreams in plaintext and with
//! system-internal TLS. `update` is in `changes`, `ingressclass` in `routing`: they need more than a request and its answer.
use std::collections::{BTreeMap, BTreeSet};

use lockkeeper::local::client::{Answer, Connection, Outgoing, Protocol, read};
use lockkeeper::local::pki::Authority;
use serde_json::{Value, json};

use super::callers::{ask, connect};
use super::harness::{
    Directory, Gateway, NAMESPACE, SYSTEM, authority, builder, get_with, ingress, rule, secret, split, way_back,
    with_tls,
};
use crate::support::binary::queue;
use crate::support::client::{Raw, local, run};
use crate::support::objects::{config_map, trust_bundle};
use crate::support::pki::Pki;
use crate::support::wait::eventually;

/// One of the tests, on a gateway that serves [`objects`].
type Check = fn(&mut Gateway, &Authority);

const TESTS: &[(&str, Check)] = &[
    ("basics", |gateway, _| assert!(page(gateway, "basics", "").contains("HTTP/1.1"))),
    ("basics/http2", |gateway, _| assert!(page(gateway, "h2", "").contains("HTTP/2.0"))),
    ("headers/pre-split", |gateway, _| {
        let page = page(gateway, "pre", "Who: bogus\r\n");
        assert!(page.contains("who: pre") && !page.contains("bogus"), "{page}");
    }),
    ("headers/post-split", |gateway, _| {
        let all: BTreeSet<String> = (0..100)
            .map(|_| page(gateway, "post", "Who: bogus\r\n"))
            .map(|page| page.lines().find(|line| line.starts_with("who: ")).unwrap().to_owned())
            .collect();
        // That one of four is not among a hundred: 1 in 10^12.
        assert_eq!(all.len(), 4, "{all:?}");
    }),
    ("hosts/multiple", |gateway, _| {
        for host in ["m1", "m2", "m3", "m4"] {
            assert!(page(gateway, host, "").contains(&format!("host: {host}")));
        }
    }),
    ("dispatch/rule", |gateway, _| {
        assert!(page(gateway, "rule-a", "").contains("who: a"));
        assert!(page(gateway, "rule-b", "").contains("who: b"));
    }),
    ("headers/probe", |gateway, _| {
        let port = gateway.http();
        let told = |hash: &str| {
            let headers = format!("K-Network-Probe: probe\r\nK-Network-Hash: {hash}\r\n");
            let reply = get_with(port, "basics", "/healthz", &headers);
            assert_eq!(reply.status(), 200);
            reply.header("k-network-hash").unwrap_or_default().to_owned()
        };
        let (own, another) = (told("override"), "a5".repeat(32));
        assert!(own.len() == 64 && own != another, "{own}");
        assert_eq!(told(&another), another);
    }),
    ("timeout", |gateway, _| {
        let port = gateway.http();
        let asked = |path: &'static str| std::thread::spawn(move || get_with(port, "basics", path, "").status());
        // No header for a while, and no body for a while after the header.
        let all = ["/slow?ms=0", "/slow?ms=2000", "/sse?n=2&ms=2000"].map(asked);
        assert_eq!(all.map(|one| one.join().unwrap()), [200; 3]);
    }),
    ("retry", |gateway, _| {
        let failed = get_with(gateway.http(), "h2", "/status?code=503", "");
        assert_eq!((failed.status(), failed.header("x-lockkeeper-cause")), (503, None));
        assert_eq!(get_with(gateway.http(), "h2", "/status?code=200", "").status(), 200);
    }),
    ("dispatch/percentage", |gateway, _| {
        let mut callers: Vec<_> = (0..8).map(|_| Raw::plain(gateway.http())).collect();
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..1000 / callers.len() {
            // All of them ask before one is answered.
            for caller in &mut callers {
                caller.send("GET / HTTP/1.1\r\nHost: tenths\r\n\r\n");
            }
            for caller in &mut callers {
                *counts.entry(who_says(&caller.reply().text())).or_default() += 1;
            }
        }
        for (share, percent) in SHARES.iter().enumerate() {
            let count = counts.get(&format!("share-{share}")).copied().unwrap_or(0);
            // Ten points either way, as the conformance test has it: 6 standard deviations.
            let near = count.abs_diff(percent * 10) <= 100 && (*percent > 0 || count == 0);
            assert!(near, "{count} of 1000 for {percent} %: {counts:?}");
        }
    }),
    ("host-rewrite", |gateway, _| {
        for host in ["vanity-a", "vanity-b"] {
            let page = page(gateway, host, "");
            assert!(page.contains("host: app.ns1.svc.cluster.local"), "{page}");
        }
    }),
    ("tls", |gateway, ca| {
        assert_eq!(get_with(gateway.http(), "secured", "/", "").status(), 200);
        assert_eq!(over_tls(gateway, ca, "secured"), 200);
    }),
    ("httpoption", |gateway, ca| {
        let redirected = get_with(gateway.http(), "redirected", "/x", "");
        assert_eq!((redirected.status(), redirected.header("location")), (301, Some("https://redirected/x")));
        assert_eq!(over_tls(gateway, ca, "redirected"), 200);
    }),
    ("websocket", |gateway, _| {
        let mut socket = websocket(gateway.http(), "basics");
        (0..100).for_each(|_| echo(&mut socket));
    }),
    ("websocket/split", |gateway, _| {
        let port = gateway.http();
        for _ in 0..40 {
            echo(&mut websocket(port, "h2-split"));
        }
        eventually("both backends have been asked", || upstreams(gateway, "/ws").len() == 2);
    }),
    ("visibility", |gateway, _| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        for host in ["app.ns1.svc.cluster.local", "app.ns1.svc", "app.ns1"] {
            assert_eq!(get_with(external, host, "/", "").status(), 404, "{host}");
            assert_eq!(get_with(internal, host, "/", "").status(), 200, "{host}");
        }
    }),
    ("dispatch/path", |gateway, _| {
        for (path, who) in [("/page/foo", "foo"), ("/page/bar", "bar"), ("/", "rest"), ("/page/asdf", "rest")] {
            assert_eq!(who_of(gateway.http(), "paths", path, ""), who, "{path}");
        }
    }),
    ("dispatch/path_and_percentage", |gateway, _| {
        let port = gateway.http();
        let (mut x, total) = (0_u32, 400);
        for _ in 0..total {
            x += u32::from(who_of(port, "halves", "/page/foo", "") == "x");
        }
        // 15 points either way, as the conformance test has it: 6 standard deviations.
        assert!((total * 35 / 100..=total * 65 / 100).contains(&x), "{x} of {total}");
        assert_eq!(who_of(port, "halves", "/", ""), "rest");
    }),
    ("headers/tags", |gateway, _| {
        let port = gateway.http();
        for (header, who) in [("t", "tag"), ("", "rest"), ("other", "rest")] {
            let line = format!("Knative-Serving-Tag: {header}\r\n");
            assert_eq!(who_of(port, "tags", "/", &line), who, "{header:?}");
        }
        assert_eq!(who_of(port, "tags", "/", ""), "rest");
    }),
    ("visibility/split", |gateway, _| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        assert_eq!(get_with(external, "split.ns1", "/", "").status(), 404);
        let all: BTreeSet<_> = (0..100).map(|_| who_of(internal, "split.ns1", "/", "")).collect();
        // That one of two is not among a hundred: 1 in 10^30.
        assert_eq!(all, BTreeSet::from(["x".to_owned(), "y".to_owned()]));
    }),
    ("visibility/path", |gateway, _| {
        let (external, internal) = (gateway.http(), gateway.internal_http());
        for (path, who) in [("/page/foo", "foo"), ("/page/bar", "bar"), ("/", "rest"), ("/page/asdf", "rest")] {
            assert_eq!(get_with(external, "path.ns1", path, "").status(), 404, "{path}");
            assert_eq!(who_of(internal, "path.ns1", path, ""), who, "{path}");
        }
    }),
    ("grpc", |gateway, _| {
        let port = gateway.http();
        let answer = run(async move {
            let mut caller = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
            grpc(&mut caller, "h2", 100).await
        });
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    }),
    ("grpc/split", |gateway, _| {
        let port = gateway.http();
        run(async move {
            let mut caller = Connection::open(local(port), None, Protocol::Http2).await.unwrap();
            for _ in 0..40 {
                let answer = grpc(&mut caller, "h2-split", 1).await;
                assert_eq!(answer.trailers.unwrap()["grpc-status"], "0", "on one connection");
            }
        });
        eventually("both backends have been asked", || upstreams(gateway, "/grpc.Echo/Stream").len() == 2);
    }),
];

/// The percentages of `dispatch/percentage`.
const SHARES: [u32; 10] = [1, 2, 4, 8, 16, 32, 37, 0, 0, 0];

/// The upstreams that the access log names for requests of a path to the host with two backends. That one of two is not
/// among forty: 1 in 10^12.
fn upstreams(gateway: &Gateway, path: &str) -> BTreeSet<String> {
    let lines = gateway.binary.log.lines(|line| line.contains(path) && line.contains("h2-split"));
    lines.iter().filter_map(|line| line.split('"').nth_back(1).map(str::to_owned)).collect()
}

fn over_tls(gateway: &mut Gateway, ca: &Authority, host: &str) -> u16 {
    ask(&mut connect(gateway.https(), ca, host), host)
}

fn websocket(port: u16, host: &str) -> Raw {
    let mut socket = Raw::plain(port);
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: a";
    socket.send(format!("GET /ws HTTP/1.1\r\nHost: {host}\r\n{upgrade}\r\n\r\n"));
    assert_eq!(socket.head().unwrap().status(), 101);
    socket
}

/// A text frame there (a mask of zeros leaves it as it is) and back.
fn echo(socket: &mut Raw) {
    socket.send(b"\x81\x84\0\0\0\0ping");
    assert_eq!(socket.bytes(6), b"\x81\x04ping");
}

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
    who_says(&reply.text())
}

#[track_caller]
fn who_says(page: &str) -> String {
    page.lines().find_map(|line| line.strip_prefix("who: ")).unwrap_or_else(|| panic!("no share in {page}")).to_owned()
}

/// One Ingress with all rules that need no further object, and one each for the others; splits name the Service's plain or
/// its TLS port.
fn objects(port: u16) -> Vec<Value> {
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
    let shares = SHARES.iter().enumerate();
    let tenths: Vec<_> = shares.map(|(share, percent)| to("app", *percent, Some(&format!("share-{share}")))).collect();
    let mapping = json!({"rewriteHost": local[0], "splits": [split("way-back", 100)]});
    let secured = |host: &str, option: &str| {
        let mut object = with_tls(host, host, "cert", option);
        object["spec"]["rules"] = json!([one(host, "app", None)]);
        object
    };
    let all = ingress(
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
            rule("ExternalIP", &["tenths"], vec![json!({"splits": tenths})]),
        ]}),
    );
    let vanity = json!({"rules": [rule("ExternalIP", &["vanity-a", "vanity-b"], vec![mapping])]});
    let mapping = ingress("mapping", 1, vanity);
    vec![all, mapping, secured("secured", "Enabled"), secured("redirected", "Redirected")]
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
        directory.behind(name, port_name, &mut queue, tls);
    }
    directory.behind("app-h2-too", "http2", &mut another, tls);
    directory.apply(settings).apply(trust_bundle(SYSTEM, "bundle", ca.pem()));
    directory.apply(way_back("way-back"));
    directory.apply(secret("cert", &ca.leaf(&["secured", "redirected"], 2).unwrap()));
    for object in objects(if tls { 443 } else { 80 }) {
        directory.apply(object);
    }
    let mut gateway = directory.start(builder());
    for name in ["all", "mapping", "secured", "redirected"] {
        gateway.ready(name, 1);
    }
    for (name, test) in TESTS {
        eprintln!("{name}");
        test(&mut gateway, &ca);
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
