//! Section 12: metrics and spans that are pushed (OTLP), as `config-observability` says.
use super::world::{REVISION, SYSTEM, World};
use crate::support::collector;
use crate::support::objects::config_map;
use crate::support::wait::patience;

#[test]
fn given_a_collector_when_requests_pass_then_metrics_and_spans_are_pushed_to_it() {
    for (protocol, metrics, traces) in [
        ("http/protobuf", "/v1/metrics", "/v1/traces"),
        (
            "grpc",
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        ),
    ] {
        let (port, seen) = collector::start(None, protocol == "grpc");
        let at = |path: &str| match protocol {
            "grpc" => format!("http://127.0.0.1:{port}"),
            _ => format!("http://127.0.0.1:{port}{path}"),
        };
        let world = World::new(false);
        world.create(world.revision());
        world.api.apply(
            config_map(SYSTEM, "config-observability")
                .entry("metrics-protocol", protocol)
                .entry("metrics-endpoint", &at(metrics))
                .entry("metrics-export-interval", "200ms")
                .entry("tracing-protocol", protocol)
                .entry("tracing-endpoint", &at(traces))
                .entry("tracing-sampling-rate", "1"),
        );
        let mut activator = world.start();
        let pod = world.pod();
        world.endpoints(&[pod.ip], &[]);
        assert_eq!(activator.get().status(), 200);
        let push = |path: &str, texts: &[&str]| loop {
            let (head, body) =
                seen.recv_timeout(patience()).unwrap_or_else(|_| panic!("{protocol}: {texts:?} at {path}"));
            let has = |text: &&str| body.windows(text.len()).any(|window| window == text.as_bytes());
            if head.uri.path() == path && texts.iter().all(has) {
                return;
            }
        };
        push(metrics, &["http.server.request.duration", "kn.revision.request.queued", REVISION, "activator-0"]);
        // Spans are flushed at the end at the latest.
        activator.process.signal("TERM");
        assert_eq!(activator.process.exit().code(), Some(0));
        push(traces, &["throttler_try", "activator_proxy", "activator-0"]);
    }
}
