//! Settings of the activator role: the variables that Knative's manifest sets, and our own.
//!
//! Called once at start, before any thread or logger exists. Names and defaults of the first group are those of
//! `knative.dev/serving/cmd/activator/main.go`; our own begin with `LOCKKEEPER_`, except `WORKER_THREADS`. Where objects
//! come from (`KUBERNETES_*`, `KUBECONFIG`, `LOCKKEEPER_MANIFEST_DIR`) is read by [`crate::kube::source`], `OTEL_*` and
//! `METRICS_PROMETHEUS_*` by [`crate::telemetry::observability`].
use std::net::IpAddr;
use std::time::Duration;

use super::throttle::{Choice, Slicing};
use crate::config::env::{Env, Reader};
use crate::config::error::Errors;
use crate::config::value::{self, Invalid};
use crate::control::scrape;
use crate::http::layer::timeouts::Style;
use crate::knative::{cluster_domain, logging, names, observability};
use crate::tls::settings::{CallerAuth, PolicyText};

/// Prefix of the variables of the TLS server's policy.
pub const TLS_PREFIX: &str = "ACTIVATOR_";

/// Everything that the activator is told.
#[derive(Clone, Debug)]
pub struct Config {
    /// `POD_NAME`: who reports to the autoscaler.
    pub pod_name: String,
    /// `POD_IP`: this activator's address as Endpoints spell it.
    pub pod_ip: String,
    /// `SYSTEM_NAMESPACE`: where config maps, the certificate and the autoscaler are.
    pub system_namespace: String,
    /// `MAX_IDLE_PROXY_CONNS`: idle HTTP/1.1 connections to pods in all; default 1000.
    pub max_idle: usize,
    /// `MAX_IDLE_PROXY_CONNS_PER_HOST`: the same for one pod; default 100.
    pub max_idle_per_host: usize,
    /// `PROBE_TIMEOUT`: shortest limit of one probe; it grows with the measured round trip. Default 300 ms.
    pub probe_timeout: Duration,
    /// `PROBE_FREQUENCY`: longest pause between two probes of a pod that was never reached; default 200 ms.
    pub probe_frequency: Duration,
    /// `CONFIG_LOGGING_NAME`; default `config-logging`.
    pub logging_name: String,
    /// `CONFIG_OBSERVABILITY_NAME`; default `config-observability`.
    pub observability_name: String,
    /// `CLUSTER_DOMAIN`, else from the resolver's search list, else `cluster.local`.
    pub cluster_domain: String,
    /// `KUBERNETES_MIN_VERSION`; default `v1.34.0`.
    pub kubernetes_min_version: String,
    /// `PROFILING_PORT`; default 8008.
    pub profiling_port: u16,
    /// `ACTIVATOR_TLS_*` as they came: for the server alone.
    pub tls: PolicyText,
    /// `METRICS_PROMETHEUS_TLS_*`, the policy alone, as they came.
    pub metrics_tls: PolicyText,
    /// Our own settings.
    pub own: Own,
}

/// What a lost link to the autoscaler means for readiness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoscalerReadiness {
    /// Not ready until the link was up once.
    Once,
    /// Not ready whenever it is down: the original's behaviour.
    Always,
    /// Not ready until it was up once, and after it has been down for so long.
    After(Duration),
}

/// Settings that the Go activator does not have. An absent or empty variable means the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Own {
    /// `LOCKKEEPER_LISTEN_ADDRESS`: address that every server listens on; default every one, IPv4 and IPv6.
    pub listen_address: Option<IpAddr>,
    /// `LOCKKEEPER_HTTP_PORT`: default 8012; 0 is any free one.
    pub http_port: u16,
    /// `LOCKKEEPER_HTTP2_PORT`: default 8013; 0 is any free one.
    pub http2_port: u16,
    /// `LOCKKEEPER_TLS_PORT`: default 8112; 0 is any free one.
    pub tls_port: u16,
    /// `LOCKKEEPER_QUEUE_TLS_PORT`: the port on which queues speak TLS; default 8112.
    pub queue_tls_port: u16,
    /// `LOCKKEEPER_CLIENT_AUTH` (`off`, `request` or `require`; default off) and `LOCKKEEPER_CLIENT_AUTH_SANS`: names of
    /// which the certificate of a caller of the TLS port must have one, comma-separated; default `kn-routing`, the name of
    /// what routes requests here.
    pub client_auth: CallerAuth,
    /// `LOCKKEEPER_AUTOSCALER`: host and port of the autoscaler; default that of the system namespace.
    pub autoscaler: Option<String>,
    /// `LOCKKEEPER_AUTOSCALER_READINESS`: `once`, `always`, or a duration of at least 1 s; default `once`.
    pub autoscaler_readiness: AutoscalerReadiness,
    /// `WORKER_THREADS`: number of worker threads, at most 1024; default by CPU quota.
    pub worker_threads: Option<u32>,
    /// `LOCKKEEPER_QUEUE_DEPTH`: requests that may wait for one revision; default 10000.
    pub queue_depth: u32,
    /// `LOCKKEEPER_WAITING_BYTES`: what all waiting requests may hold; default 60 per cent of the memory limit.
    pub waiting_bytes: Option<u32>,
    /// `LOCKKEEPER_WAITING_TIMEOUT`: longest time that a request waits for a pod; default 0, the revision's timeouts alone.
    pub waiting_timeout: Option<Duration>,
    /// `LOCKKEEPER_RETRY_LOST`: whether a request without a body whose method is idempotent goes to another pod, once, when
    /// its pod goes away before a byte of the response; default true.
    pub retry_lost: bool,
    /// `LOCKKEEPER_TIMEOUT_STYLE`: `strict` or `original`, what becomes of a response that has begun when its time is
    /// up; default strict.
    pub timeout_style: Style,
    /// `LOCKKEEPER_CONNECT_TIMEOUT`: longest time for TCP to connect to a pod; default 1 s.
    pub connect_timeout: Duration,
    /// `LOCKKEEPER_HANDSHAKE_TIMEOUT`: longest time for a TLS handshake with a pod; default 5 s.
    pub handshake_timeout: Duration,
    /// `LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT`: how long an idle connection to a pod is kept; default 90 s.
    pub upstream_idle_timeout: Duration,
    /// `LOCKKEEPER_ACCEPT_LEGACY_SAN`: take `data-plane.knative.dev` in a pod's certificate in place of the name of its
    /// namespace; default false.
    pub accept_legacy_san: bool,
    /// `LOCKKEEPER_BALANCE`: `least-loaded` or `original`; default least-loaded.
    pub choice: Choice,
    /// `LOCKKEEPER_SLICING`: `rendezvous` or `original`; default rendezvous.
    pub slicing: Slicing,
    /// `LOCKKEEPER_BORROW`: use pods of other activators when all of ours are busy; default true.
    pub borrow: bool,
    /// `LOCKKEEPER_DRAIN_TIME`: how long everything is served as before after SIGTERM; default 45 s.
    pub drain_time: Duration,
    /// `LOCKKEEPER_SHUTDOWN_GRACE`: longest time from the signal to the exit; default none.
    pub shutdown_grace: Option<Duration>,
    /// `LOCKKEEPER_CLIENT_IDLE_TIMEOUT`: closes connections from callers on which nothing happens; default none.
    pub client_idle_timeout: Option<Duration>,
    /// `LOCKKEEPER_HEADER_READ_TIMEOUT`: TLS handshake and header of a connection's first request; default 60 s.
    pub header_read_timeout: Duration,
    /// `LOCKKEEPER_MAX_HEADER_BYTES`: longest header of a request; default 1 MiB.
    pub max_header_bytes: u32,
    /// `LOCKKEEPER_MAX_HEADERS`: most header lines of a message over HTTP/1.1; default 500.
    pub max_headers: u32,
    /// `LOCKKEEPER_MAX_CONCURRENT_STREAMS`: HTTP/2 streams a connection; default 250.
    pub max_concurrent_streams: u32,
}

impl Config {
    /// Reads and checks every setting.
    ///
    /// # Errors
    /// All mistakes at once, the first one as the Go activator words it.
    pub fn from_env(env: &dyn Env) -> Result<Self, Errors> {
        let mut read = Reader::new(env);
        let pod_name = read.required("POD_NAME", "PodName", value::text);
        let pod_ip = read.required("POD_IP", "PodIP", value::text);
        let max_idle = read.optional("MAX_IDLE_PROXY_CONNS", "MaxIdleProxyConns", 1000, value::int);
        let per_host = read.optional("MAX_IDLE_PROXY_CONNS_PER_HOST", "MaxIdleProxyConnsPerHost", 100, value::int);
        let probe_timeout = read.or("PROBE_TIMEOUT", Duration::from_millis(300), positive_duration);
        let probe_frequency = read.or("PROBE_FREQUENCY", Duration::from_millis(200), positive_duration);
        let namespace = read.required("SYSTEM_NAMESPACE", "Namespace", non_empty);
        let profiling_port = read.or("PROFILING_PORT", names::PORT_PROFILING, value::port_or_zero);
        let own = Own::read(&mut read);
        let named = |name: &str, default: &str| read.non_empty(name).unwrap_or_else(|| default.to_owned());
        let logging_name = named("CONFIG_LOGGING_NAME", logging::NAME);
        let observability_name = named("CONFIG_OBSERVABILITY_NAME", observability::NAME);
        let kubernetes_min_version = named("KUBERNETES_MIN_VERSION", "v1.34.0");
        let tls = PolicyText::read(&read, TLS_PREFIX);
        let metrics_tls = PolicyText::read(&read, scrape::PREFIX);
        read.finish(|| {
            Some(Self {
                pod_name: pod_name?,
                pod_ip: pod_ip?,
                system_namespace: namespace?,
                // As Go's transport: 0 and less is no limit.
                max_idle: usize::try_from(max_idle?).ok().filter(|n| *n > 0).unwrap_or(usize::MAX),
                max_idle_per_host: usize::try_from(per_host?).ok().filter(|n| *n > 0).unwrap_or(2),
                probe_timeout: probe_timeout?,
                probe_frequency: probe_frequency?,
                logging_name,
                observability_name,
                cluster_domain: cluster_domain::find(env),
                kubernetes_min_version,
                profiling_port: profiling_port?,
                tls,
                metrics_tls,
                own: own?,
            })
        })
    }

    /// Host and port of the autoscaler's WebSocket server.
    #[must_use]
    pub fn autoscaler(&self) -> String {
        self.own.autoscaler.clone().unwrap_or_else(|| {
            format!("autoscaler.{}.svc.{}:{}", self.system_namespace, self.cluster_domain, names::PORT_AUTOSCALER)
        })
    }
}

impl Own {
    fn read(read: &mut Reader<'_>) -> Option<Self> {
        // Each is read before the first `?`, so that every mistake is reported.
        let listen_address = read.or("LOCKKEEPER_LISTEN_ADDRESS", None, |v| value::ip(v).map(Some));
        let http_port = read.or("LOCKKEEPER_HTTP_PORT", names::PORT_HTTP1, value::port_or_zero);
        let http2_port = read.or("LOCKKEEPER_HTTP2_PORT", names::PORT_HTTP2, value::port_or_zero);
        let tls_port = read.or("LOCKKEEPER_TLS_PORT", names::PORT_HTTPS, value::port_or_zero);
        let queue_tls_port = read.or("LOCKKEEPER_QUEUE_TLS_PORT", names::PORT_HTTPS, value::port);
        let client_auth = CallerAuth::read(read, names::SAN_ROUTING);
        let autoscaler = read.or("LOCKKEEPER_AUTOSCALER", None, |v| host_port(v).map(Some));
        let readiness = read.or("LOCKKEEPER_AUTOSCALER_READINESS", AutoscalerReadiness::Once, autoscaler_readiness);
        let worker_threads = read.or("WORKER_THREADS", None, |v| value::threads(v).map(Some));
        let queue_depth = read.or("LOCKKEEPER_QUEUE_DEPTH", 10_000, value::count);
        let waiting_bytes = read.or("LOCKKEEPER_WAITING_BYTES", None, |v| value::bytes(v).map(Some));
        let waiting_timeout = read.or("LOCKKEEPER_WAITING_TIMEOUT", None, duration_or_off);
        let retry_lost = read.or("LOCKKEEPER_RETRY_LOST", true, value::bool);
        let style = read.or("LOCKKEEPER_TIMEOUT_STYLE", Style::Strict, Style::parse);
        let connect = read.or("LOCKKEEPER_CONNECT_TIMEOUT", Duration::from_secs(1), positive_duration);
        let handshake = read.or("LOCKKEEPER_HANDSHAKE_TIMEOUT", Duration::from_secs(5), positive_duration);
        let upstream_idle = read.or("LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT", Duration::from_secs(90), value::duration);
        let legacy = read.or("LOCKKEEPER_ACCEPT_LEGACY_SAN", false, value::bool);
        let choice = read.or("LOCKKEEPER_BALANCE", Choice::LeastLoaded, |v| match v {
            "least-loaded" => Ok(Choice::LeastLoaded),
            "original" => Ok(Choice::Original),
            _ => Err(Invalid::new("least-loaded or original")),
        });
        let slicing = read.or("LOCKKEEPER_SLICING", Slicing::Rendezvous, |v| match v {
            "rendezvous" => Ok(Slicing::Rendezvous),
            "original" => Ok(Slicing::Original),
            _ => Err(Invalid::new("rendezvous or original")),
        });
        let borrow = read.or("LOCKKEEPER_BORROW", true, value::bool);
        let drain_time = read.or("LOCKKEEPER_DRAIN_TIME", Duration::from_secs(45), value::duration);
        let grace = read.or("LOCKKEEPER_SHUTDOWN_GRACE", None, duration_or_off);
        let client_idle = read.or("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", None, duration_or_off);
        let header_read = read.or("LOCKKEEPER_HEADER_READ_TIMEOUT", Duration::from_secs(60), value::duration);
        let header_bytes = read.or("LOCKKEEPER_MAX_HEADER_BYTES", 1 << 20, value::bytes);
        let headers = read.or("LOCKKEEPER_MAX_HEADERS", 500, value::count);
        let streams = read.or("LOCKKEEPER_MAX_CONCURRENT_STREAMS", 250, value::count);
        Some(Self {
            listen_address: listen_address?,
            http_port: http_port?,
            http2_port: http2_port?,
            tls_port: tls_port?,
            queue_tls_port: queue_tls_port?,
            client_auth: client_auth?,
            autoscaler: autoscaler?,
            autoscaler_readiness: readiness?,
            worker_threads: worker_threads?,
            queue_depth: queue_depth?,
            waiting_bytes: waiting_bytes?,
            waiting_timeout: waiting_timeout?,
            retry_lost: retry_lost?,
            timeout_style: style?,
            connect_timeout: connect?,
            handshake_timeout: handshake?,
            upstream_idle_timeout: upstream_idle?,
            accept_legacy_san: legacy?,
            choice: choice?,
            slicing: slicing?,
            borrow: borrow?,
            drain_time: drain_time?,
            shutdown_grace: grace?,
            client_idle_timeout: client_idle?,
            header_read_timeout: header_read?,
            max_header_bytes: header_bytes?,
            max_headers: headers?,
            max_concurrent_streams: streams?,
        })
    }
}

fn non_empty(value: &str) -> Result<String, Invalid> {
    if value.is_empty() { Err(Invalid::new("the name of a namespace")) } else { Ok(value.to_owned()) }
}

fn positive_duration(value: &str) -> Result<Duration, Invalid> {
    match value::duration(value)? {
        Duration::ZERO => Err(Invalid::new("a duration above 0 such as 300ms")),
        duration => Ok(duration),
    }
}

fn duration_or_off(value: &str) -> Result<Option<Duration>, Invalid> {
    value::duration(value).map(|duration| (!duration.is_zero()).then_some(duration))
}

fn host_port(value: &str) -> Result<String, Invalid> {
    match value.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && value::port(port).is_ok() => Ok(value.to_owned()),
        _ => Err(Invalid::new("a host and a port such as autoscaler.example:8080")),
    }
}

fn autoscaler_readiness(value: &str) -> Result<AutoscalerReadiness, Invalid> {
    match value {
        "once" => Ok(AutoscalerReadiness::Once),
        "always" => Ok(AutoscalerReadiness::Always),
        other => match value::duration(other) {
            Ok(after) if after >= Duration::from_secs(1) => Ok(AutoscalerReadiness::After(after)),
            _ => Err(Invalid::new("once, always, or a duration of at least 1s")),
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        let required = [("POD_NAME", "activator-0"), ("POD_IP", "10.0.0.1"), ("SYSTEM_NAMESPACE", "knative-serving")];
        let all = required.iter().chain(pairs);
        all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn given_the_manifest_s_environment_then_the_rest_are_defaults() {
        let config = Config::from_env(&env(&[("GOGC", "500"), ("CONFIG_LOGGING_NAME", "config-logging")])).unwrap();
        assert_eq!((config.max_idle, config.max_idle_per_host), (1000, 100));
        assert_eq!((config.own.http_port, config.own.http2_port, config.own.tls_port), (8012, 8013, 8112));
        assert!(config.autoscaler().starts_with("autoscaler.knative-serving.svc."));
        assert!(config.autoscaler().ends_with(":8080"));
    }

    #[test]
    fn given_an_empty_environment_then_the_first_line_is_the_original_s_and_all_mistakes_are_named() {
        let errors = Config::from_env(&HashMap::new()).unwrap_err();
        let text = errors.to_string();
        assert!(text.starts_with("required key POD_NAME missing value\n"), "{text}");
        assert!(text.contains("POD_IP") && text.contains("SYSTEM_NAMESPACE"), "{text}");
        assert_eq!(errors.exit_code(), 1);
    }

    #[test]
    fn given_bad_values_then_each_is_named_with_what_was_expected() {
        for (name, value) in [
            ("MAX_IDLE_PROXY_CONNS", "many"),
            ("PROBE_TIMEOUT", "300"),
            ("PROBE_FREQUENCY", "0s"),
            ("PROFILING_PORT", "x"),
            ("SYSTEM_NAMESPACE", ""),
            ("LOCKKEEPER_AUTOSCALER", "nowhere"),
            ("LOCKKEEPER_AUTOSCALER_READINESS", "never"),
            ("LOCKKEEPER_BALANCE", "random"),
            ("LOCKKEEPER_CLIENT_AUTH", "always"),
            ("LOCKKEEPER_SLICING", "x"),
            ("LOCKKEEPER_TIMEOUT_STYLE", "lenient"),
            ("LOCKKEEPER_QUEUE_DEPTH", "0"),
            ("LOCKKEEPER_QUEUE_TLS_PORT", "0"),
        ] {
            let text = Config::from_env(&env(&[(name, value)])).unwrap_err().to_string();
            assert!(text.contains(name) && text.contains(value), "{name}: {text}");
        }
    }
}
