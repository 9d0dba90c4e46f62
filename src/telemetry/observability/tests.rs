#![allow(clippy::unwrap_used)]
use super::*;
use std::collections::HashMap;

fn parse(json: &str, env: &[(&str, &str)]) -> Result<Observability, Error> {
    let env: HashMap<String, String> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Observability::parse(json, &env)
}

fn pushed(json: &str, env: &[(&str, &str)]) -> (String, Duration) {
    match parse(json, env).unwrap().metrics {
        MetricsExport::Push { to, every } => (to.url.to_string(), every),
        other => panic!("{other:?}"),
    }
}

fn refused(json: &str, env: &[(&str, &str)]) -> &'static str {
    parse(json, env).unwrap_err().message()
}

#[test]
fn when_the_config_is_empty_then_all_is_off() {
    for json in ["", "{}", r#"{"tracing":{},"metrics":{},"runtime":{},"requestMetrics":{}}"#, "null"] {
        assert_eq!(parse(json, &[]).unwrap(), Observability::off(), "{json}");
    }
}

#[test]
fn when_the_controller_s_config_is_parsed_then_all_of_it_counts() {
    let json = r#"{"tracing":{"protocol":"grpc","endpoint":"http://otel:4317","samplingRate":0.25},
        "metrics":{"protocol":"prometheus"},"runtime":{"profiling":"enabled","exportInterval":15000000000},
        "requestMetrics":{"protocol":"http/protobuf","endpoint":"http://otel:4318/x","exportInterval":1500000000},
        "enableRequestLog":true,"EnableProbeRequestLog":true,"EnableVarLogCollection":true,"unknown":[1]}"#;

    let parsed = parse(json, &[]).unwrap();

    assert_eq!(parsed.request_log.as_deref(), Some(DEFAULT_REQUEST_LOG_TEMPLATE));
    assert!(parsed.log_probes && parsed.profiling);
    assert_eq!(parsed.sampler, Sampler::Parent(0.25));
    assert!(matches!(&parsed.traces, TraceExport::Push(to) if to.transport == Transport::Grpc));
    assert_eq!(pushed(json, &[]), ("http://otel:4318/x".into(), Duration::from_millis(1500)));
}

#[test]
fn when_a_value_has_a_wrong_type_then_the_config_is_refused() {
    for json in [
        "{",
        "[]",
        r#"{"requestMetrics":{"exportInterval":"30s"}}"#,
        r#"{"metrics":{"exportInterval":1.5}}"#,
        r#"{"tracing":{"samplingRate":"1"}}"#,
        r#"{"enableRequestLog":"true"}"#,
        r#"{"requestMetrics":"prometheus"}"#,
    ] {
        assert_eq!(refused(json, &[]), "failed to parse OBSERVABILITY_CONFIG", "{json}");
    }
}

#[test]
fn when_a_protocol_or_an_endpoint_is_unusable_then_its_provider_is_refused() {
    for protocol in ["", "zipkin", "stdout"] {
        let json = format!(r#"{{"requestMetrics":{{"protocol":"{protocol}"}}}}"#);
        assert_eq!(refused(&json, &[]), "Failed to setup meter provider", "{protocol}");
    }
    for protocol in ["", "prometheus"] {
        let json = format!(r#"{{"tracing":{{"protocol":"{protocol}"}}}}"#);
        assert_eq!(refused(&json, &[]), "Failed to setup trace provider", "{protocol}");
    }
    for endpoint in ["9091", "a:b:1", ":80", ":65536", ":x", "[::1:9091"] {
        let json = format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"{endpoint}"}}}}"#);
        assert_eq!(refused(&json, &[]), "Failed to setup meter provider", "{endpoint}");
    }
    let json = r#"{"requestMetrics":{"protocol":"grpc","endpoint":"10.0.0.1:4317"}}"#;
    assert!(parse(json, &[]).unwrap_err().to_string().ends_with("first path segment in URL cannot contain colon"));
}

#[test]
fn given_prometheus_when_endpoint_and_variables_say_where_then_the_variables_win() {
    let at = |endpoint: &str, env: &[(&str, &str)]| {
        let json = format!(r#"{{"requestMetrics":{{"protocol":"prometheus","endpoint":"{endpoint}"}}}}"#);
        match parse(&json, env).unwrap().metrics {
            MetricsExport::Prometheus(p) => (p.host, p.port),
            other => panic!("{other:?}"),
        }
    };

    assert_eq!(at("", &[]), (String::new(), 9091));
    assert_eq!(at("[::1]:9999", &[]), ("::1".into(), 9999));
    let env = [("METRICS_PROMETHEUS_HOST", "127.0.0.1"), ("METRICS_PROMETHEUS_PORT", "2000")];
    assert_eq!(at(":9999", &env), ("127.0.0.1".into(), 2000));
}

#[test]
fn given_prometheus_over_tls_when_its_variables_do_not_fit_then_it_is_refused() {
    let json = r#"{"requestMetrics":{"protocol":"prometheus"}}"#;
    let (cert, key) = (("METRICS_PROMETHEUS_TLS_CERT", "/c"), ("METRICS_PROMETHEUS_TLS_KEY", "/k"));
    let auth = |value| ("METRICS_PROMETHEUS_TLS_CLIENT_AUTH", value);
    let ca = ("METRICS_PROMETHEUS_TLS_CLIENT_CA_FILE", "/ca");

    for bad in
        [vec![cert], vec![auth("require")], vec![cert, key, auth("require")], vec![cert, key, ca], vec![auth("maybe")]]
    {
        assert_eq!(refused(json, &bad), "Failed to setup meter provider", "{bad:?}");
    }
    let MetricsExport::Prometheus(port) = parse(json, &[cert, key, auth(" Require "), ca]).unwrap().metrics else {
        panic!("not prometheus");
    };
    assert_eq!(port.tls.unwrap().client_auth, ClientAuth::Require);
}

#[test]
fn given_a_collector_when_its_url_has_no_path_then_the_signal_s_is_added() {
    let json =
        |endpoint: &str| format!(r#"{{"requestMetrics":{{"protocol":"http/protobuf","endpoint":"{endpoint}"}}}}"#);
    let base = [("OTEL_EXPORTER_OTLP_ENDPOINT", "https://c:1/base/")];
    let own = [("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "https://c:1/own"), base[0]];

    assert_eq!(pushed(&json("http://otel:4318"), &[]).0, "http://otel:4318/v1/metrics");
    assert_eq!(pushed(&json("otel:4318"), &[]).0, "https://otel:4318/v1/metrics");
    assert_eq!(pushed(&json("http://otel:4318/as/given?x=1"), &[]).0, "http://otel:4318/as/given?x=1");
    assert_eq!(pushed(&json("http://otel:4318"), &base).0, "https://c:1/base/v1/metrics");
    assert_eq!(pushed(&json("http://otel:4318"), &own).0, "https://c:1/own");
    assert_eq!(pushed(&json(""), &[]).0, "http://localhost:4318/v1/metrics");
}

#[test]
fn given_a_collector_when_variables_set_its_details_then_they_count() {
    let json = r#"{"requestMetrics":{"protocol":"grpc","endpoint":"http://otel:4317/x"}}"#;
    let env = [
        ("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Bearer%20x, b = c,bad,d=%zz"),
        ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/ca.pem"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "700"),
    ];

    let MetricsExport::Push { to, every } = parse(json, &env).unwrap().metrics else { panic!("not pushed") };

    assert_eq!(to.url, "http://otel:4317/");
    assert_eq!(to.headers, [("authorization".into(), "Bearer x".into()), ("b".into(), "c".into())]);
    assert_eq!(to.ca, Some("/ca.pem".into()));
    assert_eq!((to.timeout, every), (Duration::from_millis(2500), Duration::from_millis(700)));
}

/// OpenTelemetry: a value that can't be used counts as unset. What the log says is tested with the real binary.
#[test]
fn given_variables_that_cannot_be_used_when_parsed_then_the_configuration_is_in_force() {
    let json = r#"{"requestMetrics":{"protocol":"grpc","endpoint":"http://otel:4317","exportInterval":2000000000},
        "tracing":{"protocol":"grpc","endpoint":"http://otel:4317","samplingRate":0.5}}"#;
    let env = [
        ("OTEL_METRIC_EXPORT_INTERVAL", "60s"),
        ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "10.0.0.1:4317"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "0"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "a b=c,x=new%0Aline,ok=1"),
        ("OTEL_TRACES_SAMPLER", "jaeger_remote"),
        ("OTEL_TRACES_SAMPLER_ARG", "endpoint=http://localhost:14250"),
    ];

    let observability = parse(json, &env).unwrap();

    let MetricsExport::Push { to, every } = observability.metrics else { panic!("not pushed") };
    assert_eq!((to.url.to_string().as_str(), every), ("http://otel:4317/", Duration::from_secs(2)));
    assert_eq!((to.timeout, to.headers), (Duration::from_secs(10), vec![("ok".into(), "1".into())]));
    assert_eq!(observability.sampler, Sampler::Parent(0.5));
    for share in ["-0.5", "1.5", "NaN", "half"] {
        let env = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", share)];
        assert_eq!(parse(json, &env).unwrap().sampler, Sampler::Ratio(1.0), "{share}");
    }
}

#[test]
fn when_sampling_is_set_then_variables_win_over_the_rate() {
    let sampler = |rate: &str, env: &[(&str, &str)]| {
        let json =
            format!(r#"{{"tracing":{{"protocol":"http/protobuf","endpoint":"http://o:1","samplingRate":{rate}}}}}"#);
        parse(&json, env).unwrap().sampler
    };

    assert_eq!(sampler("0", &[]), Sampler::Never);
    assert_eq!(sampler("2.5", &[]), Sampler::Always);
    assert_eq!(sampler("0.5", &[]), Sampler::Parent(0.5));
    assert_eq!(sampler("0", &[("OTEL_TRACES_SAMPLER_ARG", "0.1")]), Sampler::Parent(0.1));
    let env = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.1")];
    assert_eq!(sampler("1", &env), Sampler::Ratio(0.1));
    assert_eq!(parse(r#"{"tracing":{"protocol":"stdout"}}"#, &[]).unwrap().sampler, Sampler::Always);
    let json = r#"{"tracing":{"protocol":"grpc","endpoint":"http://o:1"}}"#;
    assert_eq!(refused(json, &[("OTEL_TRACES_SAMPLER_ARG", "x")]), "Failed to setup trace provider");
}
