//! Contract, section 8, and the conformance suite's `update` at length: routes, addresses and certificates change under
//! load, what they led to before is killed the moment that the change is in force, and no request fails.
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockkeeper::local::pki::Authority;
use serde_json::json;

use super::callers;
use super::cluster::Cluster;
use super::harness::{
    Directory, NAMESPACE, app, authority, builder, get, get_with, ingress, rule, secret, simple, slice, split,
};
use crate::support::app::{App, ok, response};
use crate::support::client::Raw;
use crate::support::wait::eventually;

const HOST: &str = "a.example.com";

#[test]
fn given_steady_load_when_routes_addresses_and_certificates_change_then_no_request_fails() {
    changes(300);
}

#[test]
#[ignore = "the long version"]
fn given_steady_load_when_a_thousand_things_change_then_no_request_fails() {
    changes(1000);
}

/// A pod that says its name and the header that the route sets.
struct Pod {
    app: App,
    sockets: Arc<Mutex<Vec<TcpStream>>>,
}

impl Pod {
    fn start(name: &str) -> Self {
        let (name, sockets) = (name.to_owned(), Arc::<Mutex<Vec<TcpStream>>>::default());
        let kept = sockets.clone();
        let app = App::start(move |conn| {
            kept.lock().unwrap().push(conn.socket());
            while let Some((head, _)) = conn.request() {
                conn.send(match head.get("k-network-hash") {
                    Some(hash) => response("200 OK", &[("K-Network-Hash", hash)], ""),
                    None => ok(&format!("{name} {}", head.get("generation").unwrap_or("none"))),
                });
            }
        });
        Self { app, sockets }
    }

    /// As one that drains: it takes no connection, answers what has come, and closes every connection at once.
    fn kill(self) {
        drop(self.app);
        for socket in self.sockets.lock().unwrap().drain(..) {
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

/// Callers: some on connections that they keep, one with a handshake for each request.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    failures: Arc<Mutex<Vec<String>>>,
    callers: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(plain: u16, tls: u16, ca: Arc<Authority>) -> Self {
        let mut load =
            Self { stop: Arc::default(), asked: Arc::default(), failures: Arc::default(), callers: Vec::new() };
        for _ in 0..3 {
            let mut caller = Raw::plain(plain);
            load.caller(move || {
                let Some(reply) = caller.send(format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n")).try_reply() else {
                    caller = Raw::plain(plain);
                    return Err("no answer".to_owned());
                };
                match reply.status() {
                    200 => Ok(()),
                    status => Err(format!("{status} {:?}", reply.header("x-lockkeeper-cause"))),
                }
            });
        }
        load.caller(move || callers::serial(tls, &ca, HOST).map(drop).map_err(|error| format!("handshake: {error}")));
        load
    }

    fn caller(&mut self, mut ask: impl FnMut() -> Result<(), String> + Send + 'static) {
        let (stop, asked, failures) = (self.stop.clone(), self.asked.clone(), self.failures.clone());
        self.callers.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let result = ask();
                asked.fetch_add(1, Ordering::Relaxed);
                if let Err(why) = result {
                    failures.lock().unwrap().push(why);
                }
            }
        }));
    }

    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        self.callers.into_iter().for_each(|caller| caller.join().unwrap());
        self.asked.load(Ordering::Relaxed)
    }
}

fn changes(count: u32) {
    let (cluster, ca) = (Cluster::new(), Arc::new(authority()));
    let leaf = |serial: u32| secret("cert", &ca.leaf(&[HOST], serial.into()).unwrap());
    let route = |change: u32| {
        let mut to = split(&format!("app-{change}"), 100);
        to["appendHeaders"] = json!({"Generation": change.to_string()});
        let spec = json!({
            "tls": [{"hosts": [HOST], "secretName": "cert"}],
            "rules": [rule("ExternalIP", &[HOST], vec![json!({"splits": [to]})])]
        });
        let mut object = ingress("hello", 1, spec);
        // A write of the specification leaves the status as it is.
        object["status"] = cluster.ingress(NAMESPACE, "hello")["status"].clone();
        cluster.api.apply(object);
    };
    let mut pod = Pod::start("pod-0");
    cluster.backend("app-0", pod.app.port()).api.apply(leaf(0x1000));
    route(0);
    let mut gateway = cluster.replica("one");
    let (plain, tls) = (gateway.port_of("Starting http server:"), gateway.port_of("Starting https server:"));
    let ready = || {
        let object = cluster.ingress(NAMESPACE, "hello");
        object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && cluster.condition(NAMESPACE, "hello", "Ready").is_some_and(|ready| ready.0 == "True")
    };
    cluster.ready(NAMESPACE, "hello");
    let load = Load::start(plain, tls, ca.clone());

    let (mut routed, mut told, start) = (0, 0, Instant::now());
    for change in 1..=count {
        match change % 3 {
            0 => {
                let next = Pod::start(&format!("pod-{change}"));
                cluster.backend(&format!("app-{change}"), next.app.port());
                route(change);
                eventually("the new generation is ready", ready);
                std::mem::replace(&mut pod, next).kill();
                assert_eq!(get(plain, HOST, "/").text(), format!("pod-{change} {change}"));
                cluster.api.delete("services", NAMESPACE, &format!("app-{routed}"));
                cluster.api.delete("endpointslices", NAMESPACE, &format!("app-{routed}-0"));
                routed = change;
            }
            1 => {
                let next = Pod::start(&format!("pod-{change}"));
                cluster.api.apply(slice(&format!("app-{routed}"), 0, "http", next.app.port()));
                let expected = format!("pod-{change} {routed}");
                eventually("the new address answers", || get(plain, HOST, "/").text() == expected);
                std::mem::replace(&mut pod, next).kill();
            }
            _ => {
                let serial = format!("{:x}", 0x1000 + change);
                cluster.api.apply(leaf(0x1000 + change));
                eventually("the new certificate is shown", || {
                    callers::serial(tls, &ca, HOST).is_ok_and(|shown| shown == serial)
                });
            }
        }
        let failures = load.failures.lock().unwrap();
        if failures.len() > told {
            eprintln!("change {change}: {:?}", failures.get(told..).map(|new| (new.len(), new.first())));
            told = failures.len();
        }
    }
    let took = start.elapsed();
    // What is killed last must not take a request with it either.
    std::thread::sleep(Duration::from_millis(50));
    let failures = load.failures.clone();
    let asked = load.end();
    eprintln!("{count} changes in {took:?}, {asked} requests, {} failed", failures.lock().unwrap().len());
    assert_eq!(failures.lock().unwrap().len(), 0, "of {asked}");
    assert!(asked > count, "{asked}");
}

/// A request that went by routes that changed under it, to an upstream that is gone with them: it takes the new routes, with
/// their headers and without those of the old ones.
#[test]
fn given_a_request_under_way_when_its_route_and_its_upstream_go_then_the_new_route_serves_it() {
    let directory = Directory::new();
    let (asked, told) = std::sync::mpsc::channel::<()>();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let ended = Mutex::new(ended);
    let old = App::start(move |conn| {
        while let Some((head, _)) = conn.request() {
            if let Some(hash) = head.get("k-network-hash") {
                conn.send(response("200 OK", &[("K-Network-Hash", hash)], ""));
                continue;
            }
            let _ = asked.send(());
            // Until the routes have changed; then it is gone without a word.
            let _ = ended.lock().unwrap().recv();
            return;
        }
    });
    let new = app("new");
    let route = |generation: u64, service: &str, header: &str| {
        let mut to = split(service, 100);
        to["appendHeaders"] = json!({header: service, "Both": service});
        ingress("hello", generation, json!({"rules": [rule("ExternalIP", &[HOST], vec![json!({"splits": [to]})])]}))
    };
    directory.backend("old", "http", &[old.port()]).backend("new", "http", &[new.port()]);
    let mut gateway = {
        directory.apply(route(1, "old", "Old"));
        directory.start(builder())
    };
    gateway.ready("hello", 1);
    let port = gateway.http();

    let caller =
        std::thread::spawn(move || get_with(port, HOST, "/", "Old: the caller's\r\nOld: second\r\nBoth: x\r\n").text());
    told.recv_timeout(Duration::from_secs(20)).unwrap();
    gateway.directory.apply(route(2, "new", "New"));
    gateway.ready("hello", 2);
    drop(old);
    end.send(()).unwrap();

    assert_eq!(caller.join().unwrap(), "new");
    let head = new.last();
    assert_eq!((head.all("old"), head.all("new")), (vec!["the caller's", "second"], vec!["new"]));
    assert_eq!(head.all("both"), ["new"]);
}

/// An HTTP/1.1 caller's host stays what it is when the first upstream, asked over HTTP/2, is not there.
#[test]
fn given_an_http2_upstream_that_is_not_there_when_another_one_is_asked_then_it_is_told_the_callers_host() {
    let (directory, alive) =
        (Directory::new(), lockkeeper::local::app::App::start(([127, 0, 0, 1], 0).into()).unwrap());
    let gone = crate::support::port::free_port();
    directory.backend("app", "http2", &[gone, alive.addr().port()]).apply(simple("hello", HOST, "app"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("the route is there", || get(port, HOST, "/").status() == 200);

    for _ in 0..10 {
        let page = get(port, HOST, "/").text();
        assert!(page.contains(&format!("GET http://{HOST}/ HTTP/2.0")), "{page}");
    }
}
