//! Contract, section 5: system-internal TLS while the cluster is being switched.
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::harness::{Directory, NAMESPACE, SYSTEM, app, builder, get, ingress, rule};
use super::tls::Upstream;
use crate::support::client::Raw;
use crate::support::objects::{config_map, trust_bundle};
use crate::support::wait::eventually;

/// The switch in `config-network` and the splits' ports change one after the other, in either direction: whatever is in
/// force in between, no request fails, and what is encrypted is what the splits say.
#[test]
fn given_steady_load_when_encryption_is_switched_on_and_off_then_no_request_fails() {
    let (directory, backend) = (Directory::new(), app("behind the queue"));
    let upstream = Upstream::new(&["kn-user-ns1"]);
    let mut queue = upstream.start(backend.port());
    let ports = json!([{"name": "http", "port": 80}, {"name": "https", "port": 443}]);
    let mut slice = super::harness::slice("app", 0, "http", queue.http());
    slice["ports"] = json!([{"name": "http", "port": queue.http()}, {"name": "https", "port": queue.tls()}]);
    let object = |generation: u64, port: u16| {
        let to = json!({"serviceNamespace": NAMESPACE, "serviceName": "app", "servicePort": port, "percent": 100});
        ingress("app", generation, json!({"rules": [rule("ExternalIP", &["a"], vec![json!({"splits": [to]})])]}))
    };
    let network = |on: &str| config_map(SYSTEM, "config-network").entry("system-internal-tls", on);
    directory
        .apply(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": NAMESPACE, "name": "app"}, "spec": {"ports": ports}}))
        .apply(slice)
        .apply(object(1, 80))
        .apply(network("disabled"))
        .apply(trust_bundle(SYSTEM, "bundle", upstream.ca_pem()));
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
