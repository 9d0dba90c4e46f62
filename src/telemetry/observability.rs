//! `OBSERVABILITY_CONFIG` and the `OTEL_*` variables over it, parsed once at start into what is on and where it goes.
//!
//! Durations are integers in nanoseconds and names match without case, as in Go's JSON; unknown names are ignored.
//! Nothing is read again later: a change of `config-observability` makes new pods. A variable that can't be used is
//! ignored, with a warning ([`otel`]); what the configuration says is then in force.
//!
//! Source: `knative.dev/serving/pkg/observability` (`Config`), `knative.dev/pkg/observability/{metrics,tracing}`
//! (`readerFor`, `exporterFor`, `endpointFor`, `sampleFor`) and `metrics/prometheus/server.go`.

mod collector;
mod members;
mod otel;
mod prometheus;

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

pub use collector::{Collector, Transport};
pub use otel::{percent_decode, resource_attributes};
pub use prometheus::{ClientAuth, Prometheus, PrometheusTls};

use crate::config::env::Env;
use collector::collector;
use members::Reader;
use prometheus::prometheus;

/// The request log that Knative ships.
pub const DEFAULT_REQUEST_LOG_TEMPLATE: &str = concat!(
    r#"{"httpRequest": {"requestMethod": "{{.Request.Method}}", "requestUrl": "{{js .Request.RequestURI}}", "#,
    r#""requestSize": "{{.Request.ContentLength}}", "status": {{.Response.Code}}, "#,
    r#""responseSize": "{{.Response.Size}}", "userAgent": "{{js .Request.UserAgent}}", "#,
    r#""remoteIp": "{{js .Request.RemoteAddr}}", "serverIp": "{{.Revision.PodIP}}", "#,
    r#""referer": "{{js .Request.Referer}}", "latency": "{{.Response.Latency}}s", "#,
    r#""protocol": "{{.Request.Proto}}"}, "traceId": "{{.TraceID}}"}"#
);

/// Period of pushed metrics if nobody says otherwise (OpenTelemetry's).
const DEFAULT_METRICS_INTERVAL: Duration = Duration::from_secs(60);

/// What is observed, and where it goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Observability {
    /// Request metrics. Default: off.
    pub metrics: MetricsExport,
    /// Traces. Default: off.
    pub traces: TraceExport,
    /// Which requests are traced. Default: none.
    pub sampler: Sampler,
    /// Whether the profiling port is open. Default: no.
    pub profiling: bool,
    /// Template of the request log, if it is on and not empty. Default: off.
    pub request_log: Option<String>,
    /// Whether probes are in the request log too. Default: no.
    pub log_probes: bool,
}

/// How request metrics leave.
#[derive(Clone, Debug, PartialEq)]
pub enum MetricsExport {
    /// Not at all; no port is open.
    Off,
    /// Scraped from an own port.
    Prometheus(Prometheus),
    /// Pushed to a collector.
    Push {
        /// Where to.
        to: Collector,
        /// How often.
        every: Duration,
    },
}

/// How traces leave.
#[derive(Clone, Debug, PartialEq)]
pub enum TraceExport {
    /// Not at all; `traceparent` passes untouched.
    Off,
    /// As lines on stdout.
    Stdout,
    /// Pushed to a collector.
    Push(Collector),
}

/// Which requests are traced.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampler {
    /// All, whatever the caller says.
    Always,
    /// None.
    Never,
    /// This share of trace ids.
    Ratio(f64),
    /// As the caller decided; this share of those that begin here.
    Parent(f64),
}

/// A setting that the process can't start with. [`Error::message`] is the log line, the error itself its reason.
#[derive(Debug, PartialEq)]
pub enum Error {
    /// Not JSON, or a value of the wrong type.
    Config(String),
    /// Metrics can't be set up this way.
    Metrics(String),
    /// Traces can't be set up this way.
    Traces(String),
}

impl Error {
    /// What the process says when it gives up.
    pub fn message(&self) -> &'static str {
        match self {
            Self::Config(_) => "failed to parse OBSERVABILITY_CONFIG",
            Self::Metrics(_) => "Failed to setup meter provider",
            Self::Traces(_) => "Failed to setup trace provider",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Config(reason) | Self::Metrics(reason) | Self::Traces(reason)) = self;
        f.write_str(reason)
    }
}

impl std::error::Error for Error {}

impl Observability {
    /// Everything off: what an absent or empty `OBSERVABILITY_CONFIG` means.
    pub fn off() -> Self {
        Self {
            metrics: MetricsExport::Off,
            traces: TraceExport::Off,
            sampler: Sampler::Never,
            profiling: false,
            request_log: None,
            log_probes: false,
        }
    }

    /// Parses the value of `OBSERVABILITY_CONFIG` (empty: all off) with the overrides of `env`.
    pub fn parse(json: &str, env: &dyn Env) -> Result<Self, Error> {
        if json.is_empty() {
            return Ok(Self::off());
        }
        let top = match serde_json::from_str(json) {
            Ok(Value::Object(top)) => top,
            Ok(Value::Null) => Map::new(),
            Ok(_) => return Err(Error::Config("expected a JSON object".into())),
            Err(e) if e.is_syntax() || e.is_eof() => return Err(Error::Config(format!("expected a JSON object: {e}"))),
            Err(e) => return Err(Error::Config(e.to_string())),
        };
        let read = Reader { object: Some(&top), path: "" };
        // Everything is read before anything is judged: a value of a wrong type is fatal even where it has no effect.
        let raw_metrics = RawExport::read(&read, "requestMetrics")?;
        RawExport::read(&read, "metrics")?;
        let raw_traces = RawExport::read(&read, "tracing")?;
        let runtime = Reader { object: read.object("runtime")?, path: "runtime" };
        runtime.integer("exportInterval")?;
        let profiling = runtime.text("profiling")?.is_some_and(|p| p == "enabled");
        let log_requests = read.boolean("enableRequestLog")?.unwrap_or(false);
        let template = read.text("requestLogTemplate")?.unwrap_or(DEFAULT_REQUEST_LOG_TEMPLATE);
        let log_probes = read.boolean("enableProbeRequestLog")?.unwrap_or(false);
        read.boolean("EnableVarLogCollection")?;
        read.text("LoggingURLTemplate")?;

        let traces = raw_traces.traces(env)?;
        Ok(Self {
            metrics: raw_metrics.metrics(env)?,
            sampler: raw_traces.sampler(&traces, env)?,
            traces,
            profiling,
            request_log: (log_requests && !template.is_empty()).then(|| template.to_owned()),
            log_probes,
        })
    }
}

/// One of the JSON objects `requestMetrics`, `metrics`, `tracing`.
struct RawExport<'a> {
    protocol: &'a str,
    endpoint: &'a str,
    interval: i64,
    rate: f64,
}

impl<'a> RawExport<'a> {
    fn read(read: &Reader<'a>, name: &'static str) -> Result<Self, Error> {
        let read = Reader { object: read.object(name)?, path: name };
        Ok(Self {
            protocol: read.text("protocol")?.unwrap_or("none"),
            endpoint: read.text("endpoint")?.unwrap_or(""),
            interval: read.integer("exportInterval")?.unwrap_or(0),
            rate: read.number("samplingRate")?.unwrap_or(0.0),
        })
    }

    fn metrics(&self, env: &dyn Env) -> Result<MetricsExport, Error> {
        let transport = match self.protocol {
            "none" => return Ok(MetricsExport::Off),
            "prometheus" => {
                let port = prometheus(self.endpoint, env).map_err(|e| format!("error creating reader: {e}"));
                return Ok(MetricsExport::Prometheus(port.map_err(Error::Metrics)?));
            }
            "grpc" => Transport::Grpc,
            "http/protobuf" => Transport::Http,
            other => {
                let reason = format!(
                    "error creating reader: unsupported metric exporter: {other:?} (requestMetrics.protocol={other:?}: \
                     expected none, prometheus, grpc or http/protobuf)"
                );
                return Err(Error::Metrics(reason));
            }
        };
        let to = collector(transport, "METRICS", self.endpoint, env)
            .map_err(|e| Error::Metrics(format!("error creating reader: unable to process metrics endpoint: {e}")))?;
        let configured = Duration::from_nanos(u64::try_from(self.interval).unwrap_or(0));
        let every = otel::millis(env, "OTEL_METRIC_EXPORT_INTERVAL").unwrap_or(configured);
        let every = if every.is_zero() { DEFAULT_METRICS_INTERVAL } else { every };
        Ok(MetricsExport::Push { to, every })
    }

    fn traces(&self, env: &dyn Env) -> Result<TraceExport, Error> {
        let transport = match self.protocol {
            "none" => return Ok(TraceExport::Off),
            "stdout" => return Ok(TraceExport::Stdout),
            "grpc" => Transport::Grpc,
            "http/protobuf" => Transport::Http,
            other => {
                let reason = format!(
                    "error creating tracer exporter: unsupported metric exporter: {other:?} (tracing.protocol={other:?}: \
                     expected none, stdout, grpc or http/protobuf)"
                );
                return Err(Error::Traces(reason));
            }
        };
        let to = collector(transport, "TRACES", self.endpoint, env).map_err(|e| {
            Error::Traces(format!("error creating tracer exporter: unable to process traces endpoint: {e}"))
        })?;
        Ok(TraceExport::Push(to))
    }

    fn sampler(&self, export: &TraceExport, env: &dyn Env) -> Result<Sampler, Error> {
        if *export == TraceExport::Off {
            return Ok(Sampler::Never);
        }
        if let Some(sampler) = otel::usable(env, SAMPLER, SAMPLERS, Named::parse) {
            let share = || otel::usable(env, SAMPLER_ARG, "a number from 0 to 1", share).unwrap_or(1.0);
            return Ok(match sampler {
                Named::Is(sampler) => sampler,
                Named::Ratio => Sampler::Ratio(share()),
                Named::ParentRatio => Sampler::Parent(share()),
            });
        }
        if *export == TraceExport::Stdout {
            return Ok(Sampler::Always);
        }
        // Not OpenTelemetry's but Knative's own reading, which does not start with a bad one. The argument of a sampler
        // that nobody knows, as `jaeger_remote` has one, is ignored with it.
        let rate = match set(env, SAMPLER_ARG).filter(|_| set(env, SAMPLER).is_none()) {
            Some(argument) => argument.parse().ok().filter(|rate: &f64| !rate.is_nan()).ok_or_else(|| {
                let reason = format!("unable to parse sample rate override: parsing {argument:?}: invalid syntax");
                let named = format!("{SAMPLER_ARG}={argument:?}: expected a number from 0 to 1");
                Error::Traces(format!("error creating tracer sampler: {reason} ({named})"))
            })?,
            None => self.rate,
        };
        Ok(if rate >= 1.0 {
            Sampler::Always
        } else if rate > 0.0 {
            Sampler::Parent(rate)
        } else {
            Sampler::Never
        })
    }
}

const SAMPLER: &str = "OTEL_TRACES_SAMPLER";
const SAMPLER_ARG: &str = "OTEL_TRACES_SAMPLER_ARG";
const SAMPLERS: &str = "always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off or \
                        parentbased_traceidratio";

/// What `OTEL_TRACES_SAMPLER` names; the ratios have their share from `OTEL_TRACES_SAMPLER_ARG`, default all.
enum Named {
    Is(Sampler),
    Ratio,
    ParentRatio,
}

impl Named {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "always_on" => Self::Is(Sampler::Always),
            "always_off" => Self::Is(Sampler::Never),
            "parentbased_always_on" => Self::Is(Sampler::Parent(1.0)),
            "parentbased_always_off" => Self::Is(Sampler::Parent(0.0)),
            "traceidratio" => Self::Ratio,
            "parentbased_traceidratio" => Self::ParentRatio,
            _ => return None,
        })
    }
}

fn share(text: &str) -> Option<f64> {
    text.parse().ok().filter(|share| (0.0..=1.0).contains(share))
}

/// A variable that is present and not empty.
fn set(env: &dyn Env, name: &str) -> Option<String> {
    env.var(name).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests;
