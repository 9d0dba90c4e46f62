#![allow(clippy::unwrap_used)]
use super::*;
use crate::gateway::objects::ServicePort;

fn service(ports: &[(&str, u16, Option<PortRef>)]) -> Arc<Service> {
    let port = |(name, port, target): &(&str, u16, Option<PortRef>)| ServicePort {
        name: (*name).to_owned(),
        port: *port,
        target_port: target.clone(),
        app_protocol: None,
    };
    Arc::new(Service { external_name: None, ports: ports.iter().map(port).collect() })
}

fn slice(of: &str, ready: &[&str], ports: &[(&str, u16)]) -> Arc<EndpointSlice> {
    Arc::new(EndpointSlice {
        service: of.to_owned(),
        ready: ready.iter().map(|ip| ip.parse().unwrap()).collect(),
        ports: ports.iter().map(|(name, port)| ((*name).to_owned(), *port)).collect(),
    })
}

fn identity(port: PortRef) -> Identity {
    let service = ServiceRef { namespace: "ns".to_owned(), name: "app".to_owned(), port };
    Identity { service, may_be_tls: true, http1_only: false }
}

fn told(backend: &Backend) -> Vec<(String, Vec<String>)> {
    let Place::Addresses(upstreams) = backend.state().place.clone() else { panic!("{:?}", backend.state()) };
    let text = |san: &ExpectedSan| san.names().iter().map(|n| String::from_utf8(n.clone()).unwrap()).collect();
    upstreams.iter().map(|u| (u.address.to_string(), u.expected.as_ref().map(text).unwrap_or_default())).collect()
}

#[test]
fn given_a_service_when_it_comes_changes_and_goes_then_its_backend_follows() {
    let at = Instant::now();
    let mut backends = Backends::new("knative-serving");
    let backend = backends.backend(identity(PortRef::Number(80)), at);
    assert_eq!(backend.state().place, Place::NoService);

    let key = Key::new("ns", "app");
    backends.service(&key, Some(service(&[("http", 80, None)])), at);
    assert!(told(&backend).is_empty());
    let of = slice("app", &["10.0.0.2", "10.0.0.1"], &[("http", 8012), ("https", 8112)]);
    backends.slice(&Key::new("ns", "app-1"), &of, false, at);
    assert_eq!(told(&backend), [("10.0.0.1:8012".to_owned(), vec![]), ("10.0.0.2:8012".to_owned(), vec![])]);
    assert_eq!(backend.state().protocol, Protocol::Http1);

    backends.service(&key, Some(service(&[("http2", 80, None)])), at);
    assert_eq!(backend.state().protocol, Protocol::Http2);
    backends.slice(&Key::new("ns", "app-1"), &of, true, at);
    assert!(told(&backend).is_empty());
    backends.service(&key, None, at);
    assert_eq!(backend.state().place, Place::NoService);
}

#[test]
fn given_ports_when_resolved_then_the_slices_number_counts_and_the_services_is_the_last_resort() {
    let at = Instant::now();
    for (port, target, slices, expected) in [
        (PortRef::Number(443), None, vec![("http", 8012), ("https", 8112)], 8112),
        (PortRef::Name("https".to_owned()), None, vec![("http", 8012), ("https", 8112)], 8112),
        (PortRef::Number(443), Some(PortRef::Name("tls".to_owned())), vec![("https", 9443)], 9443),
        (PortRef::Number(443), Some(PortRef::Number(9000)), vec![], 9000),
        (PortRef::Number(443), None, vec![], 443),
        (PortRef::Number(443), None, vec![("", 1234)], 1234),
    ] {
        let mut backends = Backends::new("knative-serving");
        backends.service(&Key::new("ns", "app"), Some(service(&[("http", 80, None), ("https", 443, target)])), at);
        backends.slice(&Key::new("ns", "app-1"), &slice("app", &["10.0.0.1"], &slices), false, at);
        let backend = backends.backend(identity(port), at);
        assert_eq!(told(&backend)[0].0, format!("10.0.0.1:{expected}"));
    }
}

#[test]
fn given_tls_when_an_address_is_an_activators_then_it_must_prove_that_once_the_slices_have_settled() {
    let at = Instant::now();
    let later = at + UNSETTLED;
    let mut backends = Backends::new("knative-serving");
    backends.set_tls(true, at);
    backends.service(&Key::new("ns", "app"), Some(service(&[("https", 443, None)])), at);
    let backend = backends.backend(identity(PortRef::Number(443)), at);
    let of = |ip| slice("app", &[ip], &[("https", 8112)]);
    let activators = slice("activator-service", &["10.0.0.9"], &[("https", 8112)]);
    backends.slice(&Key::new("knative-serving", "activator-service-1"), &activators, false, at);
    backends.slice(&Key::new("ns", "app-1"), &of("10.0.0.9"), false, at);
    assert_eq!(told(&backend)[0].1, ["kn-routing", "kn-user-ns"]);
    backends.settle(later);
    assert_eq!(told(&backend)[0].1, ["kn-routing"]);

    backends.slice(&Key::new("ns", "app-1"), &of("10.0.0.1"), false, later);
    assert_eq!(told(&backend)[0].1, ["kn-routing", "kn-user-ns"]);
    backends.settle(later + UNSETTLED);
    assert_eq!(told(&backend)[0].1, ["kn-user-ns"]);

    backends.set_tls(false, later);
    assert_eq!(told(&backend)[0].1, Vec::<String>::new());
}

#[test]
fn given_routes_that_are_gone_when_a_service_changes_then_their_backends_are_forgotten() {
    let at = Instant::now();
    let mut backends = Backends::new("knative-serving");
    let first = backends.backend(identity(PortRef::Number(80)), at);
    assert!(Arc::ptr_eq(&first, &backends.backend(identity(PortRef::Number(80)), at)));
    drop(first);

    backends.service(&Key::new("ns", "app"), None, at);

    assert!(backends.made.is_empty());
}
