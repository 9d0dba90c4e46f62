//! Traces: the spans of one request, W3C trace context in and out, sampling, and the queue to the control side.
//!
//! Data side: [`Tracer::begin`] when a request comes in, a few calls on its way, [`RequestTrace::finish`] at its end.
//! Spans are made only for sampled requests and queued; the queue is bounded, what does not fit is dropped and
//! counted. Control side: takes the spans and sends them ([`super::otlp`]) or prints them ([`json_line`]).
//!
//! Spans of a request in the queue, each the parent of the next: server, `kn.queueproxy.proxy`, `kn.queueproxy.wait`
//! (with a breaker), client; in the activator `throttler_try` and `activator_proxy` are both children of the server's,
//! and the client's is one of the latter. While tracing is on, `traceparent` upstream always names the client span, sampled or not.
//!
//! Source: `otelhttp`, `pkg/queue/handler.go`, the SDK's `TraceIDRatioBased`; W3C Trace Context.

mod attributes;
mod context;
mod span;

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue};

pub use attributes::{ClientFacts, RevisionFacts, ServerFacts};
pub use span::{Attribute, Kind, Span, json_line};

use super::observability::{Observability, Sampler, TraceExport};
use attributes::{client_attributes, method, server_attributes};
use context::parse;

/// Spans that may wait for the control side (the SDK's batch processor's number).
const QUEUE: usize = 2048;

/// Scope of the spans of HTTP.
pub const OTELHTTP: &str = "go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp";
/// What a role calls its spans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Scope of the spans between those of HTTP.
    pub scope: &'static str,
    /// The span from the grant to the end of the response; of the queue, from the beginning of the wait.
    pub proxy: &'static str,
    /// The span of waiting.
    pub wait: &'static str,
    /// Whether a request has one span, the server's: what goes upstream then names that one.
    pub alone: bool,
    /// Whether the wait lies within the proxy span, as in the queue, or before it, as in the activator.
    pub wait_within: bool,
}

impl Names {
    /// The queue's (`pkg/queue/handler.go`).
    pub const QUEUE: Self = Self {
        scope: "knative.dev/serving/pkg/queue",
        proxy: "kn.queueproxy.proxy",
        wait: "kn.queueproxy.wait",
        alone: false,
        wait_within: true,
    };
    /// The activator's (`pkg/activator/handler/handler.go`).
    pub const ACTIVATOR: Self = Self {
        scope: "knative.dev/serving/pkg/activator",
        proxy: "activator_proxy",
        wait: "throttler_try",
        alone: false,
        wait_within: false,
    };
    /// The gateway's (Envoy's HTTP connection manager).
    pub const GATEWAY: Self =
        Self { scope: "lockkeeper/gateway", proxy: "", wait: "", alone: true, wait_within: false };
}

/// Starts traces. One for the process, shared by all workers.
#[derive(Debug)]
pub struct Tracer {
    names: Names,
    sampler: Sampler,
    spans: Arc<Spans>,
    ids: RandomState,
    next: AtomicU64,
}

/// Finished spans on their way to the control side.
#[derive(Debug, Default)]
pub struct Spans {
    queue: Mutex<VecDeque<Span>>,
    dropped: AtomicU64,
}

impl Spans {
    /// All spans that wait.
    pub fn take(&self) -> Vec<Span> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Spans that were dropped because nobody took those before them.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn push(&self, span: Span) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < QUEUE {
            queue.push_back(span);
        } else {
            drop(queue);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Tracer {
    /// The tracer that the configuration asks for; nothing when tracing is off.
    pub fn new(observability: &Observability, names: Names) -> Option<Arc<Self>> {
        (observability.traces != TraceExport::Off).then(|| Arc::new(Self::with_sampler(observability.sampler, names)))
    }

    /// A tracer that samples so.
    #[must_use]
    pub fn with_sampler(sampler: Sampler, names: Names) -> Self {
        Self { names, sampler, spans: Arc::default(), ids: RandomState::new(), next: AtomicU64::new(0) }
    }

    /// Where finished spans wait.
    pub fn spans(&self) -> &Arc<Spans> {
        &self.spans
    }

    /// Begins the trace of a request, or continues its caller's.
    pub fn begin(&self, headers: &HeaderMap) -> Box<RequestTrace> {
        let parent = headers.get("traceparent").and_then(|value| parse(value.as_bytes()));
        let trace_id = match parent {
            Some(parent) => parent.trace_id,
            None => u128::from(self.id()) << 64 | u128::from(self.id()),
        };
        let share = |share: f64| share >= 1.0 || ((trace_id as u64 >> 1) as f64) < share * (1_u64 << 63) as f64;
        let sampled = match (self.sampler, parent) {
            (Sampler::Always, _) => true,
            (Sampler::Never, _) => false,
            (Sampler::Ratio(ratio), _) => share(ratio),
            (Sampler::Parent(_), Some(parent)) => parent.sampled,
            (Sampler::Parent(ratio), None) => share(ratio),
        };
        Box::new(RequestTrace {
            names: self.names,
            spans: Arc::clone(&self.spans),
            trace_id,
            parent: parent.map_or(0, |parent| parent.id),
            sampled,
            ids: if self.names.alone { [self.id(); 4] } else { [self.id(), self.id(), self.id(), self.id()] },
            started: Instant::now(),
            clock: SystemTime::now(),
            wait: None,
            granted: None,
            client: None,
        })
    }

    /// A random id that is not 0: keyed hash of a counter, the key from the system's random source.
    fn id(&self) -> u64 {
        self.ids.hash_one(self.next.fetch_add(1, Ordering::Relaxed)).max(1)
    }
}

/// The trace of one request under way. Dropped without [`finish`](Self::finish) it leaves no spans.
#[derive(Debug)]
pub struct RequestTrace {
    names: Names,
    spans: Arc<Spans>,
    trace_id: u128,
    parent: u64,
    sampled: bool,
    /// Of the server, proxy, wait and client spans.
    ids: [u64; 4],
    started: Instant,
    clock: SystemTime,
    wait: Option<Instant>,
    granted: Option<Instant>,
    client: Option<Instant>,
}

impl RequestTrace {
    /// The request waits for the breaker.
    pub fn wait_started(&mut self, now: Instant) {
        self.wait = Some(now);
    }

    /// The breaker let it pass.
    pub fn wait_ended(&mut self, now: Instant) {
        self.granted = Some(now);
    }

    /// The request to the application begins.
    pub fn client_started(&mut self, now: Instant) {
        self.client = Some(now);
    }

    /// Whether spans are made of it.
    pub fn is_sampled(&self) -> bool {
        self.sampled
    }

    /// What the request to the application has to carry.
    pub fn traceparent(&self) -> HeaderValue {
        let [_, _, _, client] = self.ids;
        let text = format!("00-{:032x}-{client:016x}-{:02x}", self.trace_id, u8::from(self.sampled));
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }

    /// The request ended, at `now`: queues its spans if it is sampled.
    pub fn finish(&self, now: Instant, facts: &ServerFacts<'_>) {
        if !self.sampled {
            return;
        }
        let [server, proxy, wait, client] = self.ids;
        let known = method(facts.method);
        let name = known.unwrap_or("HTTP").to_owned();
        let span = |scope, name, kind, id, parent, start, end| Span {
            trace_id: self.trace_id,
            id,
            parent,
            scope,
            name,
            kind,
            start: self.nanos(start),
            end: self.nanos(end),
            attributes: Vec::new(),
            failed: false,
        };
        if let Some((facts, start)) = facts.client.as_ref().zip(self.client) {
            let within = self.wait.is_some() && self.names.wait_within;
            let parent = if within { wait } else { proxy };
            let name = match self.names.wait_within {
                true => format!("HTTP {name}"),
                false => format!("{name} {}", facts.target.split('?').next().unwrap_or_default()),
            };
            let mut span = span(OTELHTTP, name, Kind::Client, client, parent, start, now);
            span.attributes = client_attributes(known, facts);
            span.failed = facts.status.map_or(true, |status| status >= 400);
            self.spans.push(span);
        }
        if let Some(start) = self.wait {
            let end = self.granted.unwrap_or(now);
            let parent = if self.names.wait_within { proxy } else { server };
            let mut span = span(self.names.scope, self.names.wait.to_owned(), Kind::Internal, wait, parent, start, end);
            span.failed = !self.names.wait_within && self.granted.is_none();
            self.spans.push(span);
        }
        let proxied = if self.names.wait_within { self.wait.or(self.client) } else { self.granted };
        if let Some(start) = proxied {
            let name = self.names.proxy.to_owned();
            self.spans.push(span(self.names.scope, name, Kind::Internal, proxy, server, start, now));
        }
        let mut root = span(OTELHTTP, name, Kind::Server, server, self.parent, self.started, now);
        root.attributes = server_attributes(known, facts);
        root.failed = facts.status >= 500;
        self.spans.push(root);
    }

    /// The request ended, at `now`: queues its only span if it is sampled ([`Names::alone`]).
    pub fn finish_alone(&self, now: Instant, name: &str, attributes: Vec<(&'static str, Attribute)>, failed: bool) {
        if !self.sampled {
            return;
        }
        let [id, ..] = self.ids;
        self.spans.push(Span {
            trace_id: self.trace_id,
            id,
            parent: self.parent,
            scope: self.names.scope,
            name: name.to_owned(),
            kind: Kind::Server,
            start: self.nanos(self.started),
            end: self.nanos(now),
            attributes,
            failed,
        });
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = self.clock + at.saturating_duration_since(self.started);
        u64::try_from(since.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use http::{Method, Version};

    fn headers(traceparent: &str) -> HeaderMap {
        HeaderMap::from_iter([("traceparent".parse().unwrap(), HeaderValue::from_str(traceparent).unwrap())])
    }

    fn facts<'a>(method: &'a Method, headers: &'a HeaderMap, status: u16) -> ServerFacts<'a> {
        ServerFacts {
            method,
            https: false,
            host: "a.b:80",
            path: "/x",
            peer: "127.0.0.1:5".parse().unwrap(),
            headers,
            version: Version::HTTP_11,
            request_bytes: 1,
            response_bytes: 2,
            status,
            tag: Some("kn:disabled"),
            revision: None,
            client: Some(ClientFacts {
                target: "/x?y",
                address: [127, 0, 0, 1].into(),
                port: 8080,
                https: false,
                status: Ok(status),
                version: Version::HTTP_11,
            }),
        }
    }

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn given_a_caller_s_trace_when_a_request_ends_then_its_spans_hang_together() {
        let tracer = Tracer::with_sampler(Sampler::Parent(0.0), Names::QUEUE);
        let headers = headers(PARENT);
        let mut trace = tracer.begin(&headers);
        let now = Instant::now();
        trace.wait_started(now);
        trace.wait_ended(now + Duration::from_millis(1));
        trace.client_started(now + Duration::from_millis(1));
        let outgoing = trace.traceparent();
        trace.finish(now + Duration::from_millis(5), &facts(&Method::GET, &headers, 404));

        let spans = tracer.spans().take();
        let by_name = |name: &str| spans.iter().find(|span| span.name == name).unwrap();
        let (server, proxy) = (by_name("GET"), by_name("kn.queueproxy.proxy"));
        let (wait, client) = (by_name("kn.queueproxy.wait"), by_name("HTTP GET"));
        assert_eq!(spans.len(), 4);
        assert!(spans.iter().all(|span| span.trace_id == 0x0af7651916cd43dd8448eb211c80319c));
        assert_eq!(server.parent, 0xb7ad6b7169203331);
        assert_eq!((proxy.parent, wait.parent, client.parent), (server.id, proxy.id, wait.id));
        assert_eq!((server.failed, client.failed), (false, true));
        assert_eq!(wait.end - wait.start, 1_000_000);
        assert_eq!(outgoing, format!("00-0af7651916cd43dd8448eb211c80319c-{:016x}-01", client.id));
        assert!(client.attributes.contains(&("url.full", Attribute::Text("http://127.0.0.1:8080/x?y".into()))));
        let mut line = Vec::new();
        json_line(server, &mut line);
        let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(line["Attributes"]["server.port"], "80");
    }

    #[test]
    fn given_a_request_that_is_not_sampled_when_it_ends_then_it_only_propagates() {
        let tracer = Tracer::with_sampler(Sampler::Never, Names::QUEUE);
        let headers = headers(PARENT);
        let trace = tracer.begin(&headers);
        trace.finish(Instant::now(), &facts(&Method::GET, &headers, 200));

        assert!(trace.traceparent().to_str().unwrap().ends_with("-00"));
        assert!(tracer.spans().take().is_empty());
    }

    #[test]
    fn when_a_ratio_samples_then_about_that_share_is_traced() {
        let tracer = Tracer::with_sampler(Sampler::Parent(0.25), Names::QUEUE);

        let sampled = (0..4000).filter(|_| tracer.begin(&HeaderMap::new()).is_sampled()).count();

        assert!((800..1200).contains(&sampled), "{sampled}");
    }

    #[test]
    fn when_nobody_takes_spans_then_the_queue_is_bounded_and_drops_count() {
        let tracer = Tracer::with_sampler(Sampler::Always, Names::QUEUE);
        let headers = HeaderMap::new();
        for _ in 0..3000 {
            tracer.begin(&headers).finish(Instant::now(), &facts(&Method::GET, &headers, 200));
        }

        assert_eq!(tracer.spans().take().len(), QUEUE);
        assert_eq!(tracer.spans().dropped(), 3000 - QUEUE as u64);
    }

    #[test]
    fn when_traceparent_is_malformed_then_a_new_trace_begins() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
        ] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(parse(format!("{}-x", PARENT.replacen("00", "01", 1)).as_bytes()).is_some());
    }
}
