//! Adds workers and revisions up into families, when somebody scrapes or a push is due.

use std::borrow::Cow;
use std::sync::PoisonError;

use super::cold;
use super::labels::Key;
use super::{Count, DURATION, HttpCells, HttpTables, Metrics, SIZE};
use crate::activator::revisions::Revision;
use crate::telemetry::histogram::{Bounds, Cells, Total};
use crate::telemetry::registry::{Family, Kind, Label, Point, Scope, Value, single};
use crate::telemetry::series::Table;

const ACTIVATOR: Scope = Scope { name: "knative.dev/serving/pkg/activator", version: "" };
const OTELHTTP: Scope =
    Scope { name: "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp", version: "0.69.0" };

type Labels = Vec<(Cow<'static, str>, Label)>;

fn text(name: &'static str, value: &str) -> (Cow<'static, str>, Label) {
    (name.into(), Label::Text(value.to_owned().into()))
}

/// The families with names of OpenTelemetry's.
pub(super) fn families(metrics: &Metrics) -> Vec<Family> {
    let revisions = metrics.revisions.all();
    let mut families = gauges(&revisions);
    families.extend(http(metrics, &revisions));
    let link = &metrics.autoscaler;
    let peer = || vec![text("peer", "autoscaler")];
    if link.was_connected() {
        let up = f64::from(u8::from(link.is_connected()));
        families.push(Family {
            otel_name: "kn.activator.stats.conn.reachable",
            unit: "{connection}",
            name: "kn_activator_stats_conn_reachable",
            help: "Whether the connection to the autoscaler is up",
            kind: Kind::Gauge,
            scope: Some(ACTIVATOR),
            points: vec![Point { labels: peer(), value: Value::Number(up) }],
        });
    }
    if link.losses() > 0 {
        families.push(Family {
            otel_name: "kn.activator.stats.conn.errors",
            unit: "{error}",
            name: "kn_activator_stats_conn_errors_total",
            help: "Connections to the autoscaler that were lost",
            kind: Kind::Counter,
            scope: Some(ACTIVATOR),
            points: vec![Point { labels: peer(), value: Value::Number(link.losses() as f64) }],
        });
    }
    families
}

fn gauges(revisions: &[std::sync::Arc<Revision>]) -> Vec<Family> {
    let (mut queued, mut active, mut concurrency) = (Vec::new(), Vec::new(), Vec::new());
    for revision in revisions {
        let Some(in_flight) = revision.load.seen() else { continue };
        let waiting = revision.throttle.counts().waiting;
        let names = || {
            vec![text("k8s.namespace.name", revision.key.namespace()), text("kn.revision.name", revision.key.name())]
        };
        queued.push(Point { labels: names(), value: Value::Number(waiting as f64) });
        let running = (in_flight as usize).saturating_sub(waiting);
        active.push(Point { labels: names(), value: Value::Number(running as f64) });
        if let Some(reported) = revision.load.reported() {
            concurrency.push(Point { labels: of(revision), value: Value::Number(reported) });
        }
    }
    let family = |otel_name, name, help, points| Family {
        otel_name,
        unit: "{request}",
        name,
        help,
        kind: Kind::Gauge,
        scope: Some(ACTIVATOR),
        points,
    };
    vec![
        family(
            "kn.revision.request.queued",
            "kn_revision_request_queued",
            "Number of requests currently queued in the activator waiting for capacity",
            queued,
        ),
        family(
            "kn.revision.request.active",
            "kn_revision_request_active",
            "Number of requests currently being proxied by the activator",
            active,
        ),
        family(
            "kn.revision.request.concurrency",
            "kn_revision_request_concurrency",
            "Concurrent requests that are routed to Activator",
            concurrency,
        ),
    ]
}

fn of(revision: &Revision) -> Labels {
    vec![
        text("k8s.namespace.name", revision.key.namespace()),
        text("kn.service.name", &revision.spec.service),
        text("kn.configuration.name", &revision.spec.configuration),
        text("kn.revision.name", revision.key.name()),
    ]
}

fn http(metrics: &Metrics, revisions: &[std::sync::Arc<Revision>]) -> Vec<Family> {
    type Pick = fn(&HttpCells) -> &Cells;
    let of_all = |table: fn(&HttpTables) -> &Table<Key, HttpCells>, pick: Pick| {
        let mut all = Vec::new();
        for revision in revisions {
            if let Some(tables) = revision.metrics.tables.get() {
                points(table(tables), pick, &of(revision), &mut all);
            }
        }
        if let Some(tables) = metrics.unknown.tables.get() {
            points(table(tables), pick, &Vec::new(), &mut all);
        }
        all
    };
    let family = |[otel_name, unit, name]: [&'static str; 3], help, bounds: &'static Bounds, points| Family {
        otel_name,
        unit,
        name,
        help,
        kind: Kind::Histogram(bounds),
        scope: Some(OTELHTTP),
        points,
    };
    vec![
        family(
            ["http.server.request.duration", "s", "http_server_request_duration_seconds"],
            "Duration of HTTP server requests.",
            &DURATION,
            of_all(|tables| &tables.server, |cells| &cells.duration),
        ),
        family(
            ["http.server.request.body.size", "By", "http_server_request_body_size_bytes"],
            "Size of HTTP server request bodies.",
            &SIZE,
            of_all(|tables| &tables.server, |cells| &cells.request_body),
        ),
        family(
            ["http.server.response.body.size", "By", "http_server_response_body_size_bytes"],
            "Size of HTTP server response bodies.",
            &SIZE,
            of_all(|tables| &tables.server, |cells| &cells.response_body),
        ),
        family(
            ["http.client.request.duration", "s", "http_client_request_duration_seconds"],
            "Duration of HTTP client requests.",
            &DURATION,
            of_all(|tables| &tables.client, |cells| &cells.duration),
        ),
        family(
            ["http.client.request.body.size", "By", "http_client_request_body_size_bytes"],
            "Size of HTTP client request bodies.",
            &SIZE,
            of_all(|tables| &tables.client, |cells| &cells.request_body),
        ),
    ]
}

fn points(table: &Table<Key, HttpCells>, pick: fn(&HttpCells) -> &Cells, own: &Labels, all: &mut Vec<Point>) {
    table.each(|key, workers| {
        let mut total = Total::default();
        workers.for_each(|worker| pick(worker).add_to(&mut total));
        // A worker announces a label set just before it counts the first value.
        if total.count() > 0 {
            let mut labels = key.labels();
            labels.extend(own.iter().cloned());
            all.push(Point { labels, value: Value::Histogram(total) });
        }
    });
}

/// What is only scraped: `target_info` and `lockkeeper_*`.
pub(super) fn extras(metrics: &Metrics) -> Vec<Family> {
    let mut info = single("target_info", "Target metadata", Kind::Gauge, 1.0);
    for point in &mut info.points {
        let labels = metrics.resource.iter().map(|(name, value)| (name.clone(), Label::Text(value.clone().into())));
        point.labels = labels.collect();
    }
    let count = |what, name, help| single(name, help, Kind::Counter, metrics.plain_sum(what) as f64);
    let mut total = Total::default();
    metrics.waited.iter().for_each(|cells| cells.add_to(&mut total));
    let mut families = vec![
        info,
        metrics.causes.family("lockkeeper_causes_total", "Answers that lockkeeper gave, by cause."),
        metrics
            .handshake_failures
            .family("lockkeeper_tls_handshake_failures_total", "TLS handshakes with callers that failed, by cause."),
        Family {
            kind: Kind::Histogram(&DURATION),
            points: vec![Point { labels: Vec::new(), value: Value::Histogram(total) }],
            ..single(
                "lockkeeper_activator_wait_seconds",
                "How long requests waited for a pod, of those that had to.",
                Kind::Gauge,
                0.0,
            )
        },
        cold_starts(&metrics.revisions.all()),
        count(
            Count::Retry,
            "lockkeeper_upstream_retries_total",
            "Requests offered to another pod, since the first took no byte of them.",
        ),
        count(
            Count::Lost,
            "lockkeeper_upstream_lost_total",
            "Requests that went to another pod, since the first went away before a byte of the response.",
        ),
        count(Count::ClientLeft, "lockkeeper_client_left_total", "Callers that left before their answer was complete."),
        count(Count::Waited, "lockkeeper_activator_waited_total", "Requests that had to wait for a pod."),
        single(
            "lockkeeper_log_lines_dropped_total",
            "Lines of the log and the request log dropped because their reader stalled.",
            Kind::Counter,
            crate::telemetry::log::dropped_lines() as f64,
        ),
    ];
    let gauges = metrics.gauges.read().unwrap_or_else(PoisonError::into_inner);
    for gauge in gauges.iter() {
        let Some(value) = (gauge.read)() else { continue };
        let mut family = single(gauge.name, gauge.help, gauge.kind, value);
        for point in &mut family.points {
            point.labels = gauge.labels.iter().map(|(name, value)| text(name, value)).collect();
        }
        match families.iter_mut().find(|known| known.name == gauge.name) {
            Some(known) => known.points.extend(family.points),
            None => families.push(family),
        }
    }
    families
}

fn cold_starts(revisions: &[std::sync::Arc<Revision>]) -> Family {
    let name = "lockkeeper_activator_cold_start_seconds";
    let help = "Cold starts as their first request saw them: until an address was listed, a pod could be used, the \
                request was sent on, and all of it.";
    let mut family = Family { kind: Kind::Histogram(&cold::BOUNDS), ..single(name, help, Kind::Gauge, 0.0) };
    let of = |revision: &Revision, phase| {
        let names = [
            ("k8s_namespace_name", revision.key.namespace()),
            ("kn_revision_name", revision.key.name()),
            ("phase", phase),
        ];
        names.map(|(name, value)| text(name, value)).to_vec()
    };
    let all = revisions.iter().flat_map(|revision| {
        let totals = revision.metrics.cold.totals().into_iter();
        totals.map(|(phase, total)| Point { labels: of(revision, phase), value: Value::Histogram(total) })
    });
    family.points = all.collect();
    family
}
