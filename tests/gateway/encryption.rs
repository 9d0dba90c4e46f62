//! Contract, section 5: system-internal TLS; upstreams must prove who they are, also while the cluster is being switched.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use lockkeeper::local::pki::Authority;
use serde_json::{Value, json};

use super::harness::{Directory, NAMESPACE, SYSTEM, app, builder, get, ingress, rule};
use crate::support::binary::{Binary, queue};
use crate::support::client::Raw;
use crate::support::objects::{Object, config_map, routing_certs, trust_bundle};
use crate::support::pki::Pki;
use crate::support::wait::{eventually, eventually_some};

/// A queue with a certificate of its own authority.
struct Upstream {
    pki: Pki,
    authority: Authority,
}

impl Upstream {
    fn new(names: &[&str]) -> Self {
        let (mut pki, authority) = (Pki::empty(), Authority::mint("upstreams").unwrap());
        let leaf = authority.leaf(names, 7).unwrap();
        pki.mount.publish_leaf(&leaf, &authority).unwrap();
        Self { pki, authority }
    }

    fn start(&self, application: u16) -> Binary {
        queue(application).certs(self.pki.dir()).start()
    }

    fn ca_pem(&self) -> &str {
        self.authority.pem()
    }
}

fn network(on: &str) -> Object {
    config_map(SYSTEM, "config-network").entry("system-internal-tls", on)
}

fn to_port(service: &str, port: u16) -> Value {
    json!({"serviceNamespace": NAMESPACE, "serviceName": service, "servicePort": port, "percent": 100})
}

/// System-internal TLS, switched while requests go on: a queue with the right name is reached, one with the name of
/// another namespace is refused and never spoken to in plaintext; a bundle that mixes good and bad counts.
#[test]
fn given_system_internal_tls_when_switched_on_then_the_upstream_must_prove_its_namespace() {
    let (directory, backend) = (Directory::new(), app("behind the queue"));
    let (right, wrong) = (Upstream::new(&["kn-user-ns1"]), Upstream::new(&["kn-user-ns2"]));
    let (mut good_queue, mut bad_queue) = (right.start(backend.port()), wrong.start(backend.port()));
    for (name, queue) in [("good", &mut good_queue), ("bad", &mut bad_queue)] {
        directory.behind(name, "http", queue, true);
    }
    let object = |name: &str, port: u16| {
        let host = format!("{name}.example.com");
        ingress(
            name,
            u64::from(port),
            json!({"rules": [rule("ExternalIP", &[&host], vec![json!({"splits": [to_port(name, port)]})])]}),
        )
    };
    let bundle = format!(
        "# first\n{}\n-----BEGIN CERTIFICATE-----\njunk\n-----END CERTIFICATE-----\n{}\n\n",
        right.ca_pem(),
        wrong.ca_pem()
    );
    directory
        .apply(object("good", 80))
        .apply(object("bad", 80))
        .apply(config_map(SYSTEM, "config-network"))
        .apply(trust_bundle(SYSTEM, "bundle", &bundle));
    let mut gateway = directory.start(builder());
    gateway.ready("good", 80);
    gateway.ready("bad", 80);
    let port = gateway.http();
    assert_eq!(get(port, "good.example.com", "/").status(), 200);

    // As Serving does it: the switch, and port 443 in the splits.
    gateway.directory.apply(network("Enabled"));
    gateway.directory.apply(object("good", 443)).apply(object("bad", 443));
    gateway.ready("good", 443);
    assert_eq!(get(port, "good.example.com", "/").text(), "behind the queue");
    let refused = eventually_some("the wrong name is refused", || {
        Some(get(port, "bad.example.com", "/"))
            .filter(|reply| reply.header("x-lockkeeper-cause") == Some("tls_san_mismatch"))
    });
    assert_eq!(refused.status(), 503);
    assert!(gateway.condition("bad", "Ready").is_some_and(|ready| ready.0 == "Unknown"));

    // A removed authority must not live on in connections that are open.
    gateway.directory.apply(trust_bundle(SYSTEM, "bundle", wrong.ca_pem()));
    eventually("its authority is not trusted any more", || get(port, "good.example.com", "/").status() == 503);
    gateway.directory.apply(trust_bundle(SYSTEM, "bundle", &bundle));
    eventually("trust is back", || get(port, "good.example.com", "/").status() == 200);
}

/// The switch in `config-network` and the splits' ports change one after the other, in either direction: whatever is in
/// force in between, no request fails, and what is encrypted is what the splits say.
#[test]
fn given_steady_load_when_encryption_is_switched_on_and_off_then_no_request_fails() {
    let (directory, backend) = (Directory::new(), app("behind the queue"));
    let upstream = Upstream::new(&["kn-user-ns1"]);
    let mut queue = upstream.start(backend.port());
    directory.behind("app", "http", &mut queue, true);
    let object = |generation: u64, port: u16| {
        let to = vec![json!({"splits": [to_port("app", port)]})];
        ingress("app", generation, json!({"rules": [rule("ExternalIP", &["a"], to)]}))
    };
    directory.apply(object(1, 80)).apply(network("disabled")).apply(trust_bundle(SYSTEM, "bundle", upstream.ca_pem()));
    let mut gateway = directory.start(builder());
    gateway.ready("app", 1);
    let (port, admin) = (gateway.http(), gateway.admin());
    let asked = Arc::new(AtomicU32::new(0));
    let (stop, failed) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (stop, asked, failed) = (stop.clone(), asked.clone(), failed.clone());
            std::thread::spawn(move || {
                let mut caller = Raw::plain(port);
                while !stop.load(Ordering::Relaxed) {
                    let reply = caller.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").reply();
                    asked.fetch_add(1, Ordering::Relaxed);
                    if reply.status() != 200 {
                        failed
                            .lock()
                            .unwrap()
                            .push((reply.status(), reply.header("x-lockkeeper-cause").map(str::to_owned)));
                    }
                }
            })
        })
        .collect();
    let some_requests = || {
        let until = asked.load(Ordering::Relaxed) + 50;
        eventually("requests go on", || asked.load(Ordering::Relaxed) >= until);
    };
    let encrypted = || {
        let config: serde_json::Value = serde_json::from_str(&get(admin, "x", "/config").text()).unwrap();
        let share = &config["hosts"][0]["external"][0]["shares"][0];
        (share["service"] == "ns1/app:443", share["upstreams"][0]["mustProve"] == json!(["kn-user-ns1"]))
    };
    let switched = |on: bool| {
        let told = format!("lockkeeper_gateway_encryption {}", u8::from(on));
        eventually("the switch is read", || get(admin, "x", "/stats/prometheus").text().contains(&told));
    };

    let mut generation = 1;
    for _ in 0..3 {
        for on in [true, false] {
            gateway.directory.apply(network(if on { "Enabled" } else { "Disabled" }));
            switched(on);
            some_requests();
            assert_eq!(encrypted().0, !on, "the splits are as before");
            generation += 1;
            gateway.directory.apply(object(generation, if on { 443 } else { 80 }));
            gateway.ready("app", generation);
            some_requests();
            eventually("the splits' word is in force", || encrypted() == (on, on));
        }
    }
    stop.store(true, Ordering::Relaxed);
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    assert_eq!(*failed.lock().unwrap(), [], "of {}", asked.load(Ordering::Relaxed));
}

/// `LOCKKEEPER_CLIENT_AUTH` of a queue: the gateway shows `routing-serving-certs`, and a new one from the next connection
/// on.
#[test]
fn given_a_queue_that_asks_for_a_certificate_when_the_gateway_calls_then_it_shows_its_own() {
    let (directory, backend, upstream) = (Directory::new(), app("behind the queue"), Upstream::new(&["kn-user-ns1"]));
    let mut queue = queue(backend.port()).certs(upstream.pki.dir()).env("LOCKKEEPER_CLIENT_AUTH", "require").start();
    let rules = json!([rule("ExternalIP", &["a"], vec![json!({"splits": [to_port("app", 443)]})])]);
    let own = |name: &str| {
        let leaf = upstream.authority.leaf(&[name], 9).unwrap();
        routing_certs(SYSTEM, &leaf.chain, &leaf.key, upstream.ca_pem())
    };
    directory
        .behind("app", "http", &mut queue, true)
        .apply(ingress("app", 1, json!({"rules": rules})))
        .apply(network("enabled"))
        .apply(own("kn-somebody-else"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    eventually("the route is there, and the queue refuses", || get(port, "a", "/").status() == 503);

    gateway.directory.apply(own("kn-routing"));
    eventually("the queue takes it", || get(port, "a", "/").text() == "behind the queue");
}

/// Section 12, item 10: solvers of ACME's challenges speak plain HTTP whatever the cluster does, or no certificate would
/// ever be renewed.
#[test]
fn given_encryption_when_a_path_leads_to_an_acme_solver_then_that_one_is_asked_in_plaintext() {
    let (directory, solver, backend) = (Directory::new(), app("solver"), app("behind the queue"));
    let upstream = Upstream::new(&["kn-user-ns1"]);
    let mut queue = upstream.start(backend.port());
    directory.behind("app", "http", &mut queue, true);
    let paths = vec![
        json!({"path": "/.well-known/acme-challenge/token", "splits": [to_port("solver", 80)]}),
        json!({"splits": [to_port("app", 443)]}),
    ];
    directory
        .backend("solver", "http", &[solver.port()])
        .apply(ingress("app", 1, json!({"rules": [rule("ExternalIP", &["a"], paths)]})))
        .apply(network("enabled"))
        .apply(trust_bundle(SYSTEM, "bundle", upstream.ca_pem()));
    let mut gateway = directory.start(builder());
    gateway.ready("app", 1);
    let port = gateway.http();
    assert_eq!(get(port, "a", "/.well-known/acme-challenge/token").text(), "solver");
    assert_eq!(get(port, "a", "/").text(), "behind the queue");
}

/// Section 12, item 9: `ca.crt` of `routing-serving-certs` is followed like a bundle; with no authority at all, the
/// condition says what is missing.
#[test]
fn given_the_authorities_of_the_secret_when_they_change_then_so_does_what_is_trusted() {
    let (directory, backend) = (Directory::new(), app("behind the queue"));
    let (upstream, other) = (Upstream::new(&["kn-user-ns1"]), Upstream::new(&["kn-user-ns1"]));
    let mut queue = upstream.start(backend.port());
    directory.behind("app", "http", &mut queue, true);
    let rules = json!([rule("ExternalIP", &["a"], vec![json!({"splits": [to_port("app", 443)]})])]);
    directory.apply(ingress("app", 1, json!({"rules": rules}))).apply(network("enabled"));
    let mut gateway = directory.start(builder());
    let port = gateway.http();
    let message = gateway.says("app", "Ready", "ReconcileIngressFailed");
    assert!(message.starts_with("failed to build trust-chain"), "{message}");
    assert_eq!(get(port, "a", "/").status(), 503, "never in plaintext, never unverified");

    let authorities = |pem: &str| routing_certs(SYSTEM, "", "", pem);
    gateway.directory.apply(authorities(upstream.ca_pem()));
    gateway.ready("app", 1);
    assert_eq!(get(port, "a", "/").text(), "behind the queue");
    gateway.directory.apply(authorities(other.ca_pem()));
    eventually("its authority is not trusted any more", || get(port, "a", "/").status() == 503);
    gateway.directory.apply(authorities(upstream.ca_pem()));
    eventually("it is again", || get(port, "a", "/").status() == 200);
}
