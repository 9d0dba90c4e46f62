//! `OBSERVABILITY_CONFIG` and the `OTEL_*` variables over it, parsed once at start into what is on and where it goes.
//!
//! Durations are integers in nanoseconds and names match without case, as in Go's JSON; unknown names are ignored.
//! Nothing is read again later: a change of `config-observability` makes new pods.
//!
//! Source: `knative.dev/serving/pkg/observability` (`Config`), `knative.dev/pkg/observability/{metrics,tracing}`
//! (`readerFor`, `exporterFor`, `endpointFor`, `sampleFor`) and `metrics/prometheus/server.go`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use http::Uri;
use serde_json::{Map, Value};

use crate::config::env::Env;

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
/// Limit of one push (OpenTelemetry's).
const DEFAULT_PUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a collector listens by convention.
const DEFAULT_GRPC_COLLECTOR: &str = "http://localhost:4317";
const DEFAULT_HTTP_COLLECTOR: &str = "http://localhost:4318";
/// Port of the user metrics of a queue (`networking.UserQueueMetricsPort`).
const DEFAULT_PROMETHEUS_PORT: u16 = 9091;

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

/// The port that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct Prometheus {
    /// Address to listen on; empty: all.
    pub host: String,
    /// 1024 to 65535. Default: 9091.
    pub port: u16,
    /// TLS, if a certificate is named.
    pub tls: Option<PrometheusTls>,
}

/// TLS of the port that Prometheus scrapes.
#[derive(Clone, Debug, PartialEq)]
pub struct PrometheusTls {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Key, PEM.
    pub key: PathBuf,
    /// Whether the scraper must show a certificate. Default: no.
    pub client_auth: ClientAuth,
    /// What that certificate must be issued by; present unless `client_auth` is `None`.
    pub client_ca: Option<PathBuf>,
}

/// Whether a scraper shows a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// It is not asked.
    None,
    /// It is asked and checked, but may have none.
    Optional,
    /// It must.
    Require,
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

/// An OTLP endpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct Collector {
    /// Framing.
    pub transport: Transport,
    /// Where: scheme `http` or `https`, authority, and for [`Transport::Http`] the path to post to.
    pub url: Uri,
    /// Extra request headers. May hold secrets: not logged.
    pub headers: Vec<(String, String)>,
    /// CA certificates for `https`, PEM. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// Limit of one push. Default: 10 s.
    pub timeout: Duration,
}

/// OTLP's framings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// gRPC over HTTP/2.
    Grpc,
    /// A protobuf message as the body of a POST.
    Http,
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
                let reason = format!("error creating reader: unsupported metric exporter: {other:?}");
                return Err(Error::Metrics(reason));
            }
        };
        let to = collector(transport, "METRICS", self.endpoint, env)
            .map_err(|e| Error::Metrics(format!("error creating reader: unable to process metrics endpoint: {e}")))?;
        let every = match set(env, "OTEL_METRIC_EXPORT_INTERVAL") {
            Some(millis) => millis.trim().parse().map(Duration::from_millis).unwrap_or_default(),
            None => Duration::from_nanos(u64::try_from(self.interval).unwrap_or(0)),
        };
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
                let reason = format!("error creating tracer exporter: unsupported metric exporter: {other:?}");
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
        let argument = set(env, "OTEL_TRACES_SAMPLER_ARG");
        if let Some(name) = set(env, "OTEL_TRACES_SAMPLER") {
            let share = argument.and_then(|a| a.trim().parse().ok()).unwrap_or(1.0);
            return Ok(match name.trim().to_ascii_lowercase().as_str() {
                "always_on" => Sampler::Always,
                "always_off" => Sampler::Never,
                "traceidratio" => Sampler::Ratio(share),
                "parentbased_always_off" => Sampler::Parent(0.0),
                "parentbased_traceidratio" => Sampler::Parent(share),
                _ => Sampler::Parent(1.0),
            });
        }
        if *export == TraceExport::Stdout {
            return Ok(Sampler::Always);
        }
        let rate = match argument {
            Some(argument) => argument.parse().map_err(|_| {
                let reason = format!("unable to parse sample rate override: parsing {argument:?}: invalid syntax");
                Error::Traces(format!("error creating tracer sampler: {reason}"))
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

fn prometheus(endpoint: &str, env: &dyn Env) -> Result<Prometheus, String> {
    let (mut host, mut port) = (String::new(), DEFAULT_PROMETHEUS_PORT.to_string());
    if !endpoint.is_empty() {
        (host, port) = split_host_port(endpoint).ok_or_else(|| {
            format!("metrics-endpoint {endpoint:?} for prometheus exporter should be \"host:port\", \"host%zone:port\", \"[host]:port\" or \"[host%zone]:port\"")
        })?;
    }
    host = set(env, "METRICS_PROMETHEUS_HOST").unwrap_or(host);
    port = set(env, "METRICS_PROMETHEUS_PORT").unwrap_or(port);
    let server = |why: String| format!("create prometheus metrics server: {why}");
    let number: u16 = port.parse().map_err(|_| {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let why = if digits { "value out of range" } else { "invalid syntax" };
        server(format!(
            "prometheus port {port:?} could not be parsed as a port number: strconv.ParseUint: parsing {port:?}: {why}"
        ))
    })?;
    if number < 1024 {
        return Err(server(format!("prometheus port {number}, should be between 1024 and 65535")));
    }
    Ok(Prometheus { host, port: number, tls: prometheus_tls(env).map_err(server)? })
}

fn prometheus_tls(env: &dyn Env) -> Result<Option<PrometheusTls>, String> {
    const CERT: &str = "METRICS_PROMETHEUS_TLS_CERT";
    const KEY: &str = "METRICS_PROMETHEUS_TLS_KEY";
    const AUTH: &str = "METRICS_PROMETHEUS_TLS_CLIENT_AUTH";
    const CA: &str = "METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE";
    let auth = set(env, AUTH).unwrap_or_default();
    let client_auth = match auth.trim().to_lowercase().as_str() {
        "" | "none" => ClientAuth::None,
        "optional" => ClientAuth::Optional,
        "require" => ClientAuth::Require,
        _ => return Err(format!("invalid {AUTH} {auth:?}: must be \"none\", \"optional\", or \"require\"")),
    };
    let client_ca = set(env, CA).filter(|ca| !ca.trim().is_empty()).map(PathBuf::from);
    let (cert, key) = match (set(env, CERT), set(env, KEY)) {
        (Some(cert), Some(key)) => (cert.into(), key.into()),
        (None, None) if client_auth != ClientAuth::None || client_ca.is_some() => {
            return Err(format!("{AUTH} and {CA} require TLS to be enabled ({CERT} and {KEY} must be set)"));
        }
        (None, None) => return Ok(None),
        _ => return Err(format!("both {CERT} and {KEY} must be set or neither")),
    };
    match (client_auth, &client_ca) {
        (ClientAuth::None, Some(_)) => Err(format!("{CA} is set but {AUTH} is {auth:?}")),
        (ClientAuth::Optional | ClientAuth::Require, None) => {
            Err(format!("{CA} must be set when {AUTH} is {auth:?} (client certs cannot be validated without a CA)"))
        }
        _ => Ok(Some(PrometheusTls { cert, key, client_auth, client_ca })),
    }
}

/// Go's `net.SplitHostPort`, without zones.
fn split_host_port(text: &str) -> Option<(String, String)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = match host.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']')?,
        None if host.contains([':', '[', ']']) => return None,
        None => host,
    };
    Some((host.to_owned(), port.to_owned()))
}

/// The collector of one signal (`METRICS` or `TRACES`): the variables first, then the configuration.
fn collector(transport: Transport, signal: &str, endpoint: &str, env: &dyn Env) -> Result<Collector, String> {
    let own = |what: &str| {
        set(env, &format!("OTEL_EXPORTER_OTLP_{signal}_{what}"))
            .or_else(|| set(env, &format!("OTEL_EXPORTER_OTLP_{what}")))
    };
    let path = format!("/v1/{}", signal.to_ascii_lowercase());
    let mut base = false;
    let url = if let Some(url) = set(env, &format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")) {
        url
    } else if let Some(url) = set(env, "OTEL_EXPORTER_OTLP_ENDPOINT") {
        base = true;
        url
    } else if endpoint.is_empty() {
        let default = if transport == Transport::Grpc { DEFAULT_GRPC_COLLECTOR } else { DEFAULT_HTTP_COLLECTOR };
        default.to_owned()
    } else {
        with_scheme(endpoint)?
    };
    let uri: Uri = url.parse().map_err(|e| format!("parse {url:?}: {e}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none_or(str::is_empty) {
        return Err(format!("parse {url:?}: expected an http or https URL"));
    }
    Ok(Collector {
        transport,
        url: with_path(&uri, transport, &path, base)?,
        headers: own("HEADERS").map(|h| parse_headers(&h)).unwrap_or_default(),
        ca: own("CERTIFICATE").map(PathBuf::from),
        timeout: own("TIMEOUT")
            .and_then(|t| t.trim().parse().ok().filter(|t| *t > 0).map(Duration::from_millis))
            .unwrap_or(DEFAULT_PUSH_TIMEOUT),
    })
}

/// A name with a port looks like a scheme to Go's URL parser, which then makes it `https`; an address with a port is
/// no URL to it.
fn with_scheme(endpoint: &str) -> Result<String, String> {
    if endpoint.contains("://") {
        return Ok(endpoint.to_owned());
    }
    let Some((name, _)) = endpoint.split_once(':') else {
        return Err(format!("parse {endpoint:?}: expected an http or https URL"));
    };
    let mut letters = name.bytes();
    let scheme = letters.next().is_some_and(|b| b.is_ascii_alphabetic())
        && letters.all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    if scheme {
        Ok(format!("https://{endpoint}"))
    } else {
        Err(format!("parse {endpoint:?}: first path segment in URL cannot contain colon"))
    }
}

/// gRPC has no path of its own; over HTTP a URL of one signal is used as it is, unless it has no path, and a base URL
/// gets the signal's path behind its own.
fn with_path(uri: &Uri, transport: Transport, signal: &str, base: bool) -> Result<Uri, String> {
    // The parser gives a URL without a path the path "/"; that counts as none.
    let own = uri.path_and_query().map_or("", |p| p.as_str());
    let path = match (transport, own) {
        (Transport::Grpc, _) => "/".to_owned(),
        (Transport::Http, "" | "/") => signal.to_owned(),
        (Transport::Http, own) if base => format!("{}{signal}", own.trim_end_matches('/')),
        (Transport::Http, own) => own.to_owned(),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(path.parse().map_err(|e| format!("path {path:?}: {e}"))?);
    Uri::from_parts(parts).map_err(|e| e.to_string())
}

/// `a=b,c=d`, values percent-encoded; what does not parse is left out, as the SDK does.
fn parse_headers(text: &str) -> Vec<(String, String)> {
    let pair = |part: &str| {
        let (name, value) = part.split_once('=')?;
        Some((name.trim().to_ascii_lowercase(), percent_decode(value.trim())?))
    };
    text.split(',').filter_map(pair).filter(|(name, _)| !name.is_empty()).collect()
}

/// Undoes percent-encoding; nothing if it is broken or not UTF-8.
pub fn percent_decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digit = |b: u8| char::from(b).to_digit(16);
            let (high, low) = (digit(bytes.next()?)?, digit(bytes.next()?)?);
            out.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            out.push(byte);
        }
    }
    String::from_utf8(out).ok()
}

/// A variable that is present and not empty.
fn set(env: &dyn Env, name: &str) -> Option<String> {
    env.var(name).filter(|value| !value.is_empty())
}

/// Typed members of a JSON object by their name without case; null counts as absent.
struct Reader<'a> {
    /// Nothing if the object is absent: then so are its members.
    object: Option<&'a Map<String, Value>>,
    path: &'static str,
}

impl<'a> Reader<'a> {
    fn value<T>(
        &self,
        name: &str,
        expected: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(object) = self.object else { return Ok(None) };
        let exact = object.get(name);
        let any = || object.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value);
        match exact.or_else(any) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => match read(value) {
                Some(value) => Ok(Some(value)),
                None => Err(Error::Config(format!("{}.{name}: expected {expected}", self.path))),
            },
        }
    }

    fn object(&self, name: &str) -> Result<Option<&'a Map<String, Value>>, Error> {
        self.value(name, "an object", Value::as_object)
    }

    fn text(&self, name: &str) -> Result<Option<&'a str>, Error> {
        self.value(name, "a string", Value::as_str)
    }

    fn boolean(&self, name: &str) -> Result<Option<bool>, Error> {
        self.value(name, "true or false", Value::as_bool)
    }

    fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        self.value(name, "an integer (nanoseconds)", Value::as_i64)
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Error> {
        self.value(name, "a number", Value::as_f64)
    }
}

#[cfg(test)]
mod tests;
