//! Every variable that the queue reads, with a value that is none: what becomes of the process, and that the log names
//! variable, value and what was expected.
use super::End::{self, Exit, Serves};
use super::{PARTS, check, literals, named};
use crate::support::app::App;
use crate::support::binary::{Builder, queue};
use crate::support::client::get;
use crate::support::pki::Pki;

/// What must be on besides for the variable to be read.
#[derive(Clone, Copy, PartialEq)]
enum With {
    Nothing,
    Certificates,
    Prometheus,
    PrometheusTls,
    Push,
    Traces,
    Profiling,
    ManyProbes,
}
use With::{Certificates, ManyProbes, Nothing, Profiling, Prometheus, PrometheusTls, Push, Traces};

/// A variable, a value that is none, what must be on, what becomes of the process, and what was expected.
type Case = (&'static str, &'static str, With, End, &'static str);

const INT: &str = "to type int. details: strconv.ParseInt: parsing";
const BOOL: &str = "to type bool. details: strconv.ParseBool: parsing";
const VERSION: &str = r#"must be "1.2" or "1.3""#;
const SUITE: &str = "expected Go's names, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256";
const CURVE: &str = "expected X25519MLKEM768, X25519, P-256, P-384 or P-521";
const DURATION: &str = "expected a duration such as 300ms, 30s or 1h30m";
const PORT: &str = "expected a port from 0 (any free one) to 65535";
const COUNT: &str = "expected a whole number of at least 1";
const SWITCH: &str = "expected true or false";
const NAMES: &str = "expected one or more names with commas between, none of them empty";
const THREADS: &str = "expected a number of threads from 1 to 1024";
const URL: &str = "is ignored: expected an http or https URL";
const MILLIS: &str = "is ignored: expected a number of milliseconds above 0";
const PAIR: &str = "is ignored: expected name=value";

const CASES: &[Case] = &[
    ("CONTAINER_CONCURRENCY", "1.5", Nothing, Exit(1), INT),
    ("QUEUE_SERVING_PORT", "http", Nothing, Exit(1), PORT),
    ("QUEUE_SERVING_PORT", "65536", Nothing, Exit(1), PORT),
    ("QUEUE_SERVING_TLS_PORT", "https", Certificates, Exit(1), PORT),
    ("USER_PORT", "80a", Nothing, Serves, "expected a port from 1 to 65535"),
    ("REVISION_TIMEOUT_SECONDS", "5m", Nothing, Exit(1), INT),
    ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "5m", Nothing, Exit(1), INT),
    ("REVISION_IDLE_TIMEOUT_SECONDS", "5m", Nothing, Exit(1), INT),
    ("ENABLE_HTTP_FULL_DUPLEX", "yes", Nothing, Exit(1), BOOL),
    ("ENABLE_HTTP2_AUTO_DETECTION", "yes", Nothing, Exit(1), BOOL),
    ("ENABLE_MULTI_CONTAINER_PROBES", "yes", Nothing, Exit(1), BOOL),
    ("SERVING_READINESS_PROBE", "[1]", Nothing, Exit(1), "expected a Kubernetes probe as JSON: expected an object"),
    ("SERVING_READINESS_PROBE", "null", Nothing, Exit(1), "expected a Kubernetes probe as JSON"),
    ("SERVING_READINESS_PROBE", "{}", ManyProbes, Exit(1), "expected a JSON array of Kubernetes probes"),
    ("SERVING_LOGGING_CONFIG", "{level", Nothing, Serves, "is ignored: expected a configuration of zap as JSON"),
    ("SERVING_LOGGING_LEVEL", "loud", Nothing, Serves, "is ignored: expected debug, info, warn, error"),
    ("OBSERVABILITY_CONFIG", "{", Nothing, Exit(1), "expected a JSON object"),
    ("OBSERVABILITY_CONFIG", "7", Nothing, Exit(1), "expected a JSON object"),
    (
        "OBSERVABILITY_CONFIG",
        r#"{"requestMetrics":{"exportInterval":"30s"}}"#,
        Nothing,
        Exit(1),
        "requestMetrics.exportInterval: expected an integer (nanoseconds)",
    ),
    (
        "OBSERVABILITY_CONFIG",
        r#"{"requestMetrics":{"protocol":"pigeon"}}"#,
        Nothing,
        Exit(1),
        "expected none, prometheus, grpc or http/protobuf",
    ),
    (
        "OBSERVABILITY_CONFIG",
        r#"{"tracing":{"protocol":"pigeon"}}"#,
        Nothing,
        Exit(1),
        "expected none, stdout, grpc or http/protobuf",
    ),
    (
        "OBSERVABILITY_CONFIG",
        r#"{"requestMetrics":{"protocol":"prometheus","endpoint":":80"}}"#,
        Nothing,
        Exit(1),
        "expected a port from 1024 to 65535",
    ),
    ("OTEL_RESOURCE_ATTRIBUTES", "team", Nothing, Serves, PAIR),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "10.0.0.1:4317", Push, Serves, URL),
    ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "nowhere", Push, Serves, URL),
    ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://x", Traces, Serves, URL),
    ("OTEL_EXPORTER_OTLP_HEADERS", "secret", Push, Serves, PAIR),
    ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "a b=secret", Push, Serves, PAIR),
    ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "a=%zz", Traces, Serves, PAIR),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", Push, Serves, MILLIS),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "0", Push, Serves, MILLIS),
    ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "-1", Traces, Serves, MILLIS),
    ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nonexistent", Push, Serves, "expected a file of PEM certificates"),
    ("OTEL_EXPORTER_OTLP_METRICS_CERTIFICATE", "/nonexistent", Push, Serves, "expected a file of PEM certificates"),
    ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/nonexistent", Traces, Serves, "expected a file of PEM certificates"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "60s", Push, Serves, MILLIS),
    (
        "OTEL_TRACES_SAMPLER",
        "jaeger_remote",
        Traces,
        Serves,
        "is ignored: expected always_on, always_off, traceidratio",
    ),
    ("OTEL_TRACES_SAMPLER_ARG", "half", Traces, Exit(1), "expected a number from 0 to 1"),
    ("QUEUE_PROXY_TLS_MIN_VERSION", "1.1", Certificates, Exit(1), VERSION),
    ("QUEUE_PROXY_TLS_MAX_VERSION", "TLS13", Certificates, Exit(1), VERSION),
    ("QUEUE_PROXY_TLS_CIPHER_SUITES", "TLS_RSA_WITH_AES_128_CBC_SHA", Certificates, Exit(1), SUITE),
    ("QUEUE_PROXY_TLS_CURVE_PREFERENCES", "x25519", Certificates, Exit(1), CURVE),
    ("METRICS_PROMETHEUS_HOST", "no host", Prometheus, Serves, "metrics server error: listen tcp: lookup no host"),
    ("METRICS_PROMETHEUS_PORT", "http", Prometheus, Exit(1), "expected a port from 1024 to 65535"),
    ("METRICS_PROMETHEUS_PORT", "80", Prometheus, Exit(1), "expected a port from 1024 to 65535"),
    ("METRICS_PROMETHEUS_TLS_CERT", "/nonexistent", Prometheus, Exit(1), "must be set or neither"),
    ("METRICS_PROMETHEUS_TLS_CERT", "/nonexistent", PrometheusTls, Serves, "metrics server error: "),
    ("METRICS_PROMETHEUS_TLS_KEY", "/nonexistent", PrometheusTls, Serves, "metrics server error: "),
    ("METRICS_PROMETHEUS_TLS_CLIENT_AUTH", "maybe", Prometheus, Exit(1), r#"must be "none", "optional", or"#),
    ("METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE", "/nonexistent", PrometheusTls, Exit(1), "METRICS_PROMETHEUS_TLS_CLIENT"),
    ("METRICS_PROMETHEUS_TLS_MIN_VERSION", "1.1", PrometheusTls, Exit(1), VERSION),
    ("METRICS_PROMETHEUS_TLS_MAX_VERSION", "1", PrometheusTls, Exit(1), VERSION),
    ("METRICS_PROMETHEUS_TLS_CIPHER_SUITES", "RC4", PrometheusTls, Exit(1), SUITE),
    ("METRICS_PROMETHEUS_TLS_CURVE_PREFERENCES", "P-1", PrometheusTls, Exit(1), CURVE),
    ("PROFILING_PORT", "x", Profiling, Exit(1), PORT),
    ("WORKER_THREADS", "0", Nothing, Exit(64), THREADS),
    ("WORKER_THREADS", "1025", Nothing, Exit(64), THREADS),
    ("LOCKKEEPER_CERT_DIR", "/etc/passwd", Nothing, Exit(1), "expected a directory"),
    ("LOCKKEEPER_LISTEN_ADDRESS", "localhost", Nothing, Exit(64), "expected an IP address"),
    ("LOCKKEEPER_LISTEN_ADDRESS", "192.0.2.1", Nothing, Exit(1), "expected a port that can be opened"),
    ("LOCKKEEPER_ADMIN_PORT", "x", Nothing, Exit(64), PORT),
    ("LOCKKEEPER_STATS_PORT", "x", Nothing, Exit(64), PORT),
    ("LOCKKEEPER_METRICS_TLS", "yes", Nothing, Exit(64), SWITCH),
    ("LOCKKEEPER_DRAIN_QUIET_PERIOD", "30", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_DRAIN_PROBE_RESET", "1", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_SHUTDOWN_GRACE", "-1s", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_STRICT", "on", Nothing, Exit(64), SWITCH),
    ("LOCKKEEPER_CLIENT_AUTH", "on", Nothing, Exit(64), "expected off, request or require"),
    ("LOCKKEEPER_CLIENT_AUTH_SANS", ",", Nothing, Exit(64), NAMES),
    ("LOCKKEEPER_CLIENT_AUTH_SANS", " ", Nothing, Exit(64), NAMES),
    ("LOCKKEEPER_CLIENT_AUTH_SANS", "kn-routing,,kn-user-a", Nothing, Exit(64), NAMES),
    ("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", "30s", Nothing, Exit(64), "expected 0 (never) or a duration of at least 120s"),
    ("LOCKKEEPER_HEADER_READ_TIMEOUT", "60", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_MAX_HEADER_BYTES", "1MB", Nothing, Exit(64), "expected a number of bytes such as 65536 or 64Ki"),
    ("LOCKKEEPER_MAX_HEADERS", "0", Nothing, Exit(64), COUNT),
    ("LOCKKEEPER_MAX_CONCURRENT_STREAMS", "many", Nothing, Exit(64), COUNT),
    ("LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT", "90", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_HOLD_ON_RESTART", "5", Nothing, Exit(64), DURATION),
    ("LOCKKEEPER_TIMEOUT_STYLE", "lenient", Nothing, Exit(64), "expected strict or original"),
];

/// Of these any text is right.
const ANY_TEXT: [&str; 9] = [
    "SERVING_NAMESPACE",
    "SERVING_SERVICE",
    "SERVING_CONFIGURATION",
    "SERVING_REVISION",
    "SERVING_POD",
    "SERVING_POD_IP",
    "POD_NAME",
    "HOSTNAME",
    "OTEL_SERVICE_NAME",
];

fn with(builder: Builder, with: With, pki: &Pki) -> Builder {
    let port = crate::support::port::free_port();
    let observe = |json: String| builder.clone().env("OBSERVABILITY_CONFIG", json);
    let prometheus = || observe(format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":":{port}"}}}}"#));
    match with {
        Nothing => builder,
        Certificates => builder.certs(pki.dir()),
        Prometheus => prometheus(),
        PrometheusTls => {
            let file = |name: &str| pki.dir().join(name).display().to_string();
            prometheus()
                .env("METRICS_PROMETHEUS_TLS_CERT", file("tls.crt"))
                .env("METRICS_PROMETHEUS_TLS_KEY", file("tls.key"))
                .env("METRICS_PROMETHEUS_TLS_CLIENT_AUTH", "require")
                .env("METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE", file("ca.crt"))
        }
        Push => observe(format!(r#"{{"requestMetrics":{{"protocol":"grpc","endpoint":"http://127.0.0.1:{port}"}}}}"#)),
        Traces => observe(format!(r#"{{"tracing":{{"protocol":"grpc","endpoint":"http://127.0.0.1:{port}"}}}}"#)),
        Profiling => observe(r#"{"runtime":{"profiling":"enabled"}}"#.to_owned()),
        ManyProbes => builder.env("ENABLE_MULTI_CONTAINER_PROBES", "true"),
    }
}

#[test]
fn given_a_value_that_is_none_when_started_then_variable_value_and_what_was_expected_are_named() {
    let app = App::ok();
    let pki = Pki::new();
    for (name, value, besides, end, expected) in CASES {
        let case = format!("{name}={value:?}");
        let builder = with(queue(app.port()), *besides, &pki).env(name, value);
        let log = match end {
            Exit(status) => {
                let (code, log) = builder.finish();
                assert_eq!(code, Some(*status), "{case}: {log}");
                log
            }
            Serves => {
                let mut queue = builder.start();
                queue.logs(expected);
                let status = if *name == "USER_PORT" { 502 } else { 200 };
                assert_eq!(get(queue.http(), "/", "").status(), status, "{case}");
                queue.log.text()
            }
        };
        let line = named(&log, name, expected);
        // Headers for a collector may hold a password.
        let secret = name.starts_with("OTEL_") && name.ends_with("_HEADERS");
        assert_eq!(line.contains(value), !secret, "{case}: {line}");
    }
}

/// A variable that comes anew must come into the table above, and into the README's reference.
#[test]
fn given_the_source_when_it_reads_a_variable_then_it_is_in_the_table_and_in_the_reference() {
    let mut read = literals(&[
        include_str!("../../src/queue/config.rs"),
        include_str!("../../src/queue/metrics.rs"),
        include_str!("../../src/tls/settings.rs"),
        include_str!("../../src/telemetry/observability.rs"),
        include_str!("../../src/telemetry/observability/collector.rs"),
        include_str!("../../src/telemetry/observability/otel.rs"),
        include_str!("../../src/telemetry/observability/prometheus.rs"),
    ]);
    read.retain(|name| !PARTS.contains(&name.as_str()) && !name.starts_with("CARGO_"));
    assert!(
        read.len() > 40 && ["LOCKKEEPER_STRICT", "OTEL_TRACES_SAMPLER"].iter().all(|n| read.contains(&(*n).into()))
    );
    for prefix in ["QUEUE_PROXY_TLS_", "METRICS_PROMETHEUS_TLS_"] {
        read.extend(PARTS.map(|part| format!("{prefix}{part}")));
    }
    let names: Vec<_> = CASES.iter().map(|(name, ..)| *name).chain(ANY_TEXT).collect();
    check(&read, &names);
}
