//! Metrics as data, and as Prometheus' text. The only file that names the `prometheus` crate.
//!
//! Whoever keeps metrics collects them into [`Family`] values when asked: one aggregation for the scrape here and for
//! OTLP in [`crate::telemetry::otlp`]. Control side.

use std::borrow::Cow;

use prometheus::proto;
use prometheus::{Encoder, TextEncoder};

use super::histogram::{Bounds, Total};

/// `Content-Type` of [`encode`]'s result.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8; escaping=underscores";

/// The metrics of a role, as whoever exports them sees them.
pub trait Source: Send + Sync {
    /// The families that are pushed over OTLP.
    fn families(&self) -> Vec<Family>;
    /// The answer to a scrape, of type [`CONTENT_TYPE`].
    fn encode(&self) -> Vec<u8>;
    /// Whose metrics these are: OpenTelemetry's resource attributes.
    fn resource(&self) -> &[(Cow<'static, str>, String)];
}

/// Who made a metric; becomes the labels `otel_scope_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Name of the instrumentation.
    pub name: &'static str,
    /// Its version; may be empty.
    pub version: &'static str,
}

/// What a family counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only ever rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Distribution.
    Histogram(&'static Bounds),
}

impl PartialEq for Bounds {
    fn eq(&self, other: &Self) -> bool {
        self.upper == other.upper
    }
}

impl Eq for Bounds {}

/// All series of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// OpenTelemetry's name, with dots; empty for what is only scraped.
    pub otel_name: &'static str,
    /// OpenTelemetry's unit.
    pub unit: &'static str,
    /// Prometheus' name.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Type.
    pub kind: Kind,
    /// Origin, if OpenTelemetry's.
    pub scope: Option<Scope>,
    /// Series.
    pub points: Vec<Point>,
}

/// A series of a family.
#[derive(Clone, Debug)]
pub struct Point {
    /// Labels with OpenTelemetry's names.
    pub labels: Vec<(Cow<'static, str>, Label)>,
    /// Its value now.
    pub value: Value,
}

/// A label's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Label {
    /// Text.
    Text(Cow<'static, str>),
    /// A number; only OTLP tells it from its text.
    Number(u64),
}

/// A series' value.
#[derive(Clone, Debug)]
pub enum Value {
    /// Of a counter or gauge.
    Number(f64),
    /// Of a histogram.
    Histogram(Total),
}

/// A family without labels.
pub fn single(name: &'static str, help: &'static str, kind: Kind, value: f64) -> Family {
    let points = vec![Point { labels: Vec::new(), value: Value::Number(value) }];
    Family { otel_name: "", unit: "", name, help, kind, scope: None, points }
}

/// Prometheus' text, families sorted by name as Go does it, labels too. Families without a series are left out.
pub fn encode(mut families: Vec<Family>) -> Vec<u8> {
    families.retain(|family| !family.points.is_empty());
    families.sort_by_key(|family| family.name);
    let families: Vec<_> = families.iter().map(convert).collect();
    let mut text = Vec::with_capacity(16 << 10);
    // Writing to memory does not fail, and a family without series, which the encoder refuses, was left out.
    let _ = TextEncoder::new().encode(&families, &mut text);
    text
}

fn convert(family: &Family) -> proto::MetricFamily {
    let mut metrics: Vec<proto::Metric> = family
        .points
        .iter()
        .map(|point| {
            let mut metric = proto::Metric::from_label(labels(family, point));
            match &point.value {
                Value::Histogram(total) => metric.set_histogram(histogram(family.kind, total)),
                Value::Number(n) if family.kind == Kind::Counter => {
                    let mut counter = proto::Counter::default();
                    counter.set_value(*n);
                    metric.set_counter(counter);
                }
                Value::Number(n) => {
                    let mut gauge = proto::Gauge::default();
                    gauge.set_value(*n);
                    metric.set_gauge(gauge);
                }
            }
            metric
        })
        .collect();
    metrics.sort_by(|a, b| values(a).cmp(values(b)));
    let mut converted = proto::MetricFamily::default();
    converted.set_name(family.name.to_owned());
    converted.set_help(family.help.to_owned());
    converted.set_field_type(match family.kind {
        Kind::Counter => proto::MetricType::COUNTER,
        Kind::Gauge => proto::MetricType::GAUGE,
        Kind::Histogram(_) => proto::MetricType::HISTOGRAM,
    });
    converted.set_metric(metrics);
    converted
}

fn values(metric: &proto::Metric) -> impl Iterator<Item = (&str, &str)> {
    metric.get_label().iter().map(|label| (label.name(), label.value()))
}

fn labels(family: &Family, point: &Point) -> Vec<proto::LabelPair> {
    let pair = |name: &str, value: &str| {
        let mut pair = proto::LabelPair::default();
        pair.set_name(sanitize(name));
        pair.set_value(value.to_owned());
        pair
    };
    let mut pairs = Vec::with_capacity(point.labels.len() + 3);
    for (name, value) in &point.labels {
        pairs.push(match value {
            Label::Text(text) => pair(name, text),
            Label::Number(n) => pair(name, &n.to_string()),
        });
    }
    if let Some(scope) = family.scope {
        pairs.push(pair("otel_scope_name", scope.name));
        pairs.push(pair("otel_scope_version", scope.version));
        pairs.push(pair("otel_scope_schema_url", ""));
    }
    pairs.sort_by(|a, b| a.name().cmp(b.name()));
    pairs
}

/// A label name as Prometheus allows it.
fn sanitize(name: &str) -> String {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut name: String = name.chars().map(|c| if ok(c) { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) {
        name.insert(0, '_');
    }
    name
}

fn histogram(kind: Kind, total: &Total) -> proto::Histogram {
    let mut histogram = proto::Histogram::default();
    let Kind::Histogram(bounds) = kind else { return histogram };
    let mut below = 0;
    let buckets = bounds.upper.iter().zip(&total.buckets).map(|(upper, n)| {
        below += n;
        let mut bucket = proto::Bucket::default();
        bucket.set_upper_bound(*upper as f64 / bounds.unit);
        bucket.set_cumulative_count(below);
        bucket
    });
    histogram.set_bucket(buckets.collect());
    histogram.set_sample_count(total.count());
    histogram.set_sample_sum(total.sum as f64 / bounds.unit);
    histogram
}
