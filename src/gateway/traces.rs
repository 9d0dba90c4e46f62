//! Traces of the gateway: one span a request, as Envoy's, pushed over OTLP. Switched while the process runs.
//!
//! Control side: [`follow`] makes the tracer that workers find in [`Live`] and pushes what they queue. Source: net-kourier's
//! `pkg/reconciler/ingress/config/{kourier,tracing}.go`.
use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use tokio::sync::{oneshot, watch};

use super::kourier::Kourier;
use super::live::Live;
use crate::control::push::{self, Signal};
use crate::knative::config_map::Invalid;
use crate::telemetry::observability::{Collector, Sampler, Transport};
use crate::telemetry::otlp;
use crate::telemetry::trace::{Names, Tracer};

/// How often spans go out.
const EVERY: Duration = Duration::from_secs(1);
/// Limit of one push.
const TIME: Duration = Duration::from_secs(5);

/// The keys `tracing-*` of `config-kourier`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where spans go.
    pub collector: Collector,
    /// The share of requests without a caller's decision that are traced; default 1.
    pub rate: f64,
    /// What the gateway is called; default `kourier-knative`.
    pub service: String,
}

impl Settings {
    /// Reads a ConfigMap's values; none without an endpoint.
    ///
    /// # Errors
    /// The first value that can't be used.
    pub fn of_config_map<'a>(text: impl Fn(&str) -> Option<&'a str>) -> Result<Option<Self>, Invalid> {
        let Some(endpoint) = text("tracing-endpoint") else { return Ok(None) };
        let url = endpoint.parse::<Uri>().ok().filter(|url| {
            matches!(url.scheme_str(), Some("http" | "https")) && url.host().is_some() && url.port_u16().is_some()
        });
        let invalid = || Invalid::new("tracing-endpoint", endpoint, "a URL with a port, such as http://collector:4317");
        let transport = match text("tracing-protocol") {
            None | Some("grpc") => Transport::Grpc,
            Some("http/protobuf") => Transport::Http,
            Some(other) => return Err(Invalid::new("tracing-protocol", other, "grpc or http/protobuf")),
        };
        let rate = match text("tracing-sampling-rate") {
            None => 1.0,
            Some(rate) => rate
                .parse()
                .ok()
                .filter(|rate| (0.0..=1.0).contains(rate))
                .ok_or_else(|| Invalid::new("tracing-sampling-rate", rate, "a number from 0.0 to 1.0"))?,
        };
        Ok(Some(Self {
            collector: Collector {
                transport,
                url: url.ok_or_else(invalid)?,
                headers: Vec::new(),
                ca: None,
                timeout: TIME,
            },
            rate,
            service: text("tracing-service-name").unwrap_or("kourier-knative").to_owned(),
        }))
    }
}

/// Follows the settings until `stop` turns true; what is queued then still goes out. `ca` are the authorities of an
/// `https` collector, if they are not the system's.
pub async fn follow(
    mut kourier: watch::Receiver<Arc<Kourier>>,
    live: Arc<Live>,
    ca: Option<PathBuf>,
    mut stop: watch::Receiver<bool>,
) {
    let mut now = None;
    let mut export: Option<Export> = None;
    loop {
        let wanted = kourier.borrow_and_update().tracing.clone();
        if wanted != now {
            let old = export.take();
            export = wanted.clone().map(|mut settings| {
                settings.collector.ca.clone_from(&ca);
                let tracer = Arc::new(Tracer::with_sampler(Sampler::Parent(settings.rate), Names::GATEWAY));
                live.tracer.store(Some(tracer.clone()));
                Export::start(settings, tracer)
            });
            if export.is_none() {
                live.tracer.store(None);
            }
            now = wanted;
            if let Some(old) = old {
                // Beside the new one: its collector may be slow.
                tokio::task::spawn_local(old.end());
            }
        }
        tokio::select! {
            changed = kourier.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if let Some(export) = export {
        export.end().await;
    }
}

/// A task that pushes.
struct Export {
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Export {
    fn start(settings: Settings, tracer: Arc<Tracer>) -> Self {
        let resource = vec![(Cow::Borrowed("service.name"), settings.service)];
        let collect = move || {
            let spans = tracer.spans().take();
            (!spans.is_empty()).then(|| otlp::traces(spans, &resource))
        };
        let (stop, stopped) = oneshot::channel();
        let stopped = async { drop(stopped.await) };
        let task = tokio::task::spawn_local(push::run(settings.collector, Signal::Traces, EVERY, collect, stopped));
        Self { stop, task }
    }

    /// Pushes what is left.
    async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(entries: &[(&str, &'static str)]) -> Result<Option<Settings>, Invalid> {
        Settings::of_config_map(|key| entries.iter().find(|(name, _)| *name == key).map(|(_, value)| *value))
    }

    #[test]
    fn given_an_endpoint_when_read_then_the_rest_has_kouriers_defaults() {
        let settings = read(&[("tracing-endpoint", "http://collector:4317")]).unwrap().unwrap();

        assert_eq!((settings.collector.transport, settings.rate), (Transport::Grpc, 1.0));
        assert_eq!(settings.service, "kourier-knative");
        assert_eq!(read(&[("tracing-protocol", "nonsense")]).unwrap(), None, "without an endpoint nothing counts");
    }

    #[test]
    fn given_a_value_that_cannot_be_used_when_read_then_it_is_named() {
        for (key, value) in [
            ("tracing-endpoint", "http://collector"),
            ("tracing-endpoint", "collector:4317"),
            ("tracing-protocol", "zipkin"),
            ("tracing-sampling-rate", "1.1"),
            ("tracing-sampling-rate", "NaN"),
        ] {
            let error = read(&[(key, value), ("tracing-endpoint", "http://c:1")]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}={value:?}")), "{error}");
        }
    }
}
