//! Settings of the queue role: the variables that Knative's controller sets, and our own.
//!
//! Called once at start, before any thread or logger exists. Names, order and messages of the first group are those of
//! `knative.dev/serving/pkg/queue/sharedmain/main.go`; our own begin with `LOCKKEEPER_`, except `WORKER_THREADS`. TLS
//! policies, the logging and the observability settings are kept as text: `tls` and `telemetry` parse them.
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use super::readiness::Probe;
use crate::config::env::{Env, Reader};
use crate::config::error::{Error, Errors, shown};
use crate::config::value::{self, Invalid};
use crate::http::layer::timeouts::Style;
use crate::knative::names;
use crate::tls::settings::{CallerAuth, PolicyText};

/// Everything that the queue is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `CONTAINER_CONCURRENCY`: requests that run at once; `None` (below 1) is no limit and no breaker.
    pub container_concurrency: Option<NonZeroU32>,
    /// `QUEUE_SERVING_PORT`: port of the cleartext server; 0 (or empty): any free one.
    pub serving_port: u16,
    /// `QUEUE_SERVING_TLS_PORT` as it came; see [`Config::serving_tls_port`].
    pub serving_tls_port: String,
    /// `USER_PORT` as it came: with a bad one the queue starts and answers 502.
    pub user_port: String,
    /// `USER_PORT`, if it is a port.
    pub user_port_number: Option<u16>,
    /// `REVISION_TIMEOUT_SECONDS`; `None` for 0 or less: off.
    pub revision_timeout: Option<Duration>,
    /// `REVISION_RESPONSE_START_TIMEOUT_SECONDS`, default off.
    pub response_start_timeout: Option<Duration>,
    /// `REVISION_IDLE_TIMEOUT_SECONDS`, default off.
    pub idle_timeout: Option<Duration>,
    /// `SERVING_READINESS_PROBE`; none: always ready.
    pub readiness: Vec<Probe>,
    /// `ENABLE_HTTP_FULL_DUPLEX`, default false. The proxy core is always full duplex; kept for the log.
    pub full_duplex: bool,
    /// `ENABLE_HTTP2_AUTO_DETECTION`, default false: HTTP readiness tries h2c first.
    pub http2_auto_detection: bool,
    /// `SERVING_LOGGING_CONFIG`: a zap configuration as JSON, may be empty.
    pub logging_config: String,
    /// `SERVING_LOGGING_LEVEL`: may be empty.
    pub logging_level: String,
    /// Who this pod is.
    pub identity: Identity,
    /// `OBSERVABILITY_CONFIG` as it came: JSON, empty is all off.
    pub observability: String,
    /// `PROFILING_PORT` as it came; see [`Config::profiling_port`].
    pub profiling_port: String,
    /// `QUEUE_PROXY_TLS_*` as they came.
    pub tls: PolicyText,
    /// `METRICS_PROMETHEUS_TLS_*`, the policy alone, as they came.
    pub metrics_tls: PolicyText,
    /// Our own settings.
    pub own: Own,
}

/// Names of this pod for logs, metrics and the autoscaler.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// `SERVING_NAMESPACE`.
    pub namespace: String,
    /// `SERVING_SERVICE`, may be empty.
    pub service: String,
    /// `SERVING_CONFIGURATION`.
    pub configuration: String,
    /// `SERVING_REVISION`.
    pub revision: String,
    /// `SERVING_POD`: `pod_name` in the statistics.
    pub pod: String,
    /// `SERVING_POD_IP`.
    pub pod_ip: String,
    /// `POD_NAME`, else `HOSTNAME`: the resource attribute `k8s.pod.name` only.
    pub resource_pod: String,
}

/// Settings that the Go queue does not have. An absent or empty variable means the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// `LOCKKEEPER_CERT_DIR`: directory of `tls.crt`, `tls.key` and `ca.crt`; default `/var/lib/knative/certs`.
    pub certificates: PathBuf,
    /// `LOCKKEEPER_LISTEN_ADDRESS`: address that every server listens on; default every one, IPv4 and IPv6.
    pub listen_address: Option<IpAddr>,
    /// `LOCKKEEPER_ADMIN_PORT`: pre-stop hooks, 0 is any free one; default 8022.
    pub admin_port: u16,
    /// `LOCKKEEPER_STATS_PORT`: statistics for the autoscaler, 0 is any free one; default 9090.
    pub stats_port: u16,
    /// `LOCKKEEPER_METRICS_TLS`: the statistics port speaks TLS as well, with the pod's certificate; plaintext stays, since
    /// Knative's autoscaler speaks nothing else; default false.
    pub metrics_tls: bool,
    /// `WORKER_THREADS`: number of worker threads, at most 1024; default by CPU quota.
    pub worker_threads: Option<u32>,
    /// `LOCKKEEPER_DRAIN_QUIET_PERIOD`: time without requests that ends a drain; default 30 s.
    pub drain_quiet_period: Duration,
    /// `LOCKKEEPER_DRAIN_PROBE_RESET`: time after a pre-stop hook within which a signal must come, else the drain is
    /// undone; default 1 s.
    pub drain_reset_window: Duration,
    /// `LOCKKEEPER_SHUTDOWN_GRACE`: longest time from the signal to the exit; default the revision's timeout, without one
    /// an hour.
    pub shutdown_grace: Option<Duration>,
    /// `LOCKKEEPER_STRICT`: the cleartext port serves only loopback and kubelet's probes, with and without a certificate;
    /// default false.
    pub strict: bool,
    /// `LOCKKEEPER_CLIENT_AUTH` (`off`, `request` or `require`; default off) and `LOCKKEEPER_CLIENT_AUTH_SANS`: names of
    /// which a caller's certificate must have one, comma-separated; default `kn-routing`.
    pub client_auth: CallerAuth,
    /// `LOCKKEEPER_CLIENT_IDLE_TIMEOUT`: closes connections from callers on which nothing happens; default none, else
    /// at least 120 s, above what gateways keep.
    pub client_idle_timeout: Option<Duration>,
    /// `LOCKKEEPER_HEADER_READ_TIMEOUT`: longest time to read a request's header; default 60 s.
    pub header_read_timeout: Duration,
    /// `LOCKKEEPER_MAX_HEADER_BYTES`: longest header of a request, bytes; default 1 MiB as the Go queue.
    pub max_header_bytes: u32,
    /// `LOCKKEEPER_MAX_HEADERS`: most header lines of a request or response over HTTP/1.1; default 500 as the Go queue.
    pub max_headers: u32,
    /// `LOCKKEEPER_MAX_CONCURRENT_STREAMS`: HTTP/2 streams a connection; default 250 as the Go queue.
    pub max_concurrent_streams: u32,
    /// `LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT`: how long an idle connection to the application is kept; default 90 s as the
    /// Go queue.
    pub upstream_idle_timeout: Duration,
    /// `LOCKKEEPER_HOLD_ON_RESTART`: longest time that a request is held while the application refuses connections;
    /// default 0, off.
    pub hold_on_restart: Duration,
    /// `LOCKKEEPER_TIMEOUT_STYLE`: `strict` or `original`, what becomes of a response that has begun when its time is
    /// up; default strict.
    pub timeout_style: Style,
}

/// Idle time that a gateway or an activator may count on.
const MIN_CLIENT_IDLE: Duration = Duration::from_secs(120);

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// All mistakes at once, the first one as the Go queue words it.
    pub fn from_env(env: &dyn Env) -> Result<Self, Errors> {
        let mut read = Reader::new(env);

        // The order of Go's struct: the first mistake is the one that it prints.
        let concurrency = read.required("CONTAINER_CONCURRENCY", "ContainerConcurrency", value::int);
        let serving_port = read.required("QUEUE_SERVING_PORT", "QueueServingPort", value::text);
        let serving_tls_port = read.required("QUEUE_SERVING_TLS_PORT", "QueueServingTLSPort", value::text);
        let user_port = read.required("USER_PORT", "UserPort", value::text);
        let timeout = read.required("REVISION_TIMEOUT_SECONDS", "RevisionTimeoutSeconds", value::int);
        let response_start = read.optional(
            "REVISION_RESPONSE_START_TIMEOUT_SECONDS",
            "RevisionResponseStartTimeoutSeconds",
            0,
            value::int,
        );
        let idle = read.optional("REVISION_IDLE_TIMEOUT_SECONDS", "RevisionIdleTimeoutSeconds", 0, value::int);
        let full_duplex = read.optional("ENABLE_HTTP_FULL_DUPLEX", "EnableHTTPFullDuplex", false, value::bool);
        let detection = read.optional("ENABLE_HTTP2_AUTO_DETECTION", "EnableHTTP2AutoDetection", false, value::bool);
        let multi = read.optional("ENABLE_MULTI_CONTAINER_PROBES", "EnableMultiContainerProbes", false, value::bool);
        let logging_config = read.required("SERVING_LOGGING_CONFIG", "ServingLoggingConfig", value::text);
        let logging_level = read.required("SERVING_LOGGING_LEVEL", "ServingLoggingLevel", value::text);
        let namespace = read.required("SERVING_NAMESPACE", "ServingNamespace", value::text);
        let configuration = read.required("SERVING_CONFIGURATION", "ServingConfiguration", value::text);
        let revision = read.required("SERVING_REVISION", "ServingRevision", value::text);
        let pod = read.required("SERVING_POD", "ServingPod", value::text);
        let pod_ip = read.required("SERVING_POD_IP", "ServingPodIP", value::text);

        let readiness = readiness(&mut read, multi.unwrap_or_default());
        let serving_port = serving_port.and_then(|port| checked_serving_port(&mut read, &port));
        let own = Own::read(&mut read);

        let service = read.text("SERVING_SERVICE");
        let resource_pod = read.non_empty("POD_NAME").unwrap_or_else(|| read.text("HOSTNAME"));
        let observability = read.text("OBSERVABILITY_CONFIG");
        let profiling_port = read.text("PROFILING_PORT");
        let tls = PolicyText::read(&read, "QUEUE_PROXY_");
        let metrics_tls = PolicyText::read(&read, "METRICS_PROMETHEUS_");
        read.finish(|| {
            let user_port = user_port?;
            Some(Self {
                container_concurrency: limit(concurrency?),
                serving_port: serving_port?,
                serving_tls_port: serving_tls_port?,
                user_port_number: value::port(&user_port).ok(),
                user_port,
                revision_timeout: seconds(timeout?),
                response_start_timeout: seconds(response_start?),
                idle_timeout: seconds(idle?),
                readiness: readiness?,
                full_duplex: full_duplex?,
                http2_auto_detection: detection?,
                logging_config: logging_config?,
                logging_level: logging_level?,
                identity: Identity {
                    namespace: namespace?,
                    service,
                    configuration: configuration?,
                    revision: revision?,
                    pod: pod?,
                    pod_ip: pod_ip?,
                    resource_pod,
                },
                observability,
                profiling_port,
                tls,
                metrics_tls,
                own: own?,
            })
        })
    }

    /// The port of the profiling server, default 8008; to be asked for only when profiling is on.
    ///
    /// # Errors
    /// It is no port, in words.
    pub fn profiling_port(&self) -> Result<u16, String> {
        match self.profiling_port.as_str() {
            "" => Ok(names::PORT_PROFILING),
            port => value::port_or_zero(port).map_err(|invalid| no_port("profile", "PROFILING_PORT", port, &invalid)),
        }
    }

    /// The port of the TLS server; to be asked for only when there are certificates. 0 (or empty): any free one.
    ///
    /// # Errors
    /// A fatal mistake, as for an unusable cleartext port.
    pub fn serving_tls_port(&self) -> Result<u16, Error> {
        listen_port(&self.serving_tls_port, "main tls", "QUEUE_SERVING_TLS_PORT")
    }
}

impl Own {
    fn read(read: &mut Reader<'_>) -> Option<Self> {
        // Each is read before the first `?`, so that every mistake is reported.
        let certificates = read.or("LOCKKEEPER_CERT_DIR", names::QUEUE_CERTIFICATES.into(), |v| Ok(PathBuf::from(v)));
        let listen_address = read.or("LOCKKEEPER_LISTEN_ADDRESS", None, |v| value::ip(v).map(Some));
        let admin_port = read.or("LOCKKEEPER_ADMIN_PORT", names::PORT_ADMIN, value::port_or_zero);
        let stats_port = read.or("LOCKKEEPER_STATS_PORT", names::PORT_STATISTICS, value::port_or_zero);
        let metrics_tls = read.or("LOCKKEEPER_METRICS_TLS", false, value::bool);
        let worker_threads = read.or("WORKER_THREADS", None, |v| value::threads(v).map(Some));
        let quiet = read.or("LOCKKEEPER_DRAIN_QUIET_PERIOD", Duration::from_secs(30), value::duration);
        let reset = read.or("LOCKKEEPER_DRAIN_PROBE_RESET", Duration::from_secs(1), value::duration);
        let grace = read.or("LOCKKEEPER_SHUTDOWN_GRACE", None, duration_or_off);
        let strict = read.or("LOCKKEEPER_STRICT", false, value::bool);
        let client_auth = CallerAuth::read(read, names::SAN_ROUTING);
        let client_idle = read.or("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", None, client_idle);
        let header_read = read.or("LOCKKEEPER_HEADER_READ_TIMEOUT", Duration::from_secs(60), value::duration);
        let header_bytes = read.or("LOCKKEEPER_MAX_HEADER_BYTES", 1 << 20, value::bytes);
        let headers = read.or("LOCKKEEPER_MAX_HEADERS", 500, value::count);
        let streams = read.or("LOCKKEEPER_MAX_CONCURRENT_STREAMS", 250, value::count);
        let upstream_idle = read.or("LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT", Duration::from_secs(90), value::duration);
        let hold = read.or("LOCKKEEPER_HOLD_ON_RESTART", Duration::ZERO, value::duration);
        let style = read.or("LOCKKEEPER_TIMEOUT_STYLE", Style::Strict, Style::parse);
        Some(Self {
            certificates: certificates?,
            listen_address: listen_address?,
            admin_port: admin_port?,
            stats_port: stats_port?,
            metrics_tls: metrics_tls?,
            worker_threads: worker_threads?,
            drain_quiet_period: quiet?,
            drain_reset_window: reset?,
            shutdown_grace: grace?,
            strict: strict?,
            client_auth: client_auth?,
            client_idle_timeout: client_idle?,
            header_read_timeout: header_read?,
            max_header_bytes: header_bytes?,
            max_headers: headers?,
            max_concurrent_streams: streams?,
            upstream_idle_timeout: upstream_idle?,
            hold_on_restart: hold?,
            timeout_style: style?,
        })
    }
}

fn readiness(read: &mut Reader<'_>, multi: bool) -> Option<Vec<Probe>> {
    const NAME: &str = "SERVING_READINESS_PROBE";
    let text = read.text(NAME);
    let expected = if multi { "a JSON array of Kubernetes probes" } else { "a Kubernetes probe as JSON" };
    Probe::parse_all(&text, multi)
        .map_err(|error| {
            read.mistake(Error::Fatal {
                message: "Queue container failed to parse readiness probe",
                error: format!("{NAME}={}: expected {expected}: {error}", shown(&text)),
            });
        })
        .ok()
}

fn checked_serving_port(read: &mut Reader<'_>, port: &str) -> Option<u16> {
    listen_port(port, "main", "QUEUE_SERVING_PORT").map_err(|mistake| read.mistake(mistake)).ok()
}

/// Decimal only: a service name such as `http`, which Go looks up, is refused.
fn listen_port(port: &str, server: &str, variable: &str) -> Result<u16, Error> {
    if port.is_empty() {
        return Ok(0);
    }
    value::port_or_zero(port).map_err(|invalid| Error::Fatal {
        message: "Failed to bring up queue-proxy, shutting down.",
        error: no_port(server, variable, port, &invalid),
    })
}

/// Go's words, then ours.
fn no_port(server: &str, variable: &str, port: &str, invalid: &Invalid) -> String {
    let expected = format!("{variable}={}: expected {}", shown(port), invalid.expected);
    format!("{server} server failed to serve: listen tcp: address {port}: invalid port ({expected})")
}

fn limit(concurrency: i64) -> Option<NonZeroU32> {
    let clamped = u32::try_from(concurrency.clamp(0, i64::from(u32::MAX))).unwrap_or_default();
    NonZeroU32::new(clamped)
}

fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs)
}

fn duration_or_off(value: &str) -> Result<Option<Duration>, Invalid> {
    value::duration(value).map(|duration| (!duration.is_zero()).then_some(duration))
}

fn client_idle(value: &str) -> Result<Option<Duration>, Invalid> {
    match duration_or_off(value)? {
        Some(idle) if idle < MIN_CLIENT_IDLE => Err(Invalid::new("0 (never) or a duration of at least 120s")),
        other => Ok(other),
    }
}

#[cfg(test)]
mod tests;
