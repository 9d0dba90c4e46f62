//! Every variable of the activator's own that can be wrong ends it before it has asked the API server for anything.
use super::{PARTS, check, ends, literals};
use crate::support::binary::{Builder, command};

const INT: &str = "to type int. details: strconv.ParseInt: parsing";
const DURATION: &str = "expected a duration such as 300ms, 30s or 1h30m";
const ABOVE_0: &str = "expected a duration above 0 such as 300ms";
const PORT: &str = "expected a port from 0 (any free one) to 65535";
const COUNT: &str = "expected a whole number of at least 1";
const SWITCH: &str = "expected true or false";
const BYTES: &str = "expected a number of bytes such as 65536 or 64Ki";

const CASES: &[(&str, &str, i32, &str)] = &[
    ("MAX_IDLE_PROXY_CONNS", "many", 1, INT),
    ("MAX_IDLE_PROXY_CONNS_PER_HOST", "1.5", 1, INT),
    ("SYSTEM_NAMESPACE", "", 1, "expected the name of a namespace"),
    ("PROBE_TIMEOUT", "300", 64, DURATION),
    ("PROBE_FREQUENCY", "0s", 64, ABOVE_0),
    ("PROFILING_PORT", "x", 64, PORT),
    ("WORKER_THREADS", "1025", 64, "expected a number of threads from 1 to 1024"),
    ("LOCKKEEPER_LISTEN_ADDRESS", "localhost", 64, "expected an IP address"),
    ("LOCKKEEPER_HTTP_PORT", "http", 64, PORT),
    ("LOCKKEEPER_HTTP2_PORT", "65536", 64, PORT),
    ("LOCKKEEPER_TLS_PORT", "-1", 64, PORT),
    ("LOCKKEEPER_QUEUE_TLS_PORT", "0", 64, "expected a port from 1 to 65535"),
    ("LOCKKEEPER_AUTOSCALER", "nowhere", 64, "expected a host and a port such as autoscaler.example:8080"),
    ("LOCKKEEPER_AUTOSCALER_READINESS", "never", 64, "expected once, always, or a duration of at least 1s"),
    ("LOCKKEEPER_QUEUE_DEPTH", "0", 64, COUNT),
    ("LOCKKEEPER_WAITING_BYTES", "1MB", 64, BYTES),
    ("LOCKKEEPER_WAITING_TIMEOUT", "30", 64, DURATION),
    ("LOCKKEEPER_RETRY_LOST", "yes", 64, SWITCH),
    ("LOCKKEEPER_TIMEOUT_STYLE", "lenient", 64, "expected strict or original"),
    ("LOCKKEEPER_CONNECT_TIMEOUT", "0", 64, ABOVE_0),
    ("LOCKKEEPER_HANDSHAKE_TIMEOUT", "5", 64, DURATION),
    ("LOCKKEEPER_UPSTREAM_IDLE_TIMEOUT", "90", 64, DURATION),
    ("LOCKKEEPER_ACCEPT_LEGACY_SAN", "on", 64, SWITCH),
    ("LOCKKEEPER_BALANCE", "random", 64, "expected least-loaded or original"),
    ("LOCKKEEPER_SLICING", "x", 64, "expected rendezvous or original"),
    ("LOCKKEEPER_BORROW", "x", 64, SWITCH),
    ("LOCKKEEPER_DRAIN_TIME", "45", 64, DURATION),
    ("LOCKKEEPER_SHUTDOWN_GRACE", "-1s", 64, DURATION),
    ("LOCKKEEPER_CLIENT_AUTH", "on", 64, "expected off, request or require"),
    ("LOCKKEEPER_CLIENT_AUTH_SANS", ", kn-routing", 64, "expected one or more names with commas between"),
    ("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", "x", 64, DURATION),
    ("LOCKKEEPER_HEADER_READ_TIMEOUT", "60", 64, DURATION),
    ("LOCKKEEPER_MAX_HEADER_BYTES", "0", 64, BYTES),
    ("LOCKKEEPER_MAX_HEADERS", "0", 64, COUNT),
    ("LOCKKEEPER_MAX_CONCURRENT_STREAMS", "0", 64, COUNT),
];

/// Any text, or judged once there is an API server (tests/activator/startup.rs).
const LATER: [&str; 9] = [
    "POD_NAME",
    "POD_IP",
    "CONFIG_LOGGING_NAME",
    "CONFIG_OBSERVABILITY_NAME",
    "KUBERNETES_MIN_VERSION",
    "ACTIVATOR_TLS_MIN_VERSION",
    "ACTIVATOR_TLS_MAX_VERSION",
    "ACTIVATOR_TLS_CIPHER_SUITES",
    "ACTIVATOR_TLS_CURVE_PREFERENCES",
];

fn activator() -> Builder {
    let activator = command(&["activator"]).env("POD_NAME", "activator-0").env("POD_IP", "127.0.0.1");
    activator.env("SYSTEM_NAMESPACE", "knative-serving")
}

#[test]
fn given_a_value_that_is_none_when_started_then_variable_value_and_what_was_expected_are_named() {
    for (name, value, status, expected) in CASES {
        ends(activator(), name, value, *status, expected);
    }
}

#[test]
fn given_the_source_when_it_reads_a_variable_then_it_is_in_the_table_and_in_the_reference() {
    let mut read =
        literals(&[include_str!("../../src/activator/config.rs"), include_str!("../../src/tls/settings.rs")]);
    read.retain(|name| !PARTS.contains(&name.as_str()));
    read.extend(PARTS.map(|part| format!("ACTIVATOR_TLS_{part}")));
    assert!(read.len() > 30, "{read:?}");
    check(&read, &CASES.iter().map(|(name, ..)| *name).chain(LATER).collect::<Vec<_>>());
}
