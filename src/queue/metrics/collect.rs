//! Adds the workers up into families, when somebody scrapes or a push is due.

use std::borrow::Cow;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use super::labels::HttpKey;
use super::{Count, DURATION, Metrics, SIZE, Words};
use crate::telemetry::histogram::{Bounds, Cells, Total};
use crate::telemetry::registry::{Family, Kind, Label, Point, Scope, Value, single};
use crate::telemetry::series::Table;

const QUEUE: Scope = Scope { name: "knative.dev/serving/pkg/queue", version: "" };
const OTELHTTP: Scope =
    Scope { name: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp", version: "0.69.0" };

type Labels = Vec<(Cow<'static, str>, Label)>;

/// The families with names of OpenTelemetry's.
pub(super) fn families(metrics: &Metrics) -> Vec<Family> {
    let mut families = vec![
        histogram(
            QUEUE,
            ["kn.serving.invocation.duration", "s", "kn_serving_invocation_duration_seconds"],
            "The duration of task execution",
            &DURATION,
            points(&metrics.invocation, |cells| cells),
        ),
        histogram(
            OTELHTTP,
            ["http.server.request.duration", "s", "http_server_request_duration_seconds"],
            "Duration of HTTP server requests.",
            &DURATION,
            points(&metrics.server, |cells| &cells.duration),
        ),
        histogram(
            OTELHTTP,
            ["http.server.request.body.size", "By", "http_server_request_body_size_bytes"],
            "Size of HTTP server request bodies.",
            &SIZE,
            points(&metrics.server, |cells| &cells.request_body),
        ),
        histogram(
            OTELHTTP,
            ["http.server.response.body.size", "By", "http_server_response_body_size_bytes"],
            "Size of HTTP server response bodies.",
            &SIZE,
            points(&metrics.server, |cells| &cells.response_body),
        ),
        histogram(
            OTELHTTP,
            ["http.client.request.duration", "s", "http_client_request_duration_seconds"],
            "Duration of HTTP client requests.",
            &DURATION,
            points(&metrics.client, |cells| &cells.duration),
        ),
        histogram(
            OTELHTTP,
            ["http.client.request.body.size", "By", "http_client_request_body_size_bytes"],
            "Size of HTTP client request bodies.",
            &SIZE,
            points(&metrics.client, |cells| &cells.request_body),
        ),
    ];
    families.extend(gauges(metrics, true));
    families
}

/// What is only scraped: `target_info`, `promhttp_*` and `lockkeeper_*`.
pub(super) fn extras(metrics: &Metrics) -> Vec<Family> {
    let text = |value: &str| Label::Text(value.to_owned().into());
    let mut info = single("target_info", "Target metadata", Kind::Gauge, 1.0);
    for point in &mut info.points {
        point.labels = metrics.resource.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    }
    let mut scrapes = single(
        "promhttp_metric_handler_requests_total",
        "Total number of scrapes by HTTP status code.",
        Kind::Counter,
        0.0,
    );
    scrapes.points = ["200", "500", "503"]
        .into_iter()
        .zip(&metrics.scrapes)
        .map(|(code, n)| point(vec![("code".into(), text(code))], n.load(Ordering::Relaxed)))
        .collect();
    let in_flight = metrics.scrapes_in_flight.load(Ordering::Relaxed) as f64;
    let mut families = vec![
        info,
        scrapes,
        single(
            "promhttp_metric_handler_requests_in_flight",
            "Current number of scrapes being served.",
            Kind::Gauge,
            in_flight,
        ),
        count(metrics, Count::Retry, "lockkeeper_upstream_retries_total", "Requests sent upstream again."),
        count(
            metrics,
            Count::UpstreamOpened,
            "lockkeeper_upstream_connections_opened_total",
            "Connections opened to the application.",
        ),
        count(
            metrics,
            Count::UpstreamReused,
            "lockkeeper_upstream_connections_reused_total",
            "Requests that used a pooled connection to the application.",
        ),
        count(
            metrics,
            Count::Held,
            "lockkeeper_requests_held_total",
            "Requests held until the application took connections.",
        ),
        count(
            metrics,
            Count::ClientLeft,
            "lockkeeper_client_left_total",
            "Callers that left before their answer was complete.",
        ),
        words(metrics, Words::Causes, "lockkeeper_causes_total", "Answers that lockkeeper gave, by cause.", &["cause"]),
        words(
            metrics,
            Words::Accepted,
            "lockkeeper_connections_accepted_total",
            "Connections accepted, by port.",
            &["port"],
        ),
        words(
            metrics,
            Words::HandshakeFailures,
            "lockkeeper_tls_handshake_failures_total",
            "TLS handshakes that failed, by cause.",
            &["cause"],
        ),
        words(
            metrics,
            Words::Handshakes,
            "lockkeeper_tls_handshakes_total",
            "TLS handshakes that succeeded.",
            &["version", "suite", "group"],
        ),
        single(
            "lockkeeper_log_lines_dropped_total",
            "Lines of the log and the request log dropped because their reader stalled.",
            Kind::Counter,
            crate::telemetry::log::dropped_lines() as f64,
        ),
    ];
    families.extend(gauges(metrics, false));
    families
}

fn histogram(
    scope: Scope,
    [otel_name, unit, name]: [&'static str; 3],
    help: &'static str,
    bounds: &'static Bounds,
    points: Vec<Point>,
) -> Family {
    Family { otel_name, unit, name, help, kind: Kind::Histogram(bounds), scope: Some(scope), points }
}

fn points<C: Default>(table: &Table<HttpKey, C>, cells: impl Fn(&C) -> &Cells) -> Vec<Point> {
    let mut points = Vec::new();
    table.each(|key, workers| {
        let mut total = Total::default();
        workers.for_each(|worker| cells(worker).add_to(&mut total));
        // A worker announces a label set just before it counts the first value.
        if total.count() > 0 {
            points.push(Point { labels: key.labels(), value: Value::Histogram(total) });
        }
    });
    points
}

fn gauges(metrics: &Metrics, otel: bool) -> Vec<Family> {
    let gauges = metrics.gauges.read().unwrap_or_else(PoisonError::into_inner);
    let wanted = gauges.iter().filter(|gauge| gauge.otel_name.is_empty() != otel);
    let family = |gauge: &super::Gauge| {
        let mut family = single(gauge.name, gauge.help, gauge.kind, (gauge.read)()?);
        if otel {
            (family.otel_name, family.unit, family.scope) = (gauge.otel_name, "{request}", Some(QUEUE));
        }
        Some(family)
    };
    wanted.filter_map(family).collect()
}

fn count(metrics: &Metrics, what: Count, name: &'static str, help: &'static str) -> Family {
    let counters = metrics.plain.iter().filter_map(|plain| plain.counts.get(what as usize));
    single(name, help, Kind::Counter, sum(counters) as f64)
}

fn words(
    metrics: &Metrics,
    kind: Words,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
) -> Family {
    let known = metrics.words.get(kind as usize).map(|words| words.lock().unwrap_or_else(PoisonError::into_inner));
    let known = known.map(|words| words.clone()).unwrap_or_default();
    let mut family = single(name, help, Kind::Counter, 0.0);
    let series = known.into_iter().enumerate().map(|(index, word)| {
        let counters = metrics.plain.iter().filter_map(|plain| plain.words.get(kind as usize)?.get(index));
        let labels: Labels = labels.iter().zip(word).map(|(k, v)| ((*k).into(), Label::Text(v.into()))).collect();
        point(labels, sum(counters))
    });
    family.points = series.collect();
    family
}

fn sum<'a>(counters: impl Iterator<Item = &'a AtomicU64>) -> u64 {
    counters.map(|counter| counter.load(Ordering::Relaxed)).sum()
}

fn point(labels: Labels, value: u64) -> Point {
    Point { labels, value: Value::Number(value as f64) }
}
