#![allow(clippy::unwrap_used)]
use http::HeaderMap;
use serde_json::{Value, json};

use super::*;
use crate::gateway::objects::LABEL_SERVICE;
use crate::gateway::route::table::Side;
use crate::kube::Object;

fn object<T: Object>(json: Value) -> Arc<T> {
    Arc::new(T::shrink(serde_json::from_value(json).unwrap()).unwrap().unwrap())
}

fn ingress(service: &str) -> Arc<Ingress> {
    ingress_of(&["a"], service)
}

fn ingress_of(hosts: &[&str], service: &str) -> Arc<Ingress> {
    let split = json!({"serviceNamespace": "ns", "serviceName": service, "servicePort": 80, "percent": 100});
    let rule = json!({"hosts": hosts, "visibility": "ExternalIP", "http": {"paths": [{"splits": [split]}]}});
    object(json!({
        "metadata": {"namespace": "ns", "name": "app", "generation": 1,
                     "annotations": {"networking.knative.dev/ingress.class": "class"}},
        "spec": {"rules": [rule]}
    }))
}

fn service() -> Arc<Service> {
    object(json!({"metadata": {"namespace": "ns", "name": "x"}, "spec": {"ports": [{"name": "http", "port": 80}]}}))
}

fn slice(service: &str) -> Arc<EndpointSlice> {
    object(json!({
        "metadata": {"namespace": "ns", "name": service, "labels": {LABEL_SERVICE: service}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["127.0.0.1"]}], "ports": [{"name": "http", "port": 8080}]
    }))
}

/// Whoever comes first, and in whatever order their names are: the owner's certificate is shown.
#[test]
fn given_objects_that_want_a_host_when_it_changes_hands_then_so_does_its_certificate() {
    for (older, younger) in [("a", "b"), ("b", "a")] {
        let (mut state, at) = (State::new("class", "system", &[]), Instant::now());
        let put = |state: &mut State, name: &str, created: &str| {
            let split = json!({"serviceNamespace": "ns", "serviceName": "x", "servicePort": 80});
            let ingress = object::<Ingress>(json!({
                "metadata": {"namespace": "ns", "name": name, "creationTimestamp": created,
                             "annotations": {"networking.knative.dev/ingress.class": "class"}},
                "spec": {"tls": [{"hosts": ["h"], "secretName": name}],
                         "rules": [{"hosts": ["h"], "http": {"paths": [{"splits": [split]}]}}]}
            }));
            let key = rcgen::KeyPair::generate().unwrap();
            let certificate = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
            let pair = [("tls.crt", certificate.pem()), ("tls.key", key.serialize_pem())];
            let data = pair.into_iter().map(|(k, v)| (k.to_owned(), v.into_bytes())).collect();
            state.secret(&Key::new("ns", name), Some(&Arc::new(Secret { data })));
            state.ingress(&Key::new("ns", name), Some(&ingress), at);
        };
        let shown = |state: &State| {
            let names = state.certificates.names(Side::External);
            names.find(Some("h")).map(|identity| String::from_utf8(identity.leaf.names[0].clone()).unwrap())
        };
        put(&mut state, younger, "2026-01-02T00:00:00Z");
        assert_eq!(shown(&state).as_deref(), Some(younger));
        put(&mut state, older, "2026-01-01T00:00:00Z");
        assert_eq!(shown(&state).as_deref(), Some(older));
        state.ingress(&Key::new("ns", older), None, at);
        assert_eq!(shown(&state).as_deref(), Some(younger));
    }
}

fn routed(state: &State) -> String {
    let table = state.owners.table();
    let route = table.find(Side::External, "a", "/", &HeaderMap::new()).unwrap().clone();
    route.shares[0].service.name.clone()
}

#[test]
fn given_new_routes_when_their_service_and_addresses_come_later_then_the_old_ones_serve_until_then() {
    let (mut state, at, key) = (State::new("class", "system", &[]), Instant::now(), Key::new("ns", "app"));
    state.ingress(&key, Some(&ingress("one")), at);
    assert_eq!(routed(&state), "one", "there is nothing else to serve");

    state.ingress(&key, Some(&ingress("two")), at);
    let hash = state.to_probe(&key).unwrap().hash;
    assert_eq!((routed(&state).as_str(), state.outcome(&key)), ("one", Some(Outcome::Waiting)));
    let table = state.owners.table();
    let old = table.find(Side::External, "a", "/", &HeaderMap::new()).unwrap();
    assert_ne!(old.origin.hash.to_str().unwrap(), hash, "probes ask for the new routes");
    state.service(&Key::new("ns", "two"), Some(service()), at);
    state.release(at);
    assert_eq!(routed(&state), "one");
    state.slice(&Key::new("ns", "two"), &slice("two"), false, at);
    state.release(at);
    assert_eq!(routed(&state), "two");
    assert_eq!(state.compiled(), 2);
}

#[test]
fn given_new_routes_that_lead_nowhere_when_they_have_waited_then_they_are_in_force_all_the_same() {
    let (mut state, at, key) = (State::new("class", "system", &[]), Instant::now(), Key::new("ns", "app"));
    state.ingress(&key, Some(&ingress("one")), at);
    state.ingress(&key, Some(&ingress("two")), at);
    state.ingress(&key, Some(&ingress("three")), at + HOLD / 2);
    state.release(at + HOLD - Duration::from_millis(1));
    assert_eq!(routed(&state), "one");

    state.release(at + HOLD);
    assert_eq!(routed(&state), "three", "a further change begins no new wait");

    let other = ingress_of(&["a", "b"], "three");
    state.ingress(&key, Some(&other), at + HOLD);
    assert_eq!(state.next_release(), None, "what leads nowhere as before holds nothing");
    assert!(state.owners.table().find(Side::External, "b", "/", &HeaderMap::new()).is_ok());

    state.ingress(&key, Some(&ingress("four")), at + HOLD);
    state.ingress(&key, None, at + HOLD);
    state.release(at + 3 * HOLD);
    assert!(state.owners.table().find(Side::External, "a", "/", &HeaderMap::new()).is_err(), "gone is gone");
}
