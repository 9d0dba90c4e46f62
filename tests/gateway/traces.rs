//! Contract, section 6.6: traces over OTLP (net-kourier's `tracing`), switched while the gateway runs.
use std::sync::mpsc::Receiver;

use super::harness::{Directory, SYSTEM, app, builder, get, get_with, simple};
use crate::support::collector::{self, Seen};
use crate::support::objects::{Object, config_map};
use crate::support::pki::Pki;
use crate::support::wait::{eventually, patience};

const PARENT: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

fn traces(endpoint: &str, protocol: &str, rate: &str) -> Object {
    config_map(SYSTEM, "config-kourier")
        .entry("tracing-endpoint", endpoint)
        .entry("tracing-protocol", protocol)
        .entry("tracing-sampling-rate", rate)
        .entry("tracing-service-name", "the-edge")
}

/// The next push in which a text stands.
#[track_caller]
fn push_with(seen: &Receiver<Seen>, text: &str) -> (String, Vec<u8>) {
    loop {
        let (head, body) = seen.recv_timeout(patience()).expect("a push");
        if contains(&body, text) {
            return (head.uri.path().to_owned(), body);
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Both protocols, TLS for `https`, attributes by Envoy's names, the caller's trace goes on, and what is queued at the end
/// still goes out.
#[test]
fn given_a_collector_when_requests_pass_then_each_is_a_span_of_its_callers_trace() {
    let (directory, backend) = (Directory::new(), app("one"));
    let mut pki = Pki::new();
    let (http, http_seen) = collector::start(None, false);
    let (grpc, grpc_seen) = collector::start(Some(collector::over_tls(&mut pki, "h2")), true);
    directory.backend("app", "http", &[backend.port()]).apply(simple("hello", "a", "app"));
    directory.apply(traces(&format!("http://localhost:{http}/v1/traces"), "http/protobuf", "1.0"));
    let ca = pki.dir().join("ca.crt");
    let mut gateway = directory.start(builder().env("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.display()));
    gateway.ready("hello", 1);
    let (port, internal) = (gateway.http(), gateway.internal_http());

    let headers =
        format!("traceparent: 00-{PARENT}-01\r\ntracestate: x=y\r\nbaggage: b=c\r\nUser-Agent: the-agent\r\n");
    get_with(port, "a", "/path?query", &headers);
    get(internal, "internalkourier", "/ready");

    let (path, body) = push_with(&http_seen, "the-agent");
    assert_eq!(path, "/v1/traces");
    for text in ["the-edge", "http://a/path?query", "http.status_code", "upstream_cluster", "ns1/app", "user_agent"] {
        assert!(contains(&body, text), "{text}");
    }
    let trace = 0x0af7651916cd43dd8448eb211c80319c_u128.to_be_bytes();
    assert!(body.windows(16).any(|window| window == trace), "the caller's trace goes on");
    if !contains(&body, "service_stats") {
        push_with(&http_seen, "service_stats");
    }
    let seen = backend.last();
    assert_eq!((seen.get("tracestate"), seen.get("baggage")), (Some("x=y"), Some("b=c")));
    let upstream = seen.get("traceparent").unwrap().to_owned();
    assert!(upstream.starts_with(&format!("00-{}-", &PARENT[..32])) && upstream.ends_with("-01"), "{upstream}");
    assert!(!upstream.contains(PARENT), "the parent of what follows is the gateway's span");
    let span = u64::from_str_radix(&upstream[36..52], 16).unwrap().to_be_bytes();
    assert!(body.windows(8).any(|window| window == span));

    gateway.directory.apply(traces(&format!("https://localhost:{grpc}"), "grpc", "1.0"));
    gateway.binary.logs("Settings changed with ConfigMap knative-serving/config-kourier");
    get_with(port, "a", "/", "User-Agent: the-last\r\n");
    eventually("the other collector is pushed to", || {
        get_with(port, "a", "/", "User-Agent: the-last\r\n");
        grpc_seen.try_recv().is_ok_and(|(head, _)| head.uri.path().ends_with("TraceService/Export"))
    });
    get_with(port, "a", "/", "User-Agent: at-the-end\r\n");
    gateway.binary.signal("TERM");
    gateway.binary.exit();
    push_with(&grpc_seen, "at-the-end");
}

/// The shares that net-kourier tests, off in between, and the caller's decision, which goes before.
#[test]
fn given_a_sampling_rate_when_requests_pass_then_about_that_share_is_sampled() {
    let (directory, backend) = (Directory::new(), app("one"));
    let (collector, _seen) = collector::start(None, true);
    let endpoint = format!("http://127.0.0.1:{collector}");
    directory.backend("app", "http", &[backend.port()]).apply(simple("hello", "a", "app"));
    let mut gateway = directory.start(builder());
    gateway.ready("hello", 1);
    let port = gateway.http();
    let decision = |headers: &str| {
        get_with(port, "a", "/", headers);
        backend.last().get("traceparent").map(|parent| parent.ends_with("-01"))
    };
    assert_eq!(decision(""), None, "no tracing, no header");
    let with_parent = |sampled: bool| format!("traceparent: 00-{PARENT}-0{}\r\n", u8::from(sampled));
    assert_eq!(decision(&with_parent(true)), Some(true), "what the caller says passes");

    gateway.directory.apply(traces(&endpoint, "grpc", "0.0"));
    eventually("tracing is on", || decision("") == Some(false));
    assert_eq!(decision(&with_parent(true)), Some(true));

    gateway.directory.apply(traces(&endpoint, "grpc", "0.67"));
    eventually("some are sampled", || decision("") == Some(true));
    let sampled = (0..300).filter(|_| decision("") == Some(true)).count();
    assert!((151..251).contains(&sampled), "six standard deviations from 201: {sampled}");
    assert_eq!(decision(&with_parent(false)), Some(false));

    gateway.directory.apply(config_map(SYSTEM, "config-kourier"));
    eventually("tracing is off", || decision("").is_none());
}
