#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use super::*;
use crate::tls::settings::Callers;

const REQUIRED: [(&str, &str); 12] = [
    ("CONTAINER_CONCURRENCY", "0"),
    ("QUEUE_SERVING_PORT", "8012"),
    ("QUEUE_SERVING_TLS_PORT", "8112"),
    ("USER_PORT", "8080"),
    ("REVISION_TIMEOUT_SECONDS", "300"),
    ("SERVING_LOGGING_CONFIG", ""),
    ("SERVING_LOGGING_LEVEL", ""),
    ("SERVING_NAMESPACE", "default"),
    ("SERVING_CONFIGURATION", "hello"),
    ("SERVING_REVISION", "hello-00001"),
    ("SERVING_POD", "hello-00001-deployment-0"),
    ("SERVING_POD_IP", "10.0.0.1"),
];

fn env(changes: &[(&str, &str)]) -> HashMap<String, String> {
    REQUIRED.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn read(changes: &[(&str, &str)]) -> Result<Config, Errors> {
    Config::from_env(&env(changes))
}

#[test]
fn given_only_the_required_variables_then_everything_else_has_its_documented_default() {
    let config = read(&[]).unwrap();
    assert_eq!(config.container_concurrency, None);
    assert_eq!(config.revision_timeout, Some(Duration::from_secs(300)));
    assert_eq!((config.response_start_timeout, config.idle_timeout), (None, None));
    assert_eq!(config.serving_tls_port(), Ok(8112));
    assert_eq!(config.user_port_number, Some(8080));
    assert!(config.readiness.is_empty() && !config.http2_auto_detection && !config.full_duplex);
    let own = config.own;
    assert_eq!(own.certificates, PathBuf::from("/var/lib/knative/certs"));
    assert_eq!((own.admin_port, own.stats_port, own.max_concurrent_streams), (8022, 9090, 250));
    assert_eq!(own.drain_quiet_period, Duration::from_secs(30));
    assert_eq!(own.client_idle_timeout, None);
    assert_eq!(own.client_auth, CallerAuth { callers: Callers::Off, names: vec!["kn-routing".to_owned()] });
}

/// Contract 1.2: each required variable, one by one, with the very line that the Go queue prints.
#[test]
fn given_an_absent_required_variable_then_the_line_and_the_exit_code_are_gos() {
    for (name, _) in REQUIRED {
        let mut env = env(&[]);
        env.remove(name);
        let errors = Config::from_env(&env).unwrap_err();
        assert_eq!(errors.to_string(), format!("required key {name} missing value"));
        assert_eq!((errors.exit_code(), errors.fatal()), (1, None));
    }
}

#[test]
fn given_an_empty_environment_then_the_first_line_is_gos_and_the_others_follow() {
    let text = Config::from_env(&HashMap::new()).unwrap_err().to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.first(), Some(&"required key CONTAINER_CONCURRENCY missing value"));
    assert_eq!(lines.get(1), Some(&"QUEUE_SERVING_PORT: required, but absent"));
    assert_eq!(lines.len(), 12);
}

#[test]
fn given_a_bad_number_or_boolean_then_the_line_is_envconfigs() {
    let errors = read(&[("CONTAINER_CONCURRENCY", "1.5"), ("LOCKKEEPER_ADMIN_PORT", "80a")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "envconfig.Process: assigning CONTAINER_CONCURRENCY to ContainerConcurrency: converting '1.5' to type int. \
         details: strconv.ParseInt: parsing \"1.5\": invalid syntax\n\
         LOCKKEEPER_ADMIN_PORT=\"80a\": expected a port from 0 (any free one) to 65535"
    );
    assert_eq!(errors.exit_code(), 1);
    let errors = read(&[("ENABLE_HTTP2_AUTO_DETECTION", "")]).unwrap_err();
    assert_eq!(
        errors.to_string(),
        "envconfig.Process: assigning ENABLE_HTTP2_AUTO_DETECTION to EnableHTTP2AutoDetection: converting '' to type \
         bool. details: strconv.ParseBool: parsing \"\": invalid syntax"
    );
    assert!(read(&[("REVISION_IDLE_TIMEOUT_SECONDS", "")]).is_err());
}

#[test]
fn given_several_mistakes_then_the_first_in_gos_order_comes_first_whatever_its_kind() {
    let mut env = env(&[("REVISION_TIMEOUT_SECONDS", "x")]);
    env.remove("SERVING_POD");
    let text = Config::from_env(&env).unwrap_err().to_string();
    assert!(text.starts_with("envconfig.Process: assigning REVISION_TIMEOUT_SECONDS to RevisionTimeoutSeconds"));
    assert!(text.ends_with("\nSERVING_POD: required, but absent"));
}

#[test]
fn given_only_our_own_settings_wrong_then_the_exit_code_is_usage() {
    let errors = read(&[("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", "30s"), ("WORKER_THREADS", "0")]).unwrap_err();
    assert_eq!((errors.all().len(), errors.exit_code()), (2, 64));
}

#[test]
fn given_numbers_as_go_literals_then_they_count() {
    let config = read(&[("CONTAINER_CONCURRENCY", "0x10"), ("REVISION_TIMEOUT_SECONDS", "010")]).unwrap();
    assert_eq!(config.container_concurrency, NonZeroU32::new(16));
    assert_eq!(config.revision_timeout, Some(Duration::from_secs(8)));
}

/// Contract 14, row 6: off, where the Go queue answers 504 to all.
#[test]
fn given_zero_or_negative_limits_then_they_are_off() {
    let config = read(&[("CONTAINER_CONCURRENCY", "-5"), ("REVISION_TIMEOUT_SECONDS", "0")]).unwrap();
    assert_eq!((config.container_concurrency, config.revision_timeout), (None, None));
    assert_eq!(read(&[("REVISION_TIMEOUT_SECONDS", "-1")]).unwrap().revision_timeout, None);
}

#[test]
fn given_a_serving_port_then_decimal_zero_and_empty_work_and_a_name_is_fatal() {
    assert_eq!(read(&[("QUEUE_SERVING_PORT", "")]).unwrap().serving_port, 0);
    assert_eq!(read(&[("QUEUE_SERVING_PORT", "0")]).unwrap().serving_port, 0);
    let errors = read(&[("QUEUE_SERVING_PORT", "http")]).unwrap_err();
    assert_eq!(errors.fatal().unwrap().0, "Failed to bring up queue-proxy, shutting down.");
    assert_eq!(errors.exit_code(), 1);
    let config = read(&[("QUEUE_SERVING_TLS_PORT", "https")]).unwrap();
    assert!(config.serving_tls_port().is_err());
}

#[test]
fn given_a_bad_user_port_then_the_queue_starts() {
    let config = read(&[("USER_PORT", "80a")]).unwrap();
    assert_eq!((config.user_port.as_str(), config.user_port_number), ("80a", None));
}

#[test]
fn given_a_bad_readiness_probe_then_it_is_fatal_unless_something_is_missing_too() {
    for probe in ["null", "{", "[]"] {
        let errors = read(&[("SERVING_READINESS_PROBE", probe)]).unwrap_err();
        assert_eq!(errors.fatal().unwrap().0, "Queue container failed to parse readiness probe");
        assert_eq!(errors.exit_code(), 1);
    }
    let errors = read(&[("SERVING_READINESS_PROBE", "null"), ("CONTAINER_CONCURRENCY", "x")]).unwrap_err();
    assert_eq!(errors.fatal(), None);
    let multi = read(&[("SERVING_READINESS_PROBE", "[{},{}]"), ("ENABLE_MULTI_CONTAINER_PROBES", "T")]).unwrap();
    assert_eq!(multi.readiness.len(), 2);
}

#[test]
fn given_our_own_settings_then_they_are_read() {
    let own = read(&[
        ("LOCKKEEPER_CLIENT_AUTH", "require"),
        ("LOCKKEEPER_CLIENT_AUTH_SANS", "kn-routing, kn-user-demo"),
        ("LOCKKEEPER_CLIENT_IDLE_TIMEOUT", "2m"),
        ("LOCKKEEPER_LISTEN_ADDRESS", "::1"),
        ("LOCKKEEPER_SHUTDOWN_GRACE", "45s"),
        ("LOCKKEEPER_MAX_HEADER_BYTES", "64Ki"),
        ("WORKER_THREADS", "3"),
    ])
    .unwrap()
    .own;
    assert_eq!(own.client_auth.callers, Callers::Require);
    assert_eq!(own.client_auth.names, ["kn-routing", "kn-user-demo"]);
    assert_eq!(own.client_idle_timeout, Some(Duration::from_secs(120)));
    assert_eq!(own.listen_address, Some(IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])));
    assert_eq!(own.shutdown_grace, Some(Duration::from_secs(45)));
    assert_eq!((own.max_header_bytes, own.worker_threads), (65_536, Some(3)));
}
