//! Section 12: metrics, the request log, traces.
use super::world::{Activator, NAMESPACE, REVISION, SYSTEM, World, named};
use crate::support::binary::Stream;
use crate::support::client::{Raw, get};
use crate::support::objects::config_map;
use crate::support::port::free_port;
use crate::support::scrape::{prometheus, sum};
use crate::support::wait::eventually;

fn observed(world: &World) -> (Activator, u16) {
    let port = free_port();
    world.api.apply(
        config_map(SYSTEM, "config-observability")
            .entry("metrics-protocol", "prometheus")
            .entry("metrics-endpoint", &format!("127.0.0.1:{port}")),
    );
    (world.start(), port)
}

/// 12.1: names and labels as scraped from the original.
#[test]
fn given_prometheus_when_scraped_then_names_and_labels_are_the_original_s() {
    let world = World::new(false);
    world.create(world.revision());
    let (activator, port) = observed(&world);
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    assert_eq!(get(activator.http1, "/", &named("demo", "nothing")).status(), 404);
    activator.health();
    let of = [("k8s_namespace_name", NAMESPACE), ("kn_revision_name", REVISION)];
    let full = [&of[..], &[("kn_service_name", "hello"), ("kn_configuration_name", "hello")]].concat();
    let http = [
        ("http_request_method", "GET"),
        ("network_protocol_name", "http"),
        ("network_protocol_version", "1.1"),
        ("url_scheme", "http"),
        ("otel_scope_name", "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"),
    ];
    eventually("the report", || sum(&prometheus(port), "kn_revision_request_concurrency", &full).is_some());
    let page = prometheus(port);
    let served =
        [&full[..], &http[..], &[("http_response_status_code", "200"), ("server_address", "hello.example.com")]];
    assert_eq!(sum(&page, "http_server_request_duration_seconds_count", &served.concat()), Some(1.0));
    for name in ["http_server_request_body_size_bytes_count", "http_server_response_body_size_bytes_count"] {
        assert_eq!(sum(&page, name, &served.concat()), Some(1.0), "{name}");
    }
    let ip = pod.ip.to_string();
    let sent = [&full[..], &http[..], &[("server_address", ip.as_str()), ("server_port", "8012")]].concat();
    for name in ["http_client_request_duration_seconds_count", "http_client_request_body_size_bytes_count"] {
        assert_eq!(sum(&page, name, &sent), Some(1.0), "{name}");
    }
    let unknown: Vec<_> = page
        .iter()
        .filter(|sample| {
            sample.name == "http_server_request_duration_seconds_count"
                && sample.labels.get("http_response_status_code").is_some_and(|status| status == "404")
        })
        .collect();
    assert_eq!(unknown.len(), 1);
    assert!(!unknown[0].labels.contains_key("kn_revision_name"));
    assert_eq!(sum(&page, "kn_revision_request_queued", &of), Some(0.0));
    assert_eq!(sum(&page, "kn_revision_request_active", &of), Some(0.0));
    let activator_scope = [("peer", "autoscaler"), ("otel_scope_name", "knative.dev/serving/pkg/activator")];
    assert_eq!(sum(&page, "kn_activator_stats_conn_reachable", &activator_scope), Some(1.0));
    assert_eq!(sum(&page, "kn_activator_stats_conn_errors_total", &[]), None);
    assert_eq!(sum(&page, "target_info", &[("service_name", "activator"), ("k8s_pod_name", "activator-0")]), Some(1.0));
    let calls = [("http_request_method", "GET"), ("http_response_status_code", "200")];
    let server = world.api.env().into_iter().find(|(name, _)| name == "KUBERNETES_SERVICE_PORT").unwrap().1;
    let calls = [&calls[..], &[("otel_scope_name", "knative.dev/pkg/observability/metrics/k8s")]].concat();
    assert!(sum(&page, "kn_k8s_client_http_response_status_code_total", &calls).is_some_and(|calls| calls >= 6.0));
    let to = |sample: &&crate::support::scrape::Sample| sample.name == "kn_k8s_client_http_response_status_code_total";
    assert!(page.iter().filter(to).all(|sample| sample.labels["server_address"].ends_with(&server)));
    assert!(sum(&page, "process_resident_memory_bytes", &[]).is_some());
    assert!(sum(&page, "lockkeeper_activator_probes_passed_total", &[]).is_some_and(|probes| probes >= 1.0));
}

/// 12.1: a link that is lost is counted, and whether there is one is told.
#[test]
fn given_an_autoscaler_that_restarts_when_scraped_then_the_lost_link_is_counted() {
    let world = World::new(false);
    let (_activator, port) = observed(&world);
    let link = |reachable: f64, errors: f64| {
        let page = prometheus(port);
        let of = [("peer", "autoscaler")];
        sum(&page, "kn_activator_stats_conn_reachable", &of) == Some(reachable)
            && sum(&page, "kn_activator_stats_conn_errors_total", &of) == Some(errors)
    };
    world.autoscaler.stop();
    eventually("it is lost", || link(0.0, 1.0));
    world.autoscaler.restart();
    eventually("it is there again", || link(1.0, 1.0));
}

/// 12.1: a waiting request is queued, not active.
#[test]
fn given_a_request_that_waits_when_scraped_then_it_is_queued() {
    let world = World::new(false);
    world.create(world.revision());
    let (activator, port) = observed(&world);
    let of = [("kn_revision_name", REVISION)];
    let _waiting = [activator.ask(), activator.ask()];
    eventually("both are queued", || {
        let page = prometheus(port);
        sum(&page, "kn_revision_request_queued", &of) == Some(2.0)
            && sum(&page, "kn_revision_request_active", &of) == Some(0.0)
    });
}

/// O3: a cold start by its parts, once for each wake.
#[test]
fn given_requests_that_wait_when_their_revision_wakes_then_its_cold_start_is_recorded_once() {
    let world = World::new(false);
    world.create(world.revision());
    let (activator, port) = observed(&world);
    let mut held = [activator.ask(), activator.ask()];
    for client in &mut held {
        assert!(client.reply_within(std::time::Duration::from_millis(100)).is_none(), "it is held");
    }
    let pod = world.pod();
    world.endpoints(&[], &[pod.ip]);
    for client in &mut held {
        assert_eq!(client.reply().status(), 200);
    }
    assert_eq!(activator.get().status(), 200);
    let page = prometheus(port);
    let of = |what: &str, phase: &str| {
        let labels = [("k8s_namespace_name", NAMESPACE), ("kn_revision_name", REVISION), ("phase", phase)];
        sum(&page, &format!("lockkeeper_activator_cold_start_seconds_{what}"), &labels)
    };
    for phase in ["pod", "ready", "sent", "total"] {
        assert_eq!(of("count", phase), Some(1.0), "{phase}");
    }
    let parts: f64 = ["pod", "ready", "sent"].into_iter().filter_map(|phase| of("sum", phase)).sum();
    let total = of("sum", "total").unwrap();
    assert!((parts - total).abs() < 1e-6 && total >= 0.1, "{parts} {total}");
}

/// O2: whatever callers send, the number of series has a bound: hosts, methods, revisions that are none.
#[test]
fn given_random_requests_when_scraped_then_series_stay_bounded() {
    let world = World::new(false);
    world.create(world.revision());
    let (activator, port) = observed(&world);
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    let mut client = Raw::plain(activator.http1);
    for number in 0..200 {
        let head = named(NAMESPACE, REVISION);
        client.send(format!("GET / HTTP/1.1\r\nHost: host-{number}.example.com\r\n{head}\r\n"));
        assert_eq!(client.reply().status(), 200);
    }
    for number in 0..200 {
        let (known, nothing) = (named(NAMESPACE, REVISION), named(&format!("n{number}"), &format!("r{number}")));
        client.send(format!("M{number} / HTTP/1.1\r\nHost: hello.example.com\r\n{known}\r\n"));
        assert_eq!(client.reply().status(), 200);
        client.send(format!("GET / HTTP/1.1\r\nHost: nothing-{number}.example.com\r\n{nothing}\r\n"));
        assert_eq!(client.reply().status(), 404);
    }
    let page = prometheus(port);
    let series = page.iter().filter(|sample| sample.name == "http_server_request_duration_seconds_count").count();
    // The revision's, and those of requests for none.
    assert!(series <= 128, "{series}");
    assert_eq!(sum(&page, "http_server_request_duration_seconds_count", &[]), Some(600.0));
    let revisions = page.iter().filter_map(|sample| sample.labels.get("kn_revision_name"));
    assert!(revisions.into_iter().all(|name| name == REVISION));
    assert!(page.len() < 6000, "{} samples in all", page.len());
}

/// 12.3: the request log is switched on and off while it runs; pod and trace are empty, whatever the headers.
#[test]
fn given_the_request_log_when_it_is_switched_on_then_lines_are_written() {
    let world = World::new(false);
    world.create(world.revision());
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    assert!(activator.process.log.of(Stream::Stdout).is_empty());
    let template = r#"{{.Revision.Namespace}}/{{.Revision.Name}} {{.Revision.Service}} {{.Response.Code}} pod={{.Revision.PodName}} trace={{.TraceID}}."#;
    world.api.apply(
        config_map(SYSTEM, "config-observability")
            .entry("logging.enable-request-log", "true")
            .entry("logging.request-log-template", template),
    );
    let trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n";
    eventually("a line", || {
        assert_eq!(activator.ask_for(REVISION, trace).reply().status(), 200);
        !activator.process.log.of(Stream::Stdout).is_empty()
    });
    let lines = activator.process.log.of(Stream::Stdout);
    assert_eq!(lines[0], "default/hello-00001 hello 200 pod= trace=.");

    world.api.apply(config_map(SYSTEM, "config-observability").entry("logging.enable-request-log", "false"));
    eventually("no line any more", || {
        let before = activator.process.log.of(Stream::Stdout).len();
        assert_eq!(activator.get().status(), 200);
        std::thread::sleep(std::time::Duration::from_millis(50));
        activator.process.log.of(Stream::Stdout).len() == before
    });
}

/// 12.2: the spans of a request.
#[test]
fn given_traces_on_stdout_when_a_request_passes_then_its_spans_are_the_original_s() {
    let world = World::new(false);
    world.create(world.revision());
    world.api.apply(config_map(SYSTEM, "config-observability").entry("tracing-protocol", "stdout"));
    let activator = world.start();
    let pod = world.pod();
    world.endpoints(&[pod.ip], &[]);
    assert_eq!(activator.get().status(), 200);
    let spans = || -> Vec<serde_json::Value> {
        let lines = activator.process.log.of(Stream::Stdout);
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    eventually("four spans", || spans().len() >= 4);
    let spans = spans();
    let id = |name: &str, key: &str| {
        let span = spans.iter().find(|span| span["Name"] == name).unwrap_or_else(|| panic!("{name}: {spans:?}"));
        span[key]["SpanID"].as_str().unwrap().to_owned()
    };
    let server = id("GET", "SpanContext");
    assert_eq!(id("throttler_try", "Parent"), server);
    assert_eq!(id("activator_proxy", "Parent"), server);
    assert_eq!(id("GET /path", "Parent"), id("activator_proxy", "SpanContext"));
    assert!(pod.app.last().get("traceparent").unwrap().contains(&id("GET /path", "SpanContext")) || world.tls);
}
