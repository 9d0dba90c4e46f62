//! Section 8: statistics for the autoscaler, Prometheus, the request log, OTLP.
use lockkeeper::local::client::{Connection, Protocol};

use crate::support::app::{App, ok, response};
use crate::support::binary::{Stream, queue};
use crate::support::client::{Raw, get, local, run};
use crate::support::pki::Pki;
use crate::support::scrape::{observed, prometheus, stat, sum};
use crate::support::wait::{eventually, eventually_some};

/// 8.1: before the first report only the pod's name; then uptime grows by one a period.
#[test]
fn given_no_traffic_when_the_autoscaler_asks_then_pod_name_and_uptime() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let port = queue.stats();
    let stat = eventually_some("the first report", || Some(stat(port)).filter(|stat| stat.uptime() > 0.0));
    assert_eq!(stat.pod_name, "hello-00001-deployment-0");
    assert!((0.9..10.0).contains(&stat.uptime()), "{stat:?}");
    assert_eq!((stat.requests(), stat.concurrency()), (0.0, 0.0));
}

/// 8.1: three held requests, one of them through the activator.
#[test]
fn given_held_requests_when_the_autoscaler_asks_then_concurrency_counts_waiting_ones_and_the_proxied_part() {
    let app = App::start(|conn| {
        conn.request();
        conn.wait_close();
    });
    let mut queue = queue(app.port()).env("CONTAINER_CONCURRENCY", 1).start();
    let (http, port) = (queue.http(), queue.stats());
    let mut held: Vec<Raw> = (0..3).map(|_| Raw::plain(http)).collect();
    held[0].get("/", "K-Proxy-Request: activator\r\n");
    held[1].get("/", "");
    held[2].get("/", "");
    let stat = eventually_some("a full period", || Some(stat(port)).filter(|stat| stat.concurrency() > 2.99));
    assert!((stat.concurrency() - 3.0).abs() < 0.01, "{stat:?}");
    assert!((stat.proxied_concurrency() - 1.0).abs() < 0.01, "{stat:?}");
}

/// 8.1: arrivals add up over the periods; probes are none of them.
#[test]
fn given_requests_and_probes_when_periods_pass_then_only_requests_were_counted() {
    let app = App::ok();
    let mut queue = queue(app.port()).start();
    let (http, port) = (queue.http(), queue.stats());
    for _ in 0..20 {
        assert_eq!(get(http, "/", "K-Proxy-Request: activator\r\n").status(), 200);
        get(http, "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
    }
    let (mut uptime, mut requests, mut proxied) = (0.0, 0.0, 0.0);
    eventually("all were reported", || {
        let stat = stat(port);
        if stat.uptime() > uptime {
            (uptime, requests, proxied) =
                (stat.uptime(), requests + stat.requests(), proxied + stat.proxied_requests());
        }
        requests >= 20.0
    });
    assert_eq!((requests, proxied), (20.0, 20.0));
}

/// 8.2: what the labels say; which there are is in `metric_names`.
#[test]
fn given_prometheus_when_scraped_then_labels_have_the_originals_words() {
    let app = App::each(|head, _| match head.target() {
        "/404" => response("404 Not Found", &[], ""),
        _ => ok("ok"),
    });
    let pki = Pki::new();
    let (mut queue, port) = observed(queue(app.port()).certs(pki.dir()));
    let tags = ["", "Tag: blue", "Default-Route: true", "Tag: blue\r\nKnative-Serving-Default-Route: true"];
    for tag in tags {
        let headers = if tag.is_empty() { String::new() } else { format!("Knative-Serving-{tag}\r\n") };
        get(queue.http(), "/", &headers);
    }
    get(queue.http(), "/404", "");
    let (tls, trust) = (queue.tls(), pki.trust());
    run(async { Connection::open(local(tls), Some(&trust), Protocol::Http2).await?.get("hello:8080", "/").await })
        .unwrap();
    let page = prometheus(port);
    let count = |name: &str, labels: &[(&str, &str)]| sum(&page, name, labels);
    let invocation = "kn_serving_invocation_duration_seconds_count";
    assert_eq!(count(invocation, &[("http_response_status_code", "404")]), Some(1.0));
    let server = "http_server_request_duration_seconds_count";
    for (tag, requests) in [("kn:disabled", 3.0), ("blue", 1.0), ("kn:default", 1.0), ("kn:undefined", 1.0)] {
        assert_eq!(count(server, &[("kn_route_tag", tag)]), Some(requests), "{tag}");
    }
    let plain = [
        ("http_request_method", "GET"),
        ("http_response_status_code", "200"),
        ("kn_route_tag", "blue"),
        ("network_protocol_name", "http"),
        ("network_protocol_version", "1.1"),
        ("server_address", "hello.example.com"),
        ("url_scheme", "http"),
    ];
    assert_eq!(count(server, &plain), Some(1.0));
    let encrypted = [
        ("network_protocol_version", "2.0"),
        ("server_address", "hello"),
        ("server_port", "8080"),
        ("url_scheme", "https"),
    ];
    assert_eq!(count(server, &encrypted), Some(1.0));
    let client = [("server_address", "127.0.0.1"), ("server_port", &app.port().to_string()), ("url_scheme", "http")];
    assert_eq!(count("http_client_request_duration_seconds_count", &client), Some(6.0));
    assert_eq!(count("target_info", &[("kn_revision_name", "hello-00001")]), Some(1.0));
}

/// 8.2: each instrument tells of the requests that came so far, as the original's do.
#[test]
fn given_answers_at_each_layer_when_scraped_then_each_instrument_has_those_that_reached_it() {
    let app = App::start(|conn| {
        conn.request();
        conn.wait_close();
    });
    let (mut queue, port) = observed(queue(app.port()).env("CONTAINER_CONCURRENCY", 1));
    let http = queue.http();
    // Answered by the probes' layer, though not left out as a probe: no tag, and no instrument below.
    assert_eq!(get(http, "/", "User-Agent: Knative-Activator-Probe\r\n").status(), 400);
    let page = prometheus(port);
    let server = "http_server_request_duration_seconds_count";
    let refused = page.iter().find(|s| s.name == server && s.labels["http_response_status_code"] == "400").unwrap();
    assert!(!refused.labels.contains_key("kn_route_tag"), "{refused:?}");
    for below in ["http_client_request_duration_seconds_count", "kn_serving_invocation_duration_seconds_count"] {
        assert_eq!(sum(&page, below, &[]), None, "{below}");
    }
    // Refused by the breaker.
    let mut held: Vec<Raw> = (0..11).map(|_| Raw::plain(http)).collect();
    for client in &mut held {
        client.get("/", "");
    }
    // Seen from outside before another one is sent: it would wait, too, if it came before one of the eleven.
    eventually("the queue is full", || sum(&prometheus(port), "kn_serving_queue_depth", &[]) >= Some(11.0));
    assert_eq!(get(http, "/", "").status(), 503);
    let page = prometheus(port);
    assert!(sum(&page, server, &[("http_response_status_code", "503"), ("kn_route_tag", "kn:disabled")]).is_some());
    let refused = [("http_response_status_code", "503")];
    assert_eq!(sum(&page, "kn_serving_invocation_duration_seconds_count", &refused), None);
    assert_eq!(sum(&page, "http_client_request_duration_seconds_count", &[("error_type", "queue_full")]), None);
}

/// 8.2: what is forwarded although it looks like a probe is a request to the application, without a tag.
#[test]
fn given_requests_that_look_like_probes_when_forwarded_then_the_client_instrument_has_them() {
    let app = App::ok();
    let (mut queue, port) = observed(queue(app.port()));
    get(queue.http(), "/", "K-Kubelet-Probe: x\r\n");
    get(queue.http(), "/", "K-Network-Probe: queue\r\n");
    get(queue.http(), "/", "User-Agent: kube-probe/1\r\nK-Network-Probe: queue\r\n");
    let client = "http_client_request_duration_seconds_count";
    eventually("both were counted", || sum(&prometheus(port), client, &[]) == Some(2.0));
    let page = prometheus(port);
    assert!(page.iter().filter(|s| s.name == client).all(|s| !s.labels.contains_key("kn_route_tag")), "{page:?}");
    assert_eq!(sum(&page, "http_server_request_duration_seconds_count", &[]), None);
}

/// 8.2: a caller of HTTP/1.0 names no host; the label is there, empty.
#[test]
fn given_no_host_when_scraped_then_the_servers_address_is_empty() {
    let app = App::ok();
    let (mut queue, port) = observed(queue(app.port()));
    Raw::plain(queue.http()).send("GET / HTTP/1.0\r\n\r\n").reply();
    let labels = [("network_protocol_version", "1.0"), ("server_address", "")];
    let count = || sum(&prometheus(port), "http_server_request_duration_seconds_count", &labels);
    eventually("it was counted", || count() == Some(1.0));
}

/// 8.4: answers of our own have their size in the log.
#[test]
fn given_an_application_that_is_away_when_asked_then_the_log_has_the_answers_size() {
    let config = serde_json::json!({
        "enableRequestLog": true, "requestLogTemplate": "LINE {{.Response.Code}} {{.Response.Size}}",
    });
    let mut queue = queue(crate::support::port::free_port()).env("OBSERVABILITY_CONFIG", config).start();
    let reply = get(queue.http(), "/", "");
    assert_eq!(queue.logs("LINE "), format!("LINE 502 {}", reply.body.bytes.len()));
}

/// 8.4: the default template, byte for byte but for times and ports.
#[test]
fn given_the_request_log_when_a_request_ends_then_the_default_line_is_written() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", r#"{"enableRequestLog":true}"#).start();
    get(queue.http(), "/echo?x=1", "User-Agent: ua\"x\r\nReferer: http://r/\r\n");
    let line = queue.logs("httpRequest");
    assert!(queue.log.of(Stream::Stdout).contains(&line), "on stdout");
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    let request = &json["httpRequest"];
    assert_eq!(request["requestMethod"], "GET");
    assert_eq!(request["requestUrl"], "/echo?x=1");
    assert_eq!((&request["status"], &request["responseSize"]), (&200.into(), &"2".into()));
    assert_eq!((&request["userAgent"], &request["protocol"]), (&"ua\"x".into(), &"HTTP/1.1".into()));
    assert!(line.contains(r"x\u003D1"), "js escapes as Go does: {line}");
}

/// 8.4: fields, functions and the trace id that came in.
#[test]
fn given_a_template_of_its_own_when_a_request_ends_then_it_is_filled() {
    let app = App::ok();
    let config = serde_json::json!({
        "enableRequestLog": true,
        "requestLogTemplate": "LINE {{.Request.Header.Get \"X-A\"}} {{.Revision.Name}} {{.Response.Code}} {{.TraceID}}",
    });
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "X-A: a\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
    assert_eq!(queue.logs("LINE "), "LINE a hello-00001 200 0af7651916cd43dd8448eb211c80319c");
}

/// 8.4: what Knative's own test of system-internal TLS looks for in the log.
#[test]
fn given_a_template_that_names_tls_when_requests_end_then_it_tells_how_they_came_in() {
    let (app, pki) = (App::ok(), Pki::new());
    let config = serde_json::json!({"enableRequestLog": true, "requestLogTemplate": "TLS: {{.Request.TLS}}"});
    let mut queue = queue(app.port()).certs(pki.dir()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "");
    assert_eq!(queue.logs("TLS: "), "TLS: <nil>");
    let port = queue.tls();
    let trust = pki.trust();
    run(async { Connection::open(local(port), Some(&trust), Protocol::Http2).await?.get("a", "/").await }).unwrap();
    let line = queue.logs("TLS: {");
    assert!(line.starts_with("TLS: {772 true false "), "{line}");
    assert!(line.contains(" h2 true "), "{line}");
}

/// O4: a template that cannot be used is named at the start, with line and column; there is no log, and no harm.
#[test]
fn given_a_template_that_is_none_when_started_then_the_log_names_the_place() {
    let app = App::ok();
    for (template, place) in
        [("a {{.Request.Nope}}", ":1:"), ("a\nbb {{.Response.Code", ":2:"), ("{{exec \"x\"}}", ":1:")]
    {
        let config = serde_json::json!({ "enableRequestLog": true, "requestLogTemplate": template });
        let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
        let line = queue.logs("Error setting up request logger. Request logs will be unavailable.");
        let error = serde_json::from_str::<serde_json::Value>(&line).unwrap()["error"].as_str().unwrap().to_owned();
        let (_, rest) = error.split_once(place).unwrap_or_else(|| panic!("{error}"));
        let column: usize = rest.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{error}"));
        assert!((1..template.len()).contains(&column), "{error}");
        assert_eq!(get(queue.http(), "/", "").status(), 200);
        assert!(queue.log.of(Stream::Stdout).is_empty(), "{template}");
    }
}

/// 8.5: metrics are pushed to a collector, in protobuf, to the default path.
#[test]
fn given_an_otlp_endpoint_when_metrics_are_due_then_the_collector_gets_them() {
    let collector = App::each(|_, _| ok(""));
    let app = App::ok();
    let endpoint = format!("http://127.0.0.1:{}", collector.port());
    let config = format!(
        r#"{{"requestMetrics":{{"protocol":"http/protobuf","endpoint":"{endpoint}","exportInterval":200000000}}}}"#
    );
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "");
    eventually("a push", || !collector.seen().is_empty());
    let head = collector.last();
    assert_eq!((head.method(), head.target()), ("POST", "/v1/metrics"));
    assert_eq!(head.get("content-type"), Some("application/x-protobuf"));
}

/// 8.5: spans continue the trace that came in; the application sees the client span's id.
#[test]
fn given_tracing_when_a_request_passes_then_the_trace_goes_on() {
    let collector = App::each(|_, _| ok(""));
    let app = App::ok();
    let endpoint = format!("http://127.0.0.1:{}", collector.port());
    let config = format!(r#"{{"tracing":{{"protocol":"http/protobuf","endpoint":"{endpoint}","samplingRate":1}}}}"#);
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n");
    let parent = app.last().get("traceparent").unwrap().to_owned();
    assert!(parent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{parent}");
    assert!(!parent.contains("b7ad6b7169203331"), "the parent is our client span");
    queue.signal("TERM");
    assert_eq!(queue.exit().code(), Some(0));
    assert!(collector.seen().iter().any(|head| head.target() == "/v1/traces"), "flushed at the end");
}
