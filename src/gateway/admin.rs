//! The gateway's admin port: health, metrics, and what is in force.
//!
//! | path | answer |
//! |---|---|
//! | `/ready` | 200 once everything was read and until the process leaves, else 503 |
//! | `/live` | 200 |
//! | `/stats/prometheus`, `/metrics` | metrics |
//! | `/config`, `/config?host=HOST` | to loopback: what is in force, as JSON ([`super::dump`]) |
use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};

use super::dump;
use super::edge::observe::Counts;
use super::live::Live;
use crate::control::listener::{Handler, Response};
use crate::http::body::Body;
use crate::kube::Activity;
use crate::lifecycle::drain::Drain;
use crate::telemetry::registry::{self, Family, Kind, Label, Point, Value};

/// The admin server.
#[must_use]
pub fn handler(live: Arc<Live>, counts: Arc<Counts>, drain: Arc<Drain>, objects: Activity) -> Handler {
    Rc::new(move |request, peer| {
        let response = match request.uri().path() {
            "/ready" if live.is_ready() => text(StatusCode::OK, "ready\n"),
            "/ready" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
            "/live" => text(StatusCode::OK, "live\n"),
            "/stats/prometheus" | "/metrics" => {
                let mut all = families(&live, &counts, &drain);
                all.extend(objects.families());
                let mut response = text(StatusCode::OK, registry::encode(all));
                let kind = HeaderValue::from_static(registry::CONTENT_TYPE);
                response.headers_mut().insert(header::CONTENT_TYPE, kind);
                response
            }
            "/config" => config(&live, peer.ip(), request.uri().query()),
            _ => text(StatusCode::NOT_FOUND, "404 page not found\n"),
        };
        Box::pin(std::future::ready(response))
    })
}

/// It names every host and Service: for whoever may enter the pod (`kubectl port-forward`).
fn config(live: &Live, peer: IpAddr, query: Option<&str>) -> Response {
    if !peer.to_canonical().is_loopback() {
        return text(StatusCode::FORBIDDEN, "only from loopback: kubectl port-forward\n");
    }
    let config = dump::config(live, query.and_then(|query| query.strip_prefix("host=")));
    let mut response = text(StatusCode::OK, serde_json::to_vec_pretty(&config).unwrap_or_default());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response {
    let mut response = Response::new(Body::full(text.into()));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn families(live: &Live, counts: &Counts, drain: &Drain) -> Vec<Family> {
    let family = |name, help, kind, points| Family { otel_name: "", unit: "", name, help, kind, scope: None, points };
    let number = |value: f64| vec![Point { labels: Vec::new(), value: Value::Number(value) }];
    let classes = counts.by_class.iter().enumerate().map(|(class, count)| {
        let class = if class == 0 { Cow::Borrowed("none") } else { Cow::Owned(format!("{class}xx")) };
        Point {
            labels: vec![(Cow::Borrowed("response_code_class"), Label::Text(class))],
            value: Value::Number(count.load(Ordering::Relaxed) as f64),
        }
    });
    vec![
        family("lockkeeper_gateway_requests_total", "Requests that were answered.", Kind::Counter, classes.collect()),
        counts
            .causes
            .family("lockkeeper_causes_total", "Answers in place of the application's, and responses that were cut."),
        family(
            "lockkeeper_client_left_total",
            "Callers that left before their answer was complete.",
            Kind::Counter,
            number(counts.left.load(Ordering::Relaxed) as f64),
        ),
        counts
            .handshake_failures
            .family("lockkeeper_tls_handshake_failures_total", "TLS handshakes with callers that failed, by cause."),
        family(
            "lockkeeper_gateway_requests_active",
            "Requests under way.",
            Kind::Gauge,
            number(drain.in_flight() as f64),
        ),
        family(
            "lockkeeper_gateway_hosts",
            "Hosts that have routes.",
            Kind::Gauge,
            number(live.routes.load().len() as f64),
        ),
        family(
            "lockkeeper_gateway_certificate_names",
            "Names with a certificate, external and cluster-local.",
            Kind::Gauge,
            number((live.external.names().len() + live.internal.names().len()) as f64),
        ),
        family(
            "lockkeeper_gateway_certificates_unusable",
            "Secrets that are named and missing or broken; the last good pair of each serves, if there was one.",
            Kind::Gauge,
            number(live.unusable_certificates.load(Ordering::Relaxed) as f64),
        ),
        family(
            "lockkeeper_gateway_compilations_total",
            "Ingresses whose routes were compiled: one for each that changed.",
            Kind::Counter,
            number(live.work.compiled.load(Ordering::Relaxed) as f64),
        ),
        family(
            "lockkeeper_gateway_certificates_read_total",
            "Certificates that were parsed: one for each Secret that changed.",
            Kind::Counter,
            number(live.work.certificates.load(Ordering::Relaxed) as f64),
        ),
        family(
            "lockkeeper_gateway_ready",
            "Whether this replica is ready.",
            Kind::Gauge,
            number(f64::from(live.is_ready())),
        ),
        family(
            "lockkeeper_gateway_encryption",
            "Whether system-internal-tls is on.",
            Kind::Gauge,
            number(f64::from(live.encryption.load(Ordering::Relaxed))),
        ),
        family(
            "lockkeeper_gateway_leader",
            "Whether this replica writes status.",
            Kind::Gauge,
            number(f64::from(live.leads())),
        ),
        family(
            "lockkeeper_gateway_events_dropped_total",
            "Kubernetes Events that were not written since there were too many.",
            Kind::Counter,
            number(live.events_dropped.load(Ordering::Relaxed) as f64),
        ),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::tls::client::Connector;
    use crate::tls::policy::Policy;
    use crate::tls::trust;

    fn live() -> Arc<Live> {
        let trust = trust::Store::new();
        Live::new(Arc::new(Connector::new(&Policy::default(), trust.clone())), trust, String::new(), false)
    }

    #[test]
    fn given_a_metric_when_it_is_scraped_then_the_readme_tells_what_it_is() {
        let readme = include_str!("../../README.md");
        let told = families(&live(), &Counts::default(), &Drain::new(1));
        assert!(told.len() > 10);
        for family in told {
            assert!(readme.contains(&format!("`{}`", family.name)), "{} is not in the README", family.name);
        }
    }

    #[test]
    fn given_callers_when_they_ask_for_the_config_then_those_on_loopback_alone_are_told() {
        let live = live();
        for (peer, status) in [
            ("127.0.0.1", StatusCode::OK),
            ("::1", StatusCode::OK),
            ("::ffff:127.0.0.1", StatusCode::OK),
            ("10.0.0.1", StatusCode::FORBIDDEN),
            ("::ffff:10.0.0.1", StatusCode::FORBIDDEN),
        ] {
            assert_eq!(config(&live, peer.parse().unwrap(), None).status(), status, "{peer}");
        }
    }
}
