//! `config-observability`, as far as a component itself is observed: its metrics, traces, request log and profiling.
//!
//! The flat keys of the map become the JSON that the controller would put into `OBSERVABILITY_CONFIG`, so that
//! [`Observability::parse`] is the one reader of both, and the variables override both alike.
//!
//! Source: `knative.dev/pkg/observability/{metrics,tracing,runtime}/config.go`,
//! `knative.dev/serving/pkg/observability/config.go`.
use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::config::env::Env;
use crate::config::value;
use crate::knative::config_map::Invalid;
use crate::telemetry::observability::{self, Observability};
use crate::telemetry::request_log::Template;

/// The name of the ConfigMap, unless `CONFIG_OBSERVABILITY_NAME` says otherwise.
pub const NAME: &str = "config-observability";

/// Where a component's metrics are scraped if the map names no place.
const PROMETHEUS: &str = ":9090";

/// Reads the map's data, the variables over it.
///
/// # Errors
/// The first value that is none of its key's, or can't be used together with others.
pub fn parse(data: &BTreeMap<String, String>, env: &dyn Env) -> Result<Observability, Invalid> {
    let read = Read(data);
    let metrics = read.export("", "metrics", "metrics-export-interval")?;
    read.export("request-", "metrics", "request-metrics-export-interval")?;
    let tracing = read.export("", "tracing", "")?;
    let profiling = read.profiling()?;
    read.interval("runtime-export-interval")?;
    read.boolean("logging.enable-var-log-collection")?;
    let log = read.boolean("logging.enable-request-log")?.unwrap_or(false);
    let log_probes = read.boolean("logging.enable-probe-request-log")?.unwrap_or(false);
    let template = read.template(log)?;
    let top = json!({
        "requestMetrics": metrics, "tracing": tracing, "runtime": { "profiling": profiling },
        "enableRequestLog": log, "enableProbeRequestLog": log_probes,
        "requestLogTemplate": template,
    });
    Observability::parse(&top.to_string(), env).map_err(|error| {
        let key = match error {
            observability::Error::Metrics(_) => "metrics-endpoint",
            observability::Error::Traces(_) => "tracing-endpoint",
            observability::Error::Config(_) => NAME,
        };
        let value = data.get(key).cloned().unwrap_or_default();
        Invalid::because(key, &value, &error.to_string())
    })
}

struct Read<'a>(&'a BTreeMap<String, String>);

impl Read<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|value| value.trim())
    }

    fn boolean(&self, key: &str) -> Result<Option<bool>, Invalid> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        value::bool(value).map(Some).map_err(|invalid| Invalid::new(key, value, invalid.expected))
    }

    /// Nanoseconds.
    fn interval(&self, key: &str) -> Result<Option<u64>, Invalid> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        let duration = value::duration(value).map_err(|invalid| Invalid::new(key, value, invalid.expected))?;
        Ok(u64::try_from(duration.as_nanos()).ok())
    }

    fn profiling(&self) -> Result<&str, Invalid> {
        match self.text("runtime-profiling") {
            None => Ok("disabled"),
            Some(value @ ("enabled" | "disabled")) => Ok(value),
            Some(value) => Err(Invalid::new("runtime-profiling", value, "enabled or disabled")),
        }
    }

    /// One signal: `metrics` or `tracing`. The two differ in their protocols and in what else there is.
    fn export(&self, prefix: &str, signal: &str, interval: &str) -> Result<Value, Invalid> {
        let is_metrics = signal == "metrics";
        let protocol_key = format!("{prefix}{signal}-protocol");
        let endpoint_key = format!("{prefix}{signal}-endpoint");
        let protocol = self.text(&protocol_key).unwrap_or("none");
        let mut endpoint = self.text(&endpoint_key).unwrap_or("");
        match protocol {
            "grpc" | "http/protobuf" if endpoint.is_empty() => {
                return Err(Invalid::new(&endpoint_key, "", "an endpoint, since a protocol is set that needs one"));
            }
            "grpc" | "http/protobuf" => {}
            "prometheus" if is_metrics => {
                if endpoint.is_empty() && prefix.is_empty() {
                    endpoint = PROMETHEUS;
                }
            }
            "none" | "stdout" if !endpoint.is_empty() && (protocol == "none" || !is_metrics) => {
                return Err(Invalid::new(&endpoint_key, endpoint, "no endpoint, since the protocol uses none"));
            }
            "none" => {}
            "stdout" if !is_metrics => {}
            other if is_metrics => {
                return Err(Invalid::new(&protocol_key, other, "none, prometheus, grpc or http/protobuf"));
            }
            other => return Err(Invalid::new(&protocol_key, other, "none, stdout, grpc or http/protobuf")),
        }
        let mut export = Map::new();
        export.insert("protocol".to_owned(), protocol.into());
        export.insert("endpoint".to_owned(), endpoint.into());
        if is_metrics && let Some(nanoseconds) = self.interval(interval)? {
            export.insert("exportInterval".to_owned(), nanoseconds.into());
        }
        if !is_metrics && let Some(value) = self.0.get("tracing-sampling-rate") {
            let rate = value.parse::<f64>().ok().filter(|rate| (0.0..=1.0).contains(rate));
            let rate = rate.ok_or_else(|| Invalid::new("tracing-sampling-rate", value, "a number from 0 to 1"))?;
            export.insert("samplingRate".to_owned(), rate.into());
        }
        Ok(Value::Object(export))
    }

    fn template(&self, log: bool) -> Result<Option<&str>, Invalid> {
        const KEY: &str = "logging.request-log-template";
        let template = self.text(KEY);
        match template {
            Some("") if log => Err(Invalid::new(KEY, "", "a template, since logging.enable-request-log is true")),
            Some(text) => match Template::parse(text) {
                Ok(_) => Ok(Some(text)),
                Err(error) => Err(Invalid::because(KEY, text, &error.to_string())),
            },
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;
    use crate::telemetry::observability::{MetricsExport, Sampler, TraceExport};

    fn read(pairs: &[(&str, &str)]) -> Result<Observability, Invalid> {
        let data = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        parse(&data, &HashMap::new())
    }

    #[test]
    fn given_no_key_then_nothing_is_observed() {
        assert_eq!(read(&[("_example", "x")]).unwrap(), Observability::off());
    }

    #[test]
    fn given_prometheus_without_a_place_then_it_is_port_9090() {
        let MetricsExport::Prometheus(place) = read(&[("metrics-protocol", "prometheus")]).unwrap().metrics else {
            unreachable!("prometheus was asked for");
        };
        assert_eq!((place.host.as_str(), place.port), ("", 9090));
    }

    #[test]
    fn given_collectors_then_both_signals_go_there() {
        let observed = read(&[
            ("metrics-protocol", "http/protobuf"),
            ("metrics-endpoint", "http://collector:4318"),
            ("metrics-export-interval", "1m30s"),
            ("tracing-protocol", "grpc"),
            ("tracing-endpoint", "http://collector:4317"),
            ("tracing-sampling-rate", "0.5"),
            ("runtime-profiling", "enabled"),
            ("logging.enable-request-log", "true"),
        ])
        .unwrap();

        let MetricsExport::Push { every, .. } = observed.metrics else { unreachable!("a push was asked for") };
        assert_eq!(every.as_secs(), 90);
        assert!(matches!(observed.traces, TraceExport::Push(_)));
        assert_eq!(observed.sampler, Sampler::Parent(0.5));
        assert!(observed.profiling);
        assert_eq!(observed.request_log.as_deref(), Some(observability::DEFAULT_REQUEST_LOG_TEMPLATE));
    }

    #[test]
    fn given_a_bad_value_then_its_key_is_named() {
        for (pairs, key) in [
            (&[("metrics-protocol", "statsd")][..], "metrics-protocol"),
            (&[("metrics-protocol", "grpc")][..], "metrics-endpoint"),
            (&[("metrics-endpoint", "x:1")][..], "metrics-endpoint"),
            (&[("request-metrics-protocol", "x")][..], "request-metrics-protocol"),
            (&[("metrics-export-interval", "60")][..], "metrics-export-interval"),
            (&[("tracing-protocol", "zipkin")][..], "tracing-protocol"),
            (&[("tracing-sampling-rate", "2")][..], "tracing-sampling-rate"),
            (&[("runtime-profiling", "on")][..], "runtime-profiling"),
            (&[("logging.enable-request-log", "yes")][..], "logging.enable-request-log"),
            (&[("logging.request-log-template", "{{.Request")][..], "logging.request-log-template"),
            (&[("metrics-protocol", "prometheus"), ("metrics-endpoint", "nowhere")][..], "metrics-endpoint"),
        ] {
            let error = read(pairs).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{key}=")), "{pairs:?}: {error}");
        }
    }
}
