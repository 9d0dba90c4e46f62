//! Thousands of objects: what a start costs, and that a change costs no more than what it touches.
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lockkeeper::local::app::LocalExecutor;
use lockkeeper::local::pki::Authority;
use serde_json::{Value, json};

use super::callers;
use super::cluster::Cluster;
use super::harness::{
    Directory, NAMESPACE, SYSTEM, authority, builder, get, ingress, path, rule, secret, service, simple, slice, split,
};
use crate::support::accept::accept;
use crate::support::app::{App, ok, response};
use crate::support::binary::Binary;
use crate::support::client::{Raw, local, run};
use crate::support::wait::eventually;

const LABEL: &str = "networking.internal.knative.dev/certificate-uid";

/// A cluster with so many Ingresses, each ready, with a host, a certificate, a Service and an address of its own.
struct World {
    cluster: Cluster,
    ca: Authority,
    backend: App,
}

fn host(index: usize) -> String {
    format!("app-{index}.example.com")
}

impl World {
    fn new(count: usize) -> Self {
        let backend = App::each(|head, _| match head.get("k-network-hash") {
            Some(hash) => response("200 OK", &[("K-Network-Hash", hash)], ""),
            None => ok(head.get("generation").unwrap_or("none")),
        });
        let world = Self { cluster: Cluster::new(), ca: authority(), backend };
        let objects = (0..count).flat_map(|index| {
            let name = format!("app-{index}");
            let mut ingress = world.ingress(index, "0");
            ingress["status"] = ready();
            let address = slice(&name, 0, "http", world.backend.port());
            [world.secret(index, 1), service(&name, "http"), address, ingress]
        });
        world.cluster.api.apply_all(objects.collect::<Vec<_>>());
        world
    }

    fn ingress(&self, index: usize, generation: &str) -> Value {
        let mut to = path("", &format!("app-{index}"));
        to["splits"] = json!([split(&format!("app-{index}"), 100)]);
        to["appendHeaders"] = json!({"Generation": generation});
        let host = host(index);
        ingress(
            &format!("app-{index}"),
            1,
            json!({
                "tls": [{"hosts": [host], "secretName": format!("cert-{index}"), "secretNamespace": NAMESPACE}],
                "rules": [rule("ExternalIP", &[&host], vec![to])]
            }),
        )
    }

    fn secret(&self, index: usize, serial: u64) -> Value {
        let leaf = self.ca.leaf(&[&host(index)], serial).unwrap();
        secret(&format!("cert-{index}"), &leaf).label(LABEL, "x").into()
    }

    fn shown(&self, port: u16, index: usize) -> Option<String> {
        callers::serial(port, &self.ca, &host(index)).ok()
    }
}

/// The status of an object that has been served before.
fn ready() -> Value {
    let condition = |kind| json!({"type": kind, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let balancer = |name| json!({"ingress": [{"domainInternal": format!("{name}.{SYSTEM}.svc.cluster.local")}]});
    let conditions = ["LoadBalancerReady", "NetworkConfigured", "Ready"].map(condition);
    json!({
        "observedGeneration": 1,
        "conditions": conditions,
        "publicLoadBalancer": balancer("kourier"),
        "privateLoadBalancer": balancer("kourier-internal"),
    })
}

/// Objects that were compiled and certificates that were parsed so far.
fn work(gateway: &mut Binary) -> (u64, u64) {
    let admin = gateway.port_of("Starting http server admin:");
    let text = get(admin, "x", "/metrics").text();
    let number = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    };
    (number("lockkeeper_gateway_compilations_total"), number("lockkeeper_gateway_certificates_read_total"))
}

#[test]
fn given_a_thousand_ingresses_when_one_thing_changes_then_that_alone_is_done_again() {
    let world = World::new(1000);
    let api = &world.cluster.api;
    let mut gateway = world.cluster.replica("one");
    let (plain, tls) = (gateway.port_of("Starting http server:"), gateway.port_of("Starting https server:"));
    assert_eq!(get(plain, &host(999), "/").text(), "0");
    assert_eq!(work(&mut gateway), (1000, 1000));

    api.apply(world.ingress(7, "new"));
    eventually("the route has changed", || get(plain, &host(7), "/").text() == "new");
    world.cluster.ready(NAMESPACE, "app-7");
    assert_eq!(work(&mut gateway), (1001, 1000), "one Ingress");

    api.apply(world.secret(8, 2));
    eventually("the certificate has changed", || world.shown(tls, 8).as_deref() == Some("2"));
    assert_eq!(work(&mut gateway), (1001, 1001), "one Secret");

    let other = App::each(|_, _| ok("other"));
    api.apply(slice("app-9", 0, "http", other.port()));
    eventually("the address has changed", || get(plain, &host(9), "/").text() == "other");
    assert_eq!(work(&mut gateway), (1001, 1001), "addresses touch no route");

    api.delete("ingresses", NAMESPACE, "app-10");
    eventually("the host is gone", || get(plain, &host(10), "/").status() == 404);
    assert_eq!(work(&mut gateway), (1001, 1001));
    let written = [7, 8, 9, 500].map(|index| world.cluster.writes(&format!("app-{index}")) > 0);
    assert_eq!(written, [true, false, false, false], "what was ready is not written again");
}

/// Section 12, item 14: of so many requests of one Service, Envoy with its defaults refuses those beyond 1,024; here all of
/// them are with the application at once.
#[test]
fn given_more_than_a_thousand_requests_of_one_service_when_all_of_them_wait_then_none_is_refused() {
    const CALLERS: usize = 6;
    const EACH: usize = 200;
    let all = Arc::new(tokio::sync::Barrier::new(CALLERS * EACH));
    let backend = accept(move |socket| {
        let all = all.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let all = all.clone();
            async move {
                if !request.headers().contains_key("k-network-hash") {
                    all.wait().await;
                }
                Ok::<_, Infallible>(Response::new(String::new()))
            }
        });
        async move {
            let server = hyper::server::conn::http2::Builder::new(LocalExecutor);
            let _ = server.serve_connection(TokioIo::new(socket), service).await;
        }
    });
    let directory = Directory::new();
    directory.backend("app", "http2", &[backend]).apply(simple("hello", "a.example.com", "app"));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();
    run(async move {
        let (mut connections, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..CALLERS {
            let socket = tokio::net::TcpStream::connect(local(port)).await.unwrap();
            let (mut caller, connection) = h2::client::handshake(socket).await.unwrap();
            tokio::task::spawn_local(connection);
            for _ in 0..EACH {
                caller = caller.ready().await.unwrap();
                let request = Request::get("http://a.example.com/").body(()).unwrap();
                answers.push(caller.send_request(request, true).unwrap().0);
            }
            connections.push(caller);
        }
        for answer in answers {
            assert_eq!(answer.await.unwrap().status(), 200);
        }
    });
}

/// Prints: from the start to ready, memory, and how long a change takes from its write to a request that shows it.
#[test]
#[ignore = "prints figures; minutes in a debug build"]
fn given_ten_thousand_ingresses_when_measured_then_a_change_is_in_force_soon() {
    const COUNT: usize = 10_000;
    let begin = Instant::now();
    let world = World::new(COUNT);
    println!("{COUNT} Ingresses, Secrets, Services and slices made in {:?}", begin.elapsed());
    let start = Instant::now();
    let mut gateway = world.cluster.builder("one").spawn();
    while gateway.log.lines(|line| line.contains("All objects are read")).is_empty() {
        assert!(start.elapsed() < Duration::from_secs(600) && gateway.poll().is_none(), "{}", gateway.log.text());
        std::thread::sleep(Duration::from_millis(5));
    }
    println!("start to ready: {:?}", start.elapsed());
    let (plain, tls) = (gateway.port_of("Starting http server:"), gateway.port_of("Starting https server:"));
    assert_eq!(get(plain, &host(COUNT - 1), "/").text(), "0");
    println!("memory: {} KiB, of its own {} KiB", gateway.memory(), gateway.memory_own());

    let mut caller = Raw::plain(plain);
    let mut ask = |index: usize| caller.send(format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", host(index))).reply().text();
    let routes = (0..300).map(|round| {
        let index = round * 31 % COUNT;
        let at = Instant::now();
        world.cluster.api.apply(world.ingress(index, &format!("r{round}")));
        while ask(index) != format!("r{round}") {
            assert!(at.elapsed() < Duration::from_secs(60));
        }
        at.elapsed()
    });
    print("a route", routes.collect());
    let certificates = (0..100_u64).map(|round| {
        let index = usize::try_from(round * 37).unwrap() % COUNT;
        let (serial, fresh) = (format!("{:x}", 0x100 + round), world.secret(index, 0x100 + round));
        let at = Instant::now();
        world.cluster.api.apply(fresh);
        while world.shown(tls, index).as_ref() != Some(&serial) {
            assert!(at.elapsed() < Duration::from_secs(60));
        }
        at.elapsed()
    });
    print("a certificate", certificates.collect());
    println!("memory: {} KiB, of its own {} KiB", gateway.memory(), gateway.memory_own());
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    println!("a change of {what}: median {:?}, p99 {:?}, longest {:?}", at(50), at(99), at(100));
}
