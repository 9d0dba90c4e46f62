//! O1: every metric that the queue shows, by name, type, unit, labels and buckets, on each way out: dashboards hang on
//! them, so none may come, go or change by accident. The Go names are those that its binary was seen to expose (sections
//! 8.1, 8.2 and 8.5); its `go_*` are left out.
use std::collections::{BTreeMap, BTreeSet};

use prost::Message;
use rustls::version::TLS13;

use crate::support::app::{App, ok};
use crate::support::binary::{Binary, Builder, queue};
use crate::support::client::{Raw, get};
use crate::support::collector;
use crate::support::pki::{NAME, Pki};
use crate::support::scrape::{observed, prometheus, sum};
use crate::support::wait::{eventually, eventually_some, patience};

/// What OpenTelemetry's exporter adds to each of its series.
const SCOPE: &str = "otel_scope_name otel_scope_schema_url otel_scope_version";
const SERVER: &str = "http_request_method http_response_status_code network_protocol_name network_protocol_version \
                      server_address url_scheme";
const CLIENT: &str = "http_request_method network_protocol_name network_protocol_version server_address server_port \
                      url_scheme";
const RESOURCE: &str = "container_name k8s_namespace_name k8s_pod_name kn_configuration_name kn_revision_name \
                        kn_service_name service_instance_id service_name service_version telemetry_sdk_language \
                        telemetry_sdk_name telemetry_sdk_version";
/// What is there or not, by the request: a tag, unless probes' rules answered or forwarded it; the host's port, if it named
/// one; the status of an answer, or why there was none.
const SERVER_ALSO: [&str; 3] = ["", "kn_route_tag", "kn_route_tag server_port"];
const CLIENT_ALSO: [&str; 3] =
    ["http_response_status_code kn_route_tag", "error_type kn_route_tag", "http_response_status_code"];

/// Buckets of durations in seconds, and of sizes in bytes.
const SECONDS: &str = "0.005 0.01 0.025 0.05 0.075 0.1 0.25 0.5 0.75 1 2.5 5 7.5 10 +Inf";
const BYTES: &str = "0 5 10 25 50 75 100 250 500 750 1000 2500 5000 7500 10000 +Inf";

/// A metric that is scraped: type or buckets, name, labels of all its series, and of each of its kinds of series.
type Row = (&'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const GO: [Row; 19] = [
    (SECONDS, "kn_serving_invocation_duration_seconds", &[SCOPE, "http_response_status_code"], &[""]),
    ("gauge", "kn_serving_queue_depth", &[SCOPE], &[""]),
    (SECONDS, "http_server_request_duration_seconds", &[SCOPE, SERVER], &SERVER_ALSO),
    (BYTES, "http_server_request_body_size_bytes", &[SCOPE, SERVER], &SERVER_ALSO),
    (BYTES, "http_server_response_body_size_bytes", &[SCOPE, SERVER], &SERVER_ALSO),
    (SECONDS, "http_client_request_duration_seconds", &[SCOPE, CLIENT], &CLIENT_ALSO),
    (BYTES, "http_client_request_body_size_bytes", &[SCOPE, CLIENT], &CLIENT_ALSO),
    ("gauge", "target_info", &[RESOURCE], &[""]),
    ("counter", "process_cpu_seconds_total", &[], &[""]),
    ("gauge", "process_max_fds", &[], &[""]),
    ("gauge", "process_open_fds", &[], &[""]),
    ("counter", "process_network_receive_bytes_total", &[], &[""]),
    ("counter", "process_network_transmit_bytes_total", &[], &[""]),
    ("gauge", "process_resident_memory_bytes", &[], &[""]),
    ("gauge", "process_start_time_seconds", &[], &[""]),
    ("gauge", "process_virtual_memory_bytes", &[], &[""]),
    ("gauge", "process_virtual_memory_max_bytes", &[], &[""]),
    ("counter", "promhttp_metric_handler_requests_total", &["code"], &[""]),
    ("gauge", "promhttp_metric_handler_requests_in_flight", &[], &[""]),
];

const OWN: [Row; 15] = [
    ("counter", "lockkeeper_causes_total", &["cause"], &[""]),
    ("counter", "lockkeeper_client_left_total", &[], &[""]),
    ("counter", "lockkeeper_connections_accepted_total", &["port"], &[""]),
    ("counter", "lockkeeper_tls_handshakes_total", &["group suite version"], &[""]),
    ("counter", "lockkeeper_tls_handshake_failures_total", &["cause"], &[""]),
    ("gauge", "lockkeeper_certificate_not_after_timestamp_seconds", &["kind"], &[""]),
    ("counter", "lockkeeper_certificate_reloads_total", &[], &[""]),
    ("counter", "lockkeeper_certificate_reload_failures_total", &["reason"], &[""]),
    ("counter", "lockkeeper_trust_blocks_skipped_total", &[], &[""]),
    ("counter", "lockkeeper_trust_kept_total", &[], &[""]),
    ("counter", "lockkeeper_upstream_connections_opened_total", &[], &[""]),
    ("counter", "lockkeeper_upstream_connections_reused_total", &[], &[""]),
    ("counter", "lockkeeper_upstream_retries_total", &[], &[""]),
    ("counter", "lockkeeper_requests_held_total", &[], &[""]),
    ("counter", "lockkeeper_log_lines_dropped_total", &[], &[""]),
];

/// Type or buckets, and the sets of labels, by name.
type Exposed = BTreeMap<String, (String, BTreeSet<String>)>;

fn sorted<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" ")
}

fn expected() -> Exposed {
    let row = |(kind, name, labels, more): &Row| {
        let all = labels.join(" ");
        let sets =
            more.iter().map(|more| sorted(all.split(' ').chain(more.split(' ')).filter(|word| !word.is_empty())));
        ((*name).to_owned(), ((*kind).to_owned(), sets.collect()))
    };
    GO.iter().chain(&OWN).map(row).collect()
}

/// What a page of Prometheus' text exposes.
fn exposed(port: u16) -> Exposed {
    let page = get(port, "/metrics", "Accept-Encoding: identity\r\n").text();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let samples = prometheus(port);
    let exposed = types.map(|(name, kind)| {
        let histogram = kind == "histogram";
        let one = if histogram { format!("{name}_count") } else { name.to_owned() };
        let labels = |labels: &BTreeMap<String, String>| sorted(labels.keys().map(String::as_str));
        let sets: BTreeSet<String> =
            samples.iter().filter(|sample| sample.name == one).map(|sample| labels(&sample.labels)).collect();
        assert!(!sets.is_empty(), "{name} has no series");
        let bucket = format!("{name}_bucket");
        let mut bounds: Vec<&str> =
            samples.iter().filter(|sample| sample.name == bucket).map(|sample| sample.labels["le"].as_str()).collect();
        let number = |bound: &&str| bound.parse::<f64>().unwrap();
        bounds.sort_by(|a, b| number(a).total_cmp(&number(b)));
        bounds.dedup();
        let kind = if histogram { bounds.join(" ") } else { kind.to_owned() };
        (name.to_owned(), (kind, sets))
    });
    exposed.collect()
}

/// Requests that leave a series of each kind behind.
fn of_all_kinds(queue: &mut Binary) {
    let http = queue.http();
    assert_eq!(get(http, "/", "").status(), 200);
    assert_eq!(get(http, "/drop", "").status(), 502);
    assert_eq!(Raw::plain(http).send("GET / HTTP/1.1\r\nHost: hello:8080\r\n\r\n").reply().status(), 200);
    // Answered by the rules for probes, and forwarded by them.
    assert_eq!(get(http, "/", "User-Agent: Knative-Activator-Probe\r\n").status(), 400);
    assert_eq!(get(http, "/", "K-Kubelet-Probe: x\r\n").status(), 200);
}

fn application() -> App {
    App::start(|conn| {
        while let Some((head, _)) = conn.request() {
            if head.target() == "/drop" {
                return;
            }
            conn.send(ok("ok"));
        }
    })
}

fn limited(app: &App) -> Builder {
    queue(app.port()).env("CONTAINER_CONCURRENCY", 10).env("HOSTNAME", "hello-00001-deployment-0")
}

#[test]
fn given_requests_of_all_kinds_when_prometheus_scrapes_then_each_metric_is_as_agreed_and_there_is_no_other() {
    let (app, pki) = (application(), Pki::new());
    let (mut queue, port) = observed(limited(&app).certs(pki.dir()));
    of_all_kinds(&mut queue);
    let tls = queue.tls();
    let encrypted = Raw::tls(tls, pki.client(&[&TLS13], &[]), NAME).get("/", "").reply();
    assert_eq!(encrypted.status(), 200);
    Raw::plain(tls).send("GET / HTTP/1.1\r\n\r\n").try_reply();
    eventually("the failed handshake is counted", || {
        sum(&prometheus(port), "lockkeeper_tls_handshake_failures_total", &[]).is_some()
    });
    eventually("all requests are counted", || {
        sum(&prometheus(port), "http_server_request_duration_seconds_count", &[]) == Some(5.0)
    });
    let (found, agreed) = (exposed(port), expected());
    for (name, what) in &agreed {
        assert_eq!(found.get(name), Some(what), "{name}");
    }
    let strangers: Vec<&String> = found.keys().filter(|name| !agreed.contains_key(*name)).collect();
    assert!(strangers.is_empty(), "{strangers:?}");

    for sample in prometheus(port) {
        let scope = sample
            .labels
            .get("otel_scope_name")
            .map(|name| (name.as_str(), sample.labels["otel_scope_version"].as_str()));
        let agreed = match sample.name.split_once('_').unwrap().0 {
            "kn" => Some((QUEUE, "")),
            "http" => Some((OTELHTTP, "0.69.0")),
            _ => None,
        };
        assert_eq!(scope, agreed, "{}", sample.name);
    }
}

const QUEUE: &str = "knative.dev/serving/pkg/queue";
const OTELHTTP: &str = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp";

/// What operators can read of `lockkeeper_*` is what there is.
#[test]
fn given_metrics_of_our_own_when_looked_up_in_the_readme_then_each_is_there() {
    let readme = include_str!("../../README.md");
    for (_, name, _, _) in OWN {
        // `a_reloads_total`, `.._reload_failures_total`: the beginning may be left out behind a name that has it.
        let short = |at: usize| readme.contains(&format!("`..{}`", &name[at..]));
        let named = readme.contains(&format!("`{name}`")) || name.match_indices('_').any(|(at, _)| short(at));
        assert!(named, "{name}");
    }
}

/// 8.1: the message has six fields, in this order, and no timestamp.
#[test]
fn given_requests_when_the_autoscaler_asks_then_the_message_has_its_six_fields_and_no_other() {
    let app = application();
    let mut queue = limited(&app).start();
    let (http, port) = (queue.http(), queue.stats());
    let tags = |bytes: &[u8]| {
        let (mut tags, mut rest) = (Vec::new(), bytes);
        while let Some(tag) = rest.first() {
            tags.push(*tag);
            let length = if *tag & 7 == 2 { 1 + usize::from(rest[1]) } else { 8 };
            rest = &rest[1 + length..];
        }
        tags
    };
    let bytes = eventually_some("a period with requests, some of them by way of the activator", || {
        get(http, "/", "K-Proxy-Request: activator\r\n");
        let bytes = get(port, "/metrics", "").body.bytes;
        (tags(&bytes).len() > 2).then_some(bytes)
    });
    assert_eq!(tags(&bytes), [0x0a, 0x11, 0x19, 0x21, 0x29, 0x31]);
    assert!(bytes.len() <= 336, "more than the autoscaler reads");
}

/// A metric that is pushed: scope, name, unit, buckets if it has any, and the labels of its kinds of series.
type Pushed =
    (&'static str, &'static str, &'static str, &'static str, &'static [&'static str], &'static [&'static str]);

const PUSHED: [Pushed; 7] = [
    (QUEUE, "kn.serving.invocation.duration", "s", SECONDS, &["http_response_status_code"], &[""]),
    (QUEUE, "kn.serving.queue.depth", "{request}", "gauge", &[], &[""]),
    (OTELHTTP, "http.server.request.duration", "s", SECONDS, &[SERVER], &SERVER_ALSO),
    (OTELHTTP, "http.server.request.body.size", "By", BYTES, &[SERVER], &SERVER_ALSO),
    (OTELHTTP, "http.server.response.body.size", "By", BYTES, &[SERVER], &SERVER_ALSO),
    (OTELHTTP, "http.client.request.duration", "s", SECONDS, &[CLIENT], &CLIENT_ALSO),
    (OTELHTTP, "http.client.request.body.size", "By", BYTES, &[CLIENT], &CLIENT_ALSO),
];

/// 8.5: over both of OTLP's framings.
#[test]
fn given_requests_of_all_kinds_when_metrics_are_pushed_then_each_is_as_agreed_and_there_is_no_other() {
    for (protocol, grpc) in [("http/protobuf", false), ("grpc", true)] {
        let (port, seen) = collector::start(None, grpc);
        let app = application();
        let config = format!(
            r#"{{"requestMetrics":{{"protocol":"{protocol}","endpoint":"http://127.0.0.1:{port}","exportInterval":200000000}}}}"#
        );
        let mut queue = limited(&app).env("OBSERVABILITY_CONFIG", config).start();
        of_all_kinds(&mut queue);
        let agreed: BTreeSet<String> = PUSHED.iter().flat_map(rows).collect();
        let mut last = BTreeSet::new();
        eventually("all were pushed", || {
            let (_, body) = seen.recv_timeout(patience()).expect("a push");
            last = pushed(if grpc { &body[5..] } else { &body });
            last.len() >= agreed.len()
        });
        assert_eq!(last, agreed, "{protocol}");
    }
}

fn line(scope: &str, name: &str, unit: &str, kind: &str, labels: &str) -> String {
    format!("{scope} {name} [{unit}] ({kind}) {labels}")
}

/// A line for each kind of series; labels here have dots, where Prometheus knows none.
fn rows((scope, name, unit, kind, labels, more): &Pushed) -> Vec<String> {
    let all = labels.join(" ");
    let set = |more: &&str| sorted(all.split(' ').chain(more.split(' ')).filter(|word| !word.is_empty()));
    more.iter().map(|more| line(scope, name, unit, kind, &set(more))).collect()
}

fn pushed(message: &[u8]) -> BTreeSet<String> {
    let mut lines = BTreeSet::new();
    let request = Request::decode(message).unwrap();
    for scope in request.resources.into_iter().flat_map(|resource| resource.scopes) {
        let of = scope.scope.unwrap_or_default().name;
        for Metric { name, unit, data } in scope.metrics {
            let points = match data.unwrap() {
                Data::Gauge(numbers) => {
                    numbers.points.into_iter().map(|point| ("gauge".to_owned(), point.attributes)).collect()
                }
                Data::Histogram(histogram) => histogram.points.into_iter().map(Buckets::kind).collect::<Vec<_>>(),
            };
            for (kind, attributes) in points {
                let names: Vec<String> = attributes.iter().map(|attribute| attribute.key.replace('.', "_")).collect();
                lines.insert(line(&of, &name, &unit, &kind, &sorted(names.iter().map(String::as_str))));
            }
        }
    }
    lines
}

impl Buckets {
    fn kind(self) -> (String, Vec<Attribute>) {
        let bounds: Vec<String> = self.bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]).collect();
        assert_eq!(self.counts.len(), bounds.len());
        (bounds.join(" "), self.attributes)
    }
}

/// `opentelemetry/proto/collector/metrics/v1`, as far as it is looked at here.
#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "2")]
    scopes: Vec<Scoped>,
}

#[derive(Clone, PartialEq, Message)]
struct Scoped {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(oneof = "Data", tags = "5, 9")]
    data: Option<Data>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Data {
    #[prost(message, tag = "5")]
    Gauge(Numbers),
    #[prost(message, tag = "9")]
    Histogram(Histogram),
}

#[derive(Clone, PartialEq, Message)]
struct Numbers {
    #[prost(message, repeated, tag = "1")]
    points: Vec<Number>,
}

#[derive(Clone, PartialEq, Message)]
struct Number {
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(message, repeated, tag = "1")]
    points: Vec<Buckets>,
}

#[derive(Clone, PartialEq, Message)]
struct Buckets {
    #[prost(fixed64, repeated, tag = "6")]
    counts: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    bounds: Vec<f64>,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
}
