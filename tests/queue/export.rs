//! Section 8.5: metrics and spans that are pushed, by each of OTLP's framings, in plaintext and over TLS.
use std::sync::mpsc::Receiver;

use crate::support::app::App;
use crate::support::binary::queue;
use crate::support::client::get;
use crate::support::collector::{self, Seen};
use crate::support::pki::Pki;
use crate::support::wait::patience;

const METRICS: &str = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export";
const TRACES: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

#[track_caller]
fn next(seen: &Receiver<Seen>) -> Seen {
    seen.recv_timeout(patience()).expect("a push")
}

/// One gRPC message: a flag, its length, itself.
#[track_caller]
fn message(framed: &[u8]) -> &[u8] {
    let length = u32::from_be_bytes(framed[1..5].try_into().unwrap()) as usize;
    assert_eq!((framed[0], framed.len()), (0, 5 + length));
    &framed[5..]
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn given_grpc_when_metrics_are_due_then_the_collector_gets_one_message() {
    let (port, seen) = collector::start(None, true);
    let app = App::ok();
    let config = format!(
        r#"{{"requestMetrics":{{"protocol":"grpc","endpoint":"http://127.0.0.1:{port}","exportInterval":200000000}}}}"#
    );
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "");
    let (head, body) = std::iter::repeat_with(|| next(&seen))
        .find(|(_, body)| contains(body, "http.server.request.duration"))
        .expect("a push with the request");
    assert_eq!((head.uri.path(), head.version), (METRICS, http::Version::HTTP_2));
    assert_eq!(head.headers["content-type"], "application/grpc");
    assert_eq!(head.headers["te"], "trailers");
    for text in ["hello-00001", "queue-proxy", "kn.serving.invocation.duration"] {
        assert!(contains(message(&body), text), "{text}");
    }
}

#[test]
fn given_grpc_when_a_request_was_traced_then_its_spans_are_flushed_at_the_end() {
    let (port, seen) = collector::start(None, true);
    let app = App::ok();
    let config =
        format!(r#"{{"tracing":{{"protocol":"grpc","endpoint":"http://127.0.0.1:{port}","samplingRate":1}}}}"#);
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    get(queue.http(), "/", "");
    queue.signal("TERM");
    assert_eq!(queue.exit().code(), Some(0));
    let (head, body) = next(&seen);
    assert_eq!(head.uri.path(), TRACES);
    assert!(contains(message(&body), "kn.queueproxy.proxy"));
}

/// Both framings over TLS, verified by the authority that is named; a collector of another one gets nothing.
#[test]
fn given_https_when_metrics_are_due_then_only_a_collector_that_is_verified_gets_them() {
    let app = App::ok();
    for (protocol, grpc, alpn, path) in
        [("http/protobuf", false, "http/1.1", "/v1/metrics"), ("grpc", true, "h2", METRICS)]
    {
        let mut pki = Pki::new();
        let (port, seen) = collector::start(Some(collector::over_tls(&mut pki, alpn)), grpc);
        let config = format!(
            r#"{{"requestMetrics":{{"protocol":"{protocol}","endpoint":"https://localhost:{port}","exportInterval":200000000}}}}"#
        );
        let start = |authority: &Pki| {
            let ca = authority.dir().join("ca.crt");
            let builder = queue(app.port()).env("OBSERVABILITY_CONFIG", &config);
            builder.env("OTEL_EXPORTER_OTLP_CERTIFICATE", ca.display()).start()
        };
        let mut stranger = start(&Pki::new());
        stranger.logs("failed to upload metrics: ");
        assert!(seen.try_recv().is_err(), "{protocol}: nothing is sent to who is not verified");
        drop(stranger);

        let _queue = start(&pki);
        let (head, body) = next(&seen);
        assert_eq!(head.uri.path(), path);
        assert!(contains(&body, "hello-00001"));
    }
}

/// 8.5: a collector that is away costs a line, once a minute, and nothing else.
#[test]
fn given_a_collector_that_is_away_when_metrics_are_due_then_there_is_one_line_and_requests_are_served() {
    let app = App::ok();
    let config = format!(
        r#"{{"requestMetrics":{{"protocol":"grpc","endpoint":"http://127.0.0.1:{}","exportInterval":50000000}}}}"#,
        crate::support::port::free_port()
    );
    let mut queue = queue(app.port()).env("OBSERVABILITY_CONFIG", config).start();
    queue.logs("failed to upload metrics: ");
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(get(queue.http(), "/", "").status(), 200);
    assert_eq!(queue.log.lines(|line| line.contains("failed to upload metrics: ")).len(), 1);
}
