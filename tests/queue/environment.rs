//! Section 1: the environment, and what happens when it is wrong.
use crate::support::app::App;
use crate::support::binary::{Stream, queue};
use crate::support::client::get;
use crate::support::pki::Pki;

const REQUIRED: [&str; 12] = [
    "CONTAINER_CONCURRENCY",
    "QUEUE_SERVING_PORT",
    "QUEUE_SERVING_TLS_PORT",
    "USER_PORT",
    "REVISION_TIMEOUT_SECONDS",
    "SERVING_LOGGING_CONFIG",
    "SERVING_LOGGING_LEVEL",
    "SERVING_NAMESPACE",
    "SERVING_CONFIGURATION",
    "SERVING_REVISION",
    "SERVING_POD",
    "SERVING_POD_IP",
];

/// 1.2: one line of plain text that names the variable, exit code 1.
#[test]
fn given_a_required_variable_is_absent_when_started_then_it_is_named_and_the_exit_code_is_1() {
    for name in REQUIRED {
        let (code, log) = queue(8080).unset(name).finish();
        assert_eq!(code, Some(1), "{name}: {log}");
        assert!(log.contains(&format!("required key {name} missing value")), "{name}: {log}");
    }
}

/// 1.2: a number that is none names variable and value; issue 3, *Bad input*.
#[test]
fn given_a_number_that_is_none_when_started_then_variable_and_value_are_named() {
    let wrong = [
        ("CONTAINER_CONCURRENCY", "1.5"),
        ("CONTAINER_CONCURRENCY", ""),
        ("REVISION_TIMEOUT_SECONDS", " 1"),
        ("REVISION_IDLE_TIMEOUT_SECONDS", ""),
        ("REVISION_RESPONSE_START_TIMEOUT_SECONDS", "99999999999999999999"),
    ];
    for (name, value) in wrong {
        let (code, log) = queue(8080).env(name, value).finish();
        assert_eq!(code, Some(1), "{name}={value:?}: {log}");
        assert!(log.contains(name) && log.contains(value), "{name}={value:?}: {log}");
    }
}

/// 1.2: Go's words for true and false, nothing else.
#[test]
fn given_a_boolean_that_is_none_when_started_then_it_is_refused() {
    for value in ["yes", "tRue", ""] {
        let (code, log) = queue(8080).env("ENABLE_HTTP_FULL_DUPLEX", value).finish();
        assert_eq!(code, Some(1), "{value:?}: {log}");
        assert!(log.contains("ENABLE_HTTP_FULL_DUPLEX"), "{log}");
    }
    for value in ["1", "t", "TRUE", "False", "0"] {
        queue(8080).env("ENABLE_HTTP_FULL_DUPLEX", value).start();
    }
}

/// 1.2: a readiness probe that is not one, also `null` (14.16).
#[test]
fn given_a_probe_that_is_none_when_started_then_it_is_fatal() {
    for value in ["{", "[]", "null", r#"{"httpGet":{"port":[]}}"#] {
        let (code, log) = queue(8080).env("SERVING_READINESS_PROBE", value).finish();
        assert_eq!(code, Some(1), "{value}: {log}");
        assert!(log.contains("readiness probe"), "{value}: {log}");
    }
}

/// 1.2: an observability setting that is wrong.
#[test]
fn given_an_observability_config_that_is_wrong_when_started_then_it_is_fatal() {
    let wrong = [
        "{",
        r#"{"requestMetrics":{"exportInterval":"30s"}}"#,
        r#"{"requestMetrics":{"protocol":"carrier-pigeon"}}"#,
        r#"{"tracing":{"protocol":"carrier-pigeon"}}"#,
    ];
    for value in wrong {
        let (code, log) = queue(8080).env("OBSERVABILITY_CONFIG", value).finish();
        assert_eq!(code, Some(1), "{value}: {log}");
    }
}

/// 1.2: a taken port ends the process at once.
#[test]
fn given_the_serving_port_is_taken_when_started_then_it_exits_and_names_the_address() {
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();

    let (code, log) = queue(8080).env("QUEUE_SERVING_PORT", port).finish();

    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("Failed to bring up queue-proxy, shutting down."), "{log}");
    assert!(log.contains(&port.to_string()), "{log}");
}

/// 1.1: what the controller sets and nobody reads does not disturb.
#[test]
fn given_variables_that_are_never_read_when_started_then_it_serves() {
    let app = App::ok();
    let mut queue = queue(app.port()).env("HOST_IP", "nonsense").env("ROOT_CA", "nonsense").start();
    assert_eq!(get(queue.http(), "/", "").status(), 200);
}

/// 1.2 and 9: what is wrong is logged as the logging configuration says.
#[test]
fn given_a_logging_config_and_a_probe_that_is_none_when_started_then_the_line_goes_where_it_says() {
    let config = r#"{"level":"info","outputPaths":["stdout"],"encoderConfig":{"levelKey":"severity","messageKey":"message","levelEncoder":"lowercase"}}"#;
    let wrong = [("SERVING_READINESS_PROBE", "{", "fatal"), ("QUEUE_SERVING_PORT", "http-alt", "error")];
    for (name, value, severity) in wrong {
        let mut queue = queue(8080).env("SERVING_LOGGING_CONFIG", config).env(name, value).spawn();
        assert_eq!(queue.exit().code(), Some(1));
        let lines = queue.log.of(Stream::Stdout);
        let line: serde_json::Value = serde_json::from_str(lines.last().expect("a line on stdout")).unwrap();
        assert_eq!(line["severity"], severity, "{lines:?}");
        assert_eq!(line["knative.dev/key"], "default/hello-00001", "{lines:?}");
    }
}

/// 1.1: the profiling port counts only when profiling is on; then it ends the start like any other.
#[test]
fn given_a_profiling_port_that_is_none_when_started_then_it_counts_only_with_profiling() {
    let on = r#"{"runtime":{"profiling":"enabled"}}"#;
    queue(8080).env("PROFILING_PORT", "x").start();
    let taken = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    for port in ["x".to_owned(), taken.local_addr().unwrap().port().to_string()] {
        let (code, log) = queue(8080).env("PROFILING_PORT", &port).env("OBSERVABILITY_CONFIG", on).finish();
        assert_eq!(code, Some(1), "{log}");
        assert!(log.contains("profile server failed to serve: listen tcp"), "{log}");
    }
}

/// 1.1 and 10.3: without certificates nobody looks at what TLS may negotiate.
#[test]
fn given_a_tls_policy_that_is_none_and_no_certificates_when_started_then_tls_stays_off() {
    let app = App::ok();
    let mut pki = Pki::empty();
    let mut queue = queue(app.port()).certs(pki.dir()).env("QUEUE_PROXY_TLS_MIN_VERSION", "1.1").start();
    queue.logs("TLS stays off");
    pki.rotate();
    queue.logs("Certificate and/or key have changed on disk and were reloaded.");
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    assert!(queue.log.lines(|line| line.contains("tls server main")).is_empty());
}

/// 1.2: with certificates the TLS port must be one.
#[test]
fn given_a_tls_port_that_is_none_when_started_with_certificates_then_it_exits() {
    let pki = Pki::new();
    let (code, log) = queue(8080).certs(pki.dir()).env("QUEUE_SERVING_TLS_PORT", "x").finish();
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("main tls server failed to serve: listen tcp"), "{log}");
}
