//! Pushing metrics and spans to a collector, from the control side.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::push::{self, Signal};
use crate::telemetry::observability::{MetricsExport, Observability, TraceExport};
use crate::telemetry::registry::Source;
use crate::telemetry::trace::{self, Tracer};
use crate::telemetry::{otlp, writer};

/// How often spans go out: OpenTelemetry's `OTEL_BSP_SCHEDULE_DELAY`.
const SPANS_EVERY: Duration = Duration::from_secs(5);

/// Starts what is configured; each task ends, after a last push, when `stop` turns true.
pub fn start(
    observability: &Observability,
    metrics: &Arc<dyn Source>,
    tracer: Option<Arc<Tracer>>,
    stop: &watch::Receiver<bool>,
) -> Vec<JoinHandle<()>> {
    let mut tasks = Vec::new();
    if let MetricsExport::Push { to, every } = &observability.metrics {
        let (metrics, began) = (metrics.clone(), SystemTime::now());
        let collect = move || Some(otlp::metrics(&metrics.families(), metrics.resource(), began, SystemTime::now()));
        let run = push::run(to.clone(), Signal::Metrics, *every, collect, stopped(stop.clone()));
        tasks.push(tokio::task::spawn_local(run));
    }
    let Some(tracer) = tracer else { return tasks };
    match &observability.traces {
        TraceExport::Off => {}
        TraceExport::Push(to) => {
            let metrics = metrics.clone();
            let collect = move || {
                let spans = tracer.spans().take();
                (!spans.is_empty()).then(|| otlp::traces(spans, metrics.resource()))
            };
            let run = push::run(to.clone(), Signal::Traces, SPANS_EVERY, collect, stopped(stop.clone()));
            tasks.push(tokio::task::spawn_local(run));
        }
        TraceExport::Stdout => tasks.push(tokio::task::spawn_local(print(tracer, stop.clone()))),
    }
    tasks
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Spans as lines on stdout.
async fn print(tracer: Arc<Tracer>, mut stop: watch::Receiver<bool>) {
    loop {
        let ended = tokio::time::timeout(SPANS_EVERY, stop.wait_for(|stop| *stop)).await.is_ok();
        for span in tracer.spans().take() {
            let mut line = Vec::new();
            trace::json_line(&span, &mut line);
            writer::stdout().line(&line);
        }
        if ended {
            return;
        }
    }
}
