//! What is told of each request when it has ended: metrics, the request log, spans. Probes never come here.

use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};

use super::route::Routed;
use crate::activator::metrics::labels::Labels;
use crate::activator::metrics::{Count, HttpShards, Metrics};
use crate::activator::worker::Local;
use crate::http::body::{End, Watch};
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::telemetry::request_log::{Record, Template};
use crate::telemetry::trace::{ClientFacts, RequestTrace, RevisionFacts, ServerFacts, Tracer};
use crate::telemetry::writer::Writer;
use crate::worker::clock;

/// Where lines about requests go.
pub struct RequestLog {
    /// What a line looks like.
    pub template: Template,
    /// Never blocks.
    pub writer: Writer,
}

/// What one worker tells with.
pub struct Observer {
    /// The worker's number.
    pub index: usize,
    /// The process's metrics.
    pub metrics: Arc<Metrics>,
    /// Whether anybody can see metrics of requests.
    pub measured: bool,
    /// Series of requests for no revision.
    pub unknown: HttpShards,
    /// The request log, while there is one.
    pub log: Arc<ArcSwapOption<RequestLog>>,
    /// Makes spans, if tracing is on.
    pub tracer: Option<Arc<Tracer>>,
}

/// The layer.
#[derive(Clone)]
pub struct Observe<S> {
    /// What is observed.
    pub inner: S,
    /// Whom to tell.
    pub observer: Rc<Observer>,
}

impl<S: tower::Service<Routed, Response = Response, Error = Cause>> tower::Service<Routed> for Observe<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, routed: Routed) -> Self::Future {
        let Request { head, call, .. } = &routed.request;
        if let Some(tracer) = &self.observer.tracer {
            *call.trace.borrow_mut() = Some(tracer.begin(&head.headers));
        }
        let local = routed.revision.as_ref().ok().cloned();
        // A request for no revision has no line.
        let log = local.as_ref().and_then(|_| self.observer.log.load_full());
        let kept = self.observer.tracer.is_some() || log.is_some();
        let facts = Box::new(Facts {
            observer: self.observer.clone(),
            call: call.clone(),
            method: head.method.clone(),
            version: head.version,
            host: host(head),
            status: 0,
            sent: 0,
            log,
            kept: kept.then(|| Kept { uri: target(head), headers: head.headers.clone() }),
            local,
        });
        Observed { inner: self.inner.call(routed), facts: Some(facts) }
    }
}

/// The caller's host, without building a new string.
fn host(head: &http::request::Parts) -> HeaderValue {
    match (head.uri.authority(), head.headers.get(header::HOST)) {
        (Some(authority), _) => HeaderValue::from_str(authority.as_str()).unwrap_or(HeaderValue::from_static("")),
        (None, Some(host)) => host.clone(),
        (None, None) => HeaderValue::from_static(""),
    }
}

fn target(head: &http::request::Parts) -> String {
    if head.version == Version::HTTP_2 {
        head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string)
    } else {
        head.uri.to_string()
    }
}

struct Kept {
    uri: String,
    headers: HeaderMap,
}

/// What is remembered of a request until its response has ended.
struct Facts {
    observer: Rc<Observer>,
    local: Option<Rc<Local>>,
    call: Rc<Call>,
    method: Method,
    version: Version,
    host: HeaderValue,
    status: u16,
    sent: u64,
    log: Option<Arc<RequestLog>>,
    kept: Option<Kept>,
}

impl Facts {
    fn tell(&self, status: u16, cause: Option<&'static str>) {
        let now = clock::now();
        let observer = &self.observer;
        if let Some(token) = cause {
            observer.metrics.cause(token);
            if token == Cause::CallerLeft.token() {
                observer.metrics.count(observer.index, Count::ClientLeft);
            }
        }
        let upstream = self.call.upstream.get();
        let answered = if self.status == 0 { Err(cause.unwrap_or("unknown")) } else { Ok(self.status) };
        if observer.measured {
            let shards = self.local.as_ref().map_or(&observer.unknown, |local| local.shards(observer));
            let elapsed = now.saturating_duration_since(self.call.started);
            let request_bytes = self.call.request_bytes.get();
            let host = self.host.to_str().unwrap_or_default();
            let labels = Labels::server(&self.method, status, self.version, self.call.connection.tls, host);
            shards.server(&labels, elapsed, request_bytes, self.sent);
            if let Some(upstream) = upstream {
                let labels = Labels::client(&self.method, answered, self.version, upstream.tls, upstream.address);
                shards.client(&labels, now.saturating_duration_since(upstream.since), request_bytes);
            }
        }
        let Some(kept) = &self.kept else { return };
        if let Some(trace) = self.call.trace.borrow_mut().take() {
            let client = upstream.map(|upstream| (upstream.address, upstream.tls));
            self.trace(&trace, kept, status, answered, client, now);
        }
        if let (Some(log), Some(local)) = (&self.log, &self.local) {
            self.write(log, local, kept, status, now);
        }
    }

    fn write(&self, log: &RequestLog, local: &Local, kept: &Kept, status: u16, now: Instant) {
        let length = kept.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        let none = if self.call.request_ended.get() && self.call.request_bytes.get() == 0 { 0 } else { -1 };
        let mut line = Vec::with_capacity(512);
        log.template.render(
            &Record {
                method: &self.method,
                request_uri: &kept.uri,
                version: self.version,
                host: self.host.to_str().unwrap_or_default(),
                remote_addr: self.call.connection.peer,
                content_length: length.unwrap_or(none),
                headers: &kept.headers,
                tls: self.call.connection.negotiated.get(),
                code: status,
                size: self.sent,
                latency: now.saturating_duration_since(self.call.started),
                revision: &local.facts,
                // Always empty in the activator, whatever the headers.
                trace_id: "",
            },
            &mut line,
        );
        log.writer.line(&line);
    }

    fn trace(
        &self,
        trace: &RequestTrace,
        kept: &Kept,
        status: u16,
        answered: Result<u16, &'static str>,
        client: Option<(SocketAddr, bool)>,
        now: Instant,
    ) {
        let revision = self.local.as_ref().map(|local| RevisionFacts {
            namespace: &local.facts.namespace,
            revision: &local.facts.name,
            configuration: &local.facts.configuration,
            service: &local.facts.service,
        });
        let facts = ServerFacts {
            method: &self.method,
            https: self.call.connection.tls,
            host: self.host.to_str().unwrap_or_default(),
            path: kept.uri.split('?').next().unwrap_or_default(),
            peer: self.call.connection.peer,
            headers: &kept.headers,
            version: self.version,
            request_bytes: self.call.request_bytes.get(),
            response_bytes: self.sent,
            status,
            tag: None,
            revision,
            client: client.map(|(pod, https)| ClientFacts {
                target: &kept.uri,
                address: pod.ip(),
                port: pod.port(),
                https,
                status: answered,
                version: self.version,
            }),
        };
        trace.finish(now, &facts);
    }
}

impl Watch for Facts {
    fn sent(&mut self, bytes: usize, _cx: &mut Context<'_>) {
        self.sent += bytes as u64;
    }

    fn end(&mut self, end: End) {
        let (status, cause) = match end {
            End::Whole => (self.status, None),
            End::Broken(token) if token.starts_with("timeout") => (StatusCode::GATEWAY_TIMEOUT.as_u16(), Some(token)),
            End::Broken(token) => (StatusCode::INTERNAL_SERVER_ERROR.as_u16(), Some(token)),
            End::CallerLeft => (Cause::CallerLeft.status().as_u16(), Some(Cause::CallerLeft.token())),
        };
        // Go counts an upgraded connection as 200 at its end.
        let status = if status == 101 { 200 } else { status };
        self.tell(status, cause);
    }
}

pin_project_lite::pin_project! {
    /// A response that is observed. Dropped before it came: the caller left.
    pub struct Observed<F> {
        #[pin]
        inner: F,
        facts: Option<Box<Facts>>,
    }

    impl<F> PinnedDrop for Observed<F> {
        fn drop(this: Pin<&mut Self>) {
            if let Some(facts) = this.project().facts.take() {
                let left = Cause::CallerLeft;
                tracing::debug!(cause = left.token(), "the caller left before the response");
                facts.tell(left.status().as_u16(), Some(left.token()));
            }
        }
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Observed<F> {
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        let Some(mut facts) = this.facts.take() else { return Poll::Ready(result) };
        match &mut result {
            Ok(response) => {
                facts.status = response.status().as_u16();
                response.body_mut().watch(facts);
            }
            Err(cause) => {
                log(cause, facts.local.as_deref());
                facts.tell(cause.status().as_u16(), Some(cause.token()));
            }
        }
        Poll::Ready(result)
    }
}

/// Errors of the pod's side are worth a line; what the caller did, or what is a plain limit, is not.
fn log(cause: &Cause, local: Option<&Local>) {
    if cause.status() == StatusCode::BAD_GATEWAY {
        let detail = std::error::Error::source(cause).map(ToString::to_string).unwrap_or_default();
        let key = local.map_or("", |local| local.revision.key.as_str());
        tracing::error!(
            "knative.dev/key" = key,
            error = %cause,
            cause = cause.token(),
            detail,
            "error reverse proxying request"
        );
    }
}
