#![allow(clippy::unwrap_used)]
use super::*;
use http::{HeaderMap, Method, Version};
use std::collections::HashMap;

fn server<'a>(method: &'a Method, host: &'a str, tag: RouteTag<'a>) -> ServerLabels<'a> {
    ServerLabels { method, status: 200, version: Version::HTTP_11, host, https: false, tag }
}

fn text(metrics: &Metrics) -> String {
    String::from_utf8(metrics.encode()).unwrap()
}

/// Lines as Go's component was seen to write them, with the scope labels that every series has.
#[test]
fn when_requests_are_recorded_then_the_scrape_has_go_s_series() {
    let metrics = Metrics::new(2, resource(&HashMap::from([("HOSTNAME".to_owned(), "pod-x".to_owned())])));
    let (one, two) = (metrics.worker(0), metrics.worker(1));
    one.server(&server(&Method::GET, "hello.example.com", RouteTag::Named("blue")), Duration::from_millis(30), 0, 250);
    two.server(&server(&Method::GET, "hello.example.com", RouteTag::Named("blue")), Duration::from_millis(5), 0, 251);
    one.invocation(404, Duration::from_millis(7));
    two.client(
        &ClientLabels {
            method: &Method::POST,
            status: Err("upstream_refused"),
            version: Version::HTTP_2,
            user_port: 18080,
            tag: RouteTag::Disabled,
        },
        Duration::from_millis(1),
        3,
    );

    let text = text(&metrics);

    let otelhttp = concat!(
        r#"otel_scope_name="go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp","#,
        r#"otel_scope_schema_url="",otel_scope_version="0.69.0""#
    );
    let served = format!(
        concat!(
            r#"http_request_method="GET",http_response_status_code="200",kn_route_tag="blue","#,
            r#"network_protocol_name="http",network_protocol_version="1.1",{},"#,
            r#"server_address="hello.example.com",url_scheme="http""#
        ),
        otelhttp
    );
    for line in [
        format!("http_server_request_duration_seconds_count{{{served}}} 2\n"),
        format!("http_server_request_duration_seconds_bucket{{{served},le=\"0.005\"}} 1\n"),
        format!("http_server_request_duration_seconds_bucket{{{served},le=\"0.05\"}} 2\n"),
        format!("http_server_request_duration_seconds_sum{{{served}}} 0.035\n"),
        format!("http_server_response_body_size_bytes_bucket{{{served},le=\"250\"}} 1\n"),
        format!("http_server_response_body_size_bytes_bucket{{{served},le=\"+Inf\"}} 2\n"),
        format!("http_server_request_body_size_bytes_bucket{{{served},le=\"0\"}} 2\n"),
        format!(
            concat!(
                r#"http_client_request_duration_seconds_count{{error_type="upstream_refused","#,
                r#"http_request_method="POST",kn_route_tag="kn:disabled",network_protocol_name="http","#,
                r#"network_protocol_version="2.0",{},server_address="127.0.0.1",server_port="18080","#,
                r#"url_scheme="http"}} 1"#,
                "\n"
            ),
            otelhttp
        ),
        concat!(
            r#"kn_serving_invocation_duration_seconds_count{http_response_status_code="404","#,
            r#"otel_scope_name="knative.dev/serving/pkg/queue",otel_scope_schema_url="",otel_scope_version=""} 1"#,
            "\n"
        )
        .to_owned(),
        "# TYPE http_server_request_duration_seconds histogram\n".to_owned(),
        "# HELP kn_serving_invocation_duration_seconds The duration of task execution\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line}\nnot in\n{text}");
    }
    assert!(text.contains(r#"target_info{container_name="queue-proxy",k8s_namespace_name="",k8s_pod_name="pod-x","#));
    assert!(!text.contains("kn_serving_queue_depth"));
    let names: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    assert!(names.is_sorted(), "{names:?}");
}

#[test]
fn given_a_breaker_when_it_empties_then_the_gauge_follows() {
    let metrics = Metrics::new(1, Vec::new());
    let depth = Arc::new(AtomicU64::new(3));
    let live = Arc::clone(&depth);
    metrics.queue_depth(move || live.load(Ordering::Relaxed));

    let line = |n| {
        let scope = r#"otel_scope_name="knative.dev/serving/pkg/queue",otel_scope_schema_url="",otel_scope_version="""#;
        format!("kn_serving_queue_depth{{{scope}}} {n}\n")
    };

    assert!(text(&metrics).contains(&line(3)));
    depth.store(0, Ordering::Relaxed);
    assert!(text(&metrics).contains(&line(0)));
}

/// O2: random hosts, methods and tags make at most 64 series an instrument, and every request counts.
#[test]
fn when_clients_invent_hosts_methods_and_tags_then_series_stay_bounded() {
    let metrics = Metrics::new(2, Vec::new());
    let workers = [metrics.worker(0), metrics.worker(1)];
    for i in 0..100_000_u32 {
        let host = format!("h{i}.example.com:{}", i % 60_000);
        let method = Method::from_bytes(format!("M{i}").as_bytes()).unwrap();
        let labels = ServerLabels {
            status: 200 + (i % 400) as u16,
            version: if i % 2 == 0 { Version::HTTP_2 } else { Version::HTTP_11 },
            ..server(&method, &host, RouteTag::Named(&host))
        };
        workers[i as usize % 2].server(&labels, Duration::ZERO, 0, 0);
        workers[0].invocation(100 + (i % 900) as u16, Duration::ZERO);
    }

    let families = metrics.families();

    for family in &families {
        assert!(family.points.len() <= 64, "{}: {}", family.name, family.points.len());
        let total: u64 = family
            .points
            .iter()
            .map(|point| match &point.value {
                registry::Value::Histogram(total) => total.count(),
                registry::Value::Number(_) => 0,
            })
            .sum();
        assert!(total == 100_000 || family.points.is_empty(), "{}: {total}", family.name);
    }
}

#[test]
fn when_causes_and_connections_are_counted_then_lockkeeper_s_counters_show_them() {
    let metrics = Metrics::new(2, Vec::new());
    for worker in [metrics.worker(0), metrics.worker(1)] {
        worker.cause("queue_full");
        worker.accepted("tls");
        worker.handshake("TLSv1.3", "TLS13_AES_128_GCM_SHA256", "X25519MLKEM768");
        worker.count(Count::Retry);
    }
    metrics.families_of(|| vec![registry::single("lockkeeper_more", "More.", registry::Kind::Gauge, 5.0)]);

    let text = text(&metrics);

    for line in [
        "lockkeeper_causes_total{cause=\"queue_full\"} 2\n",
        "lockkeeper_connections_accepted_total{port=\"tls\"} 2\n",
        "lockkeeper_tls_handshakes_total{group=\"X25519MLKEM768\",suite=\"TLS13_AES_128_GCM_SHA256\",version=\"TLSv1.3\"} 2\n",
        "lockkeeper_upstream_retries_total 2\n",
        "lockkeeper_more 5\n",
    ] {
        assert!(text.contains(line), "{line}\nnot in\n{text}");
    }
}

#[test]
fn when_headers_name_a_route_then_the_tag_is_knative_s() {
    let tag = |headers: &[(&'static str, &str)]| {
        let headers: HeaderMap = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
        format!("{:?}", RouteTag::of(&headers))
    };

    assert_eq!(tag(&[]), "Disabled");
    assert_eq!(tag(&[("knative-serving-default-route", "true")]), "Default");
    assert_eq!(tag(&[("knative-serving-tag", "blue"), ("knative-serving-default-route", "true")]), "Undefined");
    assert_eq!(tag(&[("knative-serving-tag", "blue"), ("knative-serving-default-route", "false")]), "Named(\"blue\")");
}

#[test]
fn when_a_host_has_a_port_then_address_and_port_are_apart() {
    for (host, expected) in [
        ("a.b", ("a.b", None)),
        ("a.b:80", ("a.b", Some(80))),
        ("[::1]:8080", ("::1", Some(8080))),
        ("[::1]", ("::1", None)),
        ("::1", ("::1", None)),
        ("", ("", None)),
    ] {
        assert_eq!(labels::split_port(host), expected, "{host}");
    }
}

#[test]
fn when_the_environment_names_the_service_then_the_first_name_wins() {
    let env = |pairs: &[(&str, &str)]| -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    };
    let value = |env: &HashMap<String, String>, name: &str| {
        resource(env).into_iter().find(|(k, _)| k == name).map(|(_, v)| v).unwrap_or_default()
    };

    let env = env(&[
        ("SERVING_CONFIGURATION", "hello"),
        ("SERVING_REVISION", "hello-00001"),
        ("HOSTNAME", "pod"),
        ("OTEL_RESOURCE_ATTRIBUTES", "team=a%20b,service.name=x,broken"),
    ]);

    assert_eq!(value(&env, "service.name"), "hello");
    assert_eq!(value(&env, "service.instance.id"), "pod");
    assert_eq!(value(&env, "team"), "a b");
}
