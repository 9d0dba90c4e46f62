//! Every variable of the gateway's own that can be wrong ends it before it has read any object.
use super::{check, ends, literals};
use crate::support::binary::command;

const DURATION: &str = "expected a duration such as 300ms, 30s or 1h30m";
const PORT: &str = "expected a port from 0 (any free one) to 65535";
const SWITCH: &str = "expected true or false";

/// An external authoriser's address makes the rest count.
const AUTHORIZER: [(&str, &str); 2] = [("KOURIER_EXTAUTHZ_HOST", "authz:8080"), ("KOURIER_EXTAUTHZ_PROTOCOL", "http")];

const CASES: &[(&str, &str, i32, &str)] = &[
    ("KOURIER_HTTPOPTION_DISABLED", "yes", 64, SWITCH),
    ("ENABLE_SECRET_INFORMER_FILTERING_BY_CERT_UID", "yes", 64, SWITCH),
    ("LOCKKEEPER_WATCH_SECRETS", "some", 64, "expected needed, labelled or all"),
    ("DRAIN_TIME_SECONDS", "15s", 64, "expected a whole number"),
    ("LOCKKEEPER_DRAIN_SETTLE", "5", 64, DURATION),
    ("LOCKKEEPER_RETRY_LOST", "yes", 64, SWITCH),
    ("LOCKKEEPER_HTTP_PORT", "x", 64, PORT),
    ("LOCKKEEPER_HTTPS_PORT", "x", 64, PORT),
    ("LOCKKEEPER_INTERNAL_HTTP_PORT", "x", 64, PORT),
    ("LOCKKEEPER_INTERNAL_HTTPS_PORT", "x", 64, PORT),
    ("LOCKKEEPER_PROBE_HTTP_PORT", "x", 64, PORT),
    ("LOCKKEEPER_PROBE_HTTPS_PORT", "x", 64, PORT),
    ("LOCKKEEPER_ADMIN_PORT", "x", 64, PORT),
    ("LOCKKEEPER_LISTEN_ADDRESS", "localhost", 64, "expected an IP address"),
    ("WORKER_THREADS", "100000", 64, "expected a number of threads from 1 to 1024"),
    ("KOURIER_EXTAUTHZ_HOST", "authz", 1, "expected host:port"),
    ("KOURIER_EXTAUTHZ_PROTOCOL", "smtp", 1, "expected grpc, http or https"),
    ("KOURIER_EXTAUTHZ_FAILUREMODEALLOW", "yes", 1, SWITCH),
    ("KOURIER_EXTAUTHZ_MAXREQUESTBYTES", "8k", 1, "expected a number from 0 to 4294967295"),
    ("KOURIER_EXTAUTHZ_TIMEOUT", "2s", 1, "expected a number from 0 to 4294967295"),
    ("KOURIER_EXTAUTHZ_TIMEOUT", "0", 1, "expected milliseconds, at least 1"),
    ("KOURIER_EXTAUTHZ_PATHPREFIX", "no path", 1, "expected the beginning of a path"),
    ("KOURIER_EXTAUTHZ_PACKASBYTES", "true", 1, "expected false, unless the protocol is grpc"),
];

/// Any text: names of objects, and paths.
const ANY_TEXT: [&str; 11] = [
    "SYSTEM_NAMESPACE",
    "KOURIER_GATEWAY_NAMESPACE",
    "LOCKKEEPER_INGRESS_CLASS",
    "LOCKKEEPER_EXTERNAL_SERVICE",
    "LOCKKEEPER_INTERNAL_SERVICE",
    "LOCKKEEPER_SHARED_SECRET_NAMESPACES",
    "CERTS_SECRET_NAMESPACE",
    "CERTS_SECRET_NAME",
    "LOCKKEEPER_STATUS_DIR",
    "POD_NAME",
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
];

#[test]
fn given_a_value_that_is_none_when_started_then_variable_value_and_what_was_expected_are_named() {
    for (name, value, status, expected) in CASES {
        let gateway = AUTHORIZER.iter().fold(command(&["gateway"]), |gateway, (name, value)| gateway.env(name, value));
        ends(gateway, name, value, *status, expected);
    }
}

/// A port that is taken, or an address that is none of this machine's, is named like any other mistake.
#[test]
fn given_a_port_that_is_taken_when_started_then_its_variable_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let objects = tempfile::tempdir().unwrap();
    let gateway = command(&["gateway"]).env("LOCKKEEPER_MANIFEST_DIR", objects.path().display());
    let gateway = gateway.env("LOCKKEEPER_LISTEN_ADDRESS", "127.0.0.1");
    ends(gateway, "LOCKKEEPER_ADMIN_PORT", &port, 1, "expected a port that can be opened");
}

#[test]
fn given_the_source_when_it_reads_a_variable_then_it_is_in_the_table_and_in_the_reference() {
    let read =
        literals(&[include_str!("../../src/gateway/config.rs"), include_str!("../../src/gateway/authz/settings.rs")]);
    assert!(read.len() > 25, "{read:?}");
    check(&read, &CASES.iter().map(|(name, ..)| *name).chain(ANY_TEXT).collect::<Vec<_>>());
}
