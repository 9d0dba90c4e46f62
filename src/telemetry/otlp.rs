//! OTLP: metrics and spans as the protobuf messages that collectors take. Encodes only; `control/push.rs` sends.
//!
//! Control side. The messages below are the part of opentelemetry-proto 1.x that we fill, with its field numbers.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use prost::Message;

use super::registry::{Family, Kind, Label, Point, Value};
use super::trace::{Attribute, Span};

/// Name and value of what a telemetry source is.
pub type Resource = [(Cow<'static, str>, String)];

/// A request of the metrics service: cumulative values since `start`. Families without a name of OpenTelemetry's are
/// left out.
pub fn metrics(families: &[Family], resource: &Resource, start: SystemTime, now: SystemTime) -> Vec<u8> {
    let (start, now) = (nanos(start), nanos(now));
    let mut scopes: Vec<ScopeMetrics> = Vec::new();
    for family in families.iter().filter(|family| !family.otel_name.is_empty() && !family.points.is_empty()) {
        let (name, version) = family.scope.map_or(("", ""), |scope| (scope.name, scope.version));
        let metric = metric(family, start, now);
        match scopes.iter_mut().find(|known| known.scope.as_ref().is_some_and(|scope| scope.name == name)) {
            Some(known) => known.metrics.push(metric),
            None => scopes.push(ScopeMetrics { scope: scope(name, version), metrics: vec![metric] }),
        }
    }
    let resource_metrics = vec![ResourceMetrics { resource: source(resource), scope_metrics: scopes }];
    MetricsRequest { resource_metrics }.encode_to_vec()
}

/// A request of the trace service.
pub fn traces(spans: Vec<Span>, resource: &Resource) -> Vec<u8> {
    let mut scopes: Vec<ScopeSpans> = Vec::new();
    for span in spans {
        let name = span.scope;
        let span = span_message(span);
        match scopes.iter_mut().find(|known| known.scope.as_ref().is_some_and(|scope| scope.name == name)) {
            Some(known) => known.spans.push(span),
            None => scopes.push(ScopeSpans { scope: scope(name, ""), spans: vec![span] }),
        }
    }
    let resource_spans = vec![ResourceSpans { resource: source(resource), scope_spans: scopes }];
    TracesRequest { resource_spans }.encode_to_vec()
}

fn nanos(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn scope(name: &str, version: &str) -> Option<Scope> {
    Some(Scope { name: name.to_owned(), version: version.to_owned() })
}

fn source(resource: &Resource) -> Option<ResourceMessage> {
    Some(ResourceMessage { attributes: resource.iter().map(|(name, value)| text(name, value)).collect() })
}

fn text(name: &str, value: &str) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(Any::Text(value.to_owned())) }) }
}

fn int(name: &str, value: i64) -> KeyValue {
    KeyValue { key: name.to_owned(), value: Some(AnyValue { value: Some(Any::Int(value)) }) }
}

fn metric(family: &Family, start: u64, now: u64) -> Metric {
    let number = |point: &Point| NumberPoint {
        attributes: labels(point),
        start_time: start,
        time: now,
        value: match point.value {
            Value::Number(n) => n,
            Value::Histogram(_) => 0.0,
        },
    };
    let data = match family.kind {
        Kind::Gauge => Data::Gauge(Gauge { points: family.points.iter().map(number).collect() }),
        Kind::Counter => Data::Sum(Sum {
            points: family.points.iter().map(number).collect(),
            temporality: CUMULATIVE,
            monotonic: true,
        }),
        Kind::Histogram(bounds) => {
            let bounds_in_units: Vec<f64> = bounds.upper.iter().map(|upper| *upper as f64 / bounds.unit).collect();
            let point = |point: &Point| {
                let Value::Histogram(total) = &point.value else { return None };
                Some(HistogramPoint {
                    attributes: labels(point),
                    start_time: start,
                    time: now,
                    count: total.count(),
                    sum: Some(total.sum as f64 / bounds.unit),
                    buckets: total.buckets.iter().take(bounds.upper.len() + 1).copied().collect(),
                    bounds: bounds_in_units.clone(),
                })
            };
            Data::Histogram(Histogram {
                points: family.points.iter().filter_map(point).collect(),
                temporality: CUMULATIVE,
            })
        }
    };
    Metric {
        name: family.otel_name.to_owned(),
        description: family.help.to_owned(),
        unit: family.unit.to_owned(),
        data: Some(data),
    }
}

fn labels(point: &Point) -> Vec<KeyValue> {
    let attribute = |(name, value): &(Cow<'static, str>, Label)| match value {
        Label::Text(value) => text(name, value),
        Label::Number(n) => int(name, i64::try_from(*n).unwrap_or(i64::MAX)),
    };
    point.labels.iter().map(attribute).collect()
}

fn span_message(span: Span) -> SpanMessage {
    SpanMessage {
        trace_id: span.trace_id.to_be_bytes().to_vec(),
        span_id: span.id.to_be_bytes().to_vec(),
        parent_span_id: if span.parent == 0 { Vec::new() } else { span.parent.to_be_bytes().to_vec() },
        name: span.name,
        kind: span.kind as i32,
        start: span.start,
        end: span.end,
        attributes: span
            .attributes
            .into_iter()
            .map(|(name, value)| match value {
                Attribute::Text(value) => text(name, &value),
                Attribute::Int(n) => int(name, n),
            })
            .collect(),
        status: span.failed.then_some(Status { code: STATUS_ERROR }),
        flags: SAMPLED,
    }
}

const CUMULATIVE: i32 = 2;
const STATUS_ERROR: i32 = 2;
const SAMPLED: u32 = 1;

#[derive(Clone, PartialEq, Message)]
struct MetricsRequest {
    #[prost(message, repeated, tag = "1")]
    resource_metrics: Vec<ResourceMetrics>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMetrics {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_metrics: Vec<ScopeMetrics>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeMetrics {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    metrics: Vec<Metric>,
}

#[derive(Clone, PartialEq, Message)]
struct Metric {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    description: String,
    #[prost(string, tag = "3")]
    unit: String,
    #[prost(oneof = "Data", tags = "5, 7, 9")]
    data: Option<Data>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Data {
    #[prost(message, tag = "5")]
    Gauge(Gauge),
    #[prost(message, tag = "7")]
    Sum(Sum),
    #[prost(message, tag = "9")]
    Histogram(Histogram),
}

#[derive(Clone, PartialEq, Message)]
struct Gauge {
    #[prost(message, repeated, tag = "1")]
    points: Vec<NumberPoint>,
}

#[derive(Clone, PartialEq, Message)]
struct Sum {
    #[prost(message, repeated, tag = "1")]
    points: Vec<NumberPoint>,
    #[prost(int32, tag = "2")]
    temporality: i32,
    #[prost(bool, tag = "3")]
    monotonic: bool,
}

#[derive(Clone, PartialEq, Message)]
struct Histogram {
    #[prost(message, repeated, tag = "1")]
    points: Vec<HistogramPoint>,
    #[prost(int32, tag = "2")]
    temporality: i32,
}

#[derive(Clone, PartialEq, Message)]
struct NumberPoint {
    #[prost(message, repeated, tag = "7")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start_time: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(double, tag = "4")]
    value: f64,
}

#[derive(Clone, PartialEq, Message)]
struct HistogramPoint {
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(fixed64, tag = "2")]
    start_time: u64,
    #[prost(fixed64, tag = "3")]
    time: u64,
    #[prost(fixed64, tag = "4")]
    count: u64,
    #[prost(double, optional, tag = "5")]
    sum: Option<f64>,
    #[prost(fixed64, repeated, tag = "6")]
    buckets: Vec<u64>,
    #[prost(double, repeated, tag = "7")]
    bounds: Vec<f64>,
}

#[derive(Clone, PartialEq, Message)]
struct TracesRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<ResourceMessage>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<SpanMessage>,
}

#[derive(Clone, PartialEq, Message)]
struct SpanMessage {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceMessage {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Any", tags = "1, 3")]
    value: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Any {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(int64, tag = "3")]
    Int(i64),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::telemetry::histogram::{Bounds, Cells, Total};
    use crate::telemetry::registry;
    use crate::telemetry::trace;
    use std::time::Duration;

    static BOUNDS: Bounds = Bounds { upper: &[500_000_000, 1_000_000_000], unit: 1e9 };

    #[test]
    fn when_a_histogram_is_encoded_then_its_buckets_and_labels_arrive() {
        let cells = Cells::default();
        [1_000_000_000, 2_000_000_000].iter().for_each(|value| cells.observe(&BOUNDS, *value));
        let mut total = Total::default();
        cells.add_to(&mut total);
        let family = Family {
            otel_name: "http.server.request.duration",
            unit: "s",
            name: "http_server_request_duration_seconds",
            help: "Help.",
            kind: Kind::Histogram(&BOUNDS),
            scope: Some(registry::Scope { name: "otelhttp", version: "0.69.0" }),
            points: vec![Point {
                labels: vec![("http.response.status_code".into(), Label::Number(200))],
                value: Value::Histogram(total),
            }],
        };
        let scraped_only = registry::single("lockkeeper_x_total", "Help.", Kind::Counter, 1.0);
        let resource = [(Cow::Borrowed("service.name"), "hello".to_owned())];

        let now = UNIX_EPOCH + Duration::from_secs(9);
        let bytes = metrics(&[family, scraped_only], &resource, UNIX_EPOCH, now);

        let decoded = MetricsRequest::decode(bytes.as_slice()).unwrap();
        let of = &decoded.resource_metrics[0];
        assert_eq!(of.resource, Some(ResourceMessage { attributes: vec![text("service.name", "hello")] }));
        assert_eq!(of.scope_metrics[0].scope, scope("otelhttp", "0.69.0"));
        assert_eq!((of.scope_metrics.len(), of.scope_metrics[0].metrics.len()), (1, 1));
        let Some(Data::Histogram(histogram)) = &of.scope_metrics[0].metrics[0].data else { panic!("no histogram") };
        let point = &histogram.points[0];
        assert_eq!(point.attributes, [int("http.response.status_code", 200)]);
        assert_eq!((point.buckets.as_slice(), point.bounds.as_slice()), (&[0, 1, 1][..], &[0.5, 1.0][..]));
        assert_eq!((point.count, point.sum, point.time), (2, Some(3.0), 9_000_000_000));
    }

    #[test]
    fn when_spans_are_encoded_then_they_are_grouped_by_scope() {
        let span = |scope, id, failed| Span {
            trace_id: 7,
            id,
            parent: id - 1,
            scope,
            name: "GET".into(),
            kind: trace::Kind::Server,
            start: 1,
            end: 2,
            attributes: vec![("url.path", Attribute::Text("/".into()))],
            failed,
        };

        let bytes = traces(vec![span("a", 1, true), span("b", 2, false), span("a", 3, false)], &[]);

        let scopes = &TracesRequest::decode(bytes.as_slice()).unwrap().resource_spans[0].scope_spans;
        assert_eq!(scopes.iter().map(|scope| scope.spans.len()).collect::<Vec<_>>(), [2, 1]);
        let first = &scopes[0].spans[0];
        assert_eq!((first.trace_id.len(), first.parent_span_id.len(), first.kind), (16, 0, 2));
        assert_eq!(first.status, Some(Status { code: STATUS_ERROR }));
        assert_eq!(scopes[0].spans[1].parent_span_id, 2_u64.to_be_bytes());
    }
}
