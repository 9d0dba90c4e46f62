//! What is told of each request when it has ended: metrics and the request log. Probes are left out.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, Version};

use super::marks::Marks;
use super::probe::{is_answered_here, is_probe};
use crate::http::body::{End, Watch};
use crate::http::call::Call;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::queue::metrics::{ClientLabels, Count, RouteTag, ServerLabels, WorkerMetrics};
use crate::telemetry::request_log::{self, Record, RevisionFacts, Template};
use crate::telemetry::trace::{ClientFacts, RequestTrace, ServerFacts, Tracer};
use crate::telemetry::writer::Writer;
use crate::worker::clock;

/// Where lines about requests go.
pub struct RequestLog {
    /// What a line looks like.
    pub template: Template,
    /// Facts that lines may name.
    pub revision: RevisionFacts,
    /// Whether probes get a line too.
    pub probes: bool,
    /// Never blocks.
    pub writer: Writer,
}

/// What one worker tells with.
pub struct Observer {
    /// This worker's part of the metrics.
    pub metrics: Rc<WorkerMetrics>,
    /// The request log, if there is one.
    pub log: Option<Arc<RequestLog>>,
    /// Makes spans, if tracing is on.
    pub tracer: Option<Arc<Tracer>>,
    /// Port of the application.
    pub user_port: u16,
}

/// The layer.
#[derive(Clone)]
pub struct Observe<S> {
    /// What is observed.
    pub inner: S,
    /// Whom to tell.
    pub observer: Rc<Observer>,
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Observe<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let head = &request.head;
        let marks = Marks::of(&head.headers);
        marks.leave(&request.call);
        let marked = marks.has(Marks::PROBE);
        let probe = marked && is_probe(&head.headers);
        let here = marked && is_answered_here(&head.headers);
        let log = self.observer.log.as_ref().filter(|log| !probe || log.probes);
        let traced = !probe && self.observer.tracer.is_some();
        if let (false, Some(tracer)) = (probe, &self.observer.tracer) {
            *request.call.trace.borrow_mut() = Some(tracer.begin(&head.headers));
        }
        let facts = Box::new(Facts {
            observer: self.observer.clone(),
            call: request.call.clone(),
            probe,
            reach: if here { Reach::Front } else { Reach::Application },
            method: head.method.clone(),
            version: head.version,
            host: host(head),
            tags: if marks.has(Marks::TAG) { tags(&head.headers) } else { None },
            status: 0,
            sent: 0,
            log: log.is_some(),
            logged: (traced || log.is_some()).then(|| Logged { uri: target(head), headers: head.headers.clone() }),
        });
        Observed { inner: self.inner.call(request), facts: Some(facts) }
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

/// The two headers that make the route's tag, kept only when there are any.
fn tags(headers: &HeaderMap) -> Option<Box<HeaderMap>> {
    use crate::knative::names::{DEFAULT_ROUTE, ROUTE_TAG};
    let mut kept = None;
    for name in [ROUTE_TAG, DEFAULT_ROUTE] {
        if let Some(value) = headers.get(&name) {
            kept.get_or_insert_with(Box::<HeaderMap>::default).insert(name, value.clone());
        }
    }
    kept
}

struct Logged {
    uri: String,
    headers: HeaderMap,
}

/// How far a request came: what lies beyond is not told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reach {
    /// Answered before its route was looked at.
    Front,
    /// Answered before the revision's container was asked for.
    Stack,
    /// Answered by the proxy itself.
    Proxy,
    /// Sent to the application, or meant to be.
    Application,
}

impl Reach {
    /// Where a cause makes its answer.
    fn of(cause: &Cause) -> Self {
        match cause {
            Cause::Draining | Cause::Probe(..) | Cause::NotReady | Cause::PlaintextRefused => Self::Front,
            Cause::QueueFull | Cause::Expectation | Cause::Coding | Cause::BadRequest(_) => Self::Stack,
            Cause::Connect => Self::Proxy,
            _ => Self::Application,
        }
    }
}

/// What is remembered of a request until its response has ended.
struct Facts {
    observer: Rc<Observer>,
    call: Rc<Call>,
    probe: bool,
    reach: Reach,
    method: Method,
    version: Version,
    host: HeaderValue,
    tags: Option<Box<HeaderMap>>,
    status: u16,
    sent: u64,
    log: bool,
    logged: Option<Logged>,
}

impl Facts {
    fn tell(&self, status: u16, cause: Option<&'static str>) {
        let elapsed = clock::now().saturating_duration_since(self.call.started);
        let metrics = &self.observer.metrics;
        if let Some(token) = cause {
            // A prober that no longer waits is no caller who lost an answer.
            let left = token == Cause::CallerLeft.token();
            if !left || !self.probe {
                metrics.cause(token);
            }
            if left && !self.probe {
                metrics.count(Count::ClientLeft);
            }
        }
        let tag = match self.reach {
            Reach::Front => RouteTag::None,
            _ => self.tags.as_ref().map_or(RouteTag::Disabled, |tags| RouteTag::of(tags)),
        };
        let request_bytes = self.call.request_bytes.get();
        if !self.probe {
            metrics.server(
                &ServerLabels {
                    method: &self.method,
                    status,
                    version: self.version,
                    host: self.host.to_str().unwrap_or_default(),
                    https: self.call.connection.tls,
                    tag,
                },
                elapsed,
                request_bytes,
                self.sent,
            );
            if self.reach >= Reach::Proxy {
                metrics.invocation(status, elapsed);
            }
        }
        if self.reach == Reach::Application {
            let client = ClientLabels {
                method: &self.method,
                status: if self.status == 0 { Err(cause.unwrap_or("unknown")) } else { Ok(self.status) },
                version: self.version,
                user_port: self.observer.user_port,
                // What says that it is a probe has no route for the original's instruments.
                tag: if self.probe { RouteTag::None } else { tag },
            };
            metrics.client(&client, elapsed, request_bytes);
        }
        if let (Some(logged), Some(trace)) = (&self.logged, self.call.trace.borrow_mut().take()) {
            self.trace(&trace, logged, status, cause);
        }
        if let (true, Some(logged), Some(log)) = (self.log, &self.logged, &self.observer.log) {
            let length = logged.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
            let none = if self.call.request_ended.get() && self.call.request_bytes.get() == 0 { 0 } else { -1 };
            let mut line = Vec::with_capacity(512);
            log.template.render(
                &Record {
                    method: &self.method,
                    request_uri: &logged.uri,
                    version: self.version,
                    host: self.host.to_str().unwrap_or_default(),
                    remote_addr: self.call.connection.peer,
                    content_length: length.unwrap_or(none),
                    headers: &logged.headers,
                    tls: self.call.connection.negotiated.get(),
                    code: status,
                    size: self.sent,
                    latency: elapsed,
                    revision: &log.revision,
                    trace_id: request_log::trace_id(&logged.headers),
                },
                &mut line,
            );
            log.writer.line(&line);
        }
    }
}

impl Facts {
    fn trace(&self, trace: &RequestTrace, logged: &Logged, status: u16, cause: Option<&'static str>) {
        let tag = self.tags.as_ref().map_or(RouteTag::Disabled, |tags| RouteTag::of(tags));
        let path = logged.uri.split('?').next().unwrap_or_default();
        let client = ClientFacts {
            target: &logged.uri,
            address: std::net::Ipv4Addr::LOCALHOST.into(),
            https: false,
            port: self.observer.user_port,
            status: if self.status == 0 { Err(cause.unwrap_or("unknown")) } else { Ok(self.status) },
            version: self.version,
        };
        let facts = ServerFacts {
            method: &self.method,
            https: self.call.connection.tls,
            host: self.host.to_str().unwrap_or_default(),
            path,
            peer: self.call.connection.peer,
            headers: &logged.headers,
            version: self.version,
            request_bytes: self.call.request_bytes.get(),
            response_bytes: self.sent,
            status,
            tag: tag.label(),
            revision: None,
            client: Some(client),
        };
        trace.finish(Instant::now(), &facts);
    }
}

impl Watch for Facts {
    fn sent(&mut self, bytes: usize, _cx: &mut Context<'_>) {
        self.sent += bytes as u64;
    }

    fn end(&mut self, end: End) {
        // Numbers of the contract: a response that broke off counts as 500, a caller that left as 499.
        let (status, cause) = match end {
            End::Whole => (self.status, None),
            End::Broken(token) if token.starts_with("timeout") => (StatusCode::GATEWAY_TIMEOUT.as_u16(), Some(token)),
            End::Broken(token) => {
                tracing::warn!(cause = token, "a response that had begun was cut");
                (StatusCode::INTERNAL_SERVER_ERROR.as_u16(), Some(token))
            }
            End::CallerLeft => {
                let left = Cause::CallerLeft;
                tracing::debug!(cause = left.token(), "the caller left in the middle of the response");
                (left.status().as_u16(), Some(left.token()))
            }
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
        if let Err(cause) = &result {
            log_cause(cause);
        }
        if let Some(mut facts) = this.facts.take() {
            match &mut result {
                Ok(response) => {
                    facts.status = response.status().as_u16();
                    response.body_mut().watch(facts);
                }
                Err(cause) => {
                    facts.reach = facts.reach.min(Reach::of(cause));
                    facts.sent = cause.length(&facts.call);
                    facts.tell(cause.status().as_u16(), Some(cause.token()));
                }
            }
        }
        Poll::Ready(result)
    }
}

/// Errors of the application's side are worth a line; what the caller did, or what is a plain limit, is one for who asks
/// for details. Timers have theirs already.
fn log_cause(cause: &Cause) {
    let token = cause.token();
    match cause.status() {
        StatusCode::BAD_GATEWAY => {
            let detail = std::error::Error::source(cause).map(ToString::to_string).unwrap_or_default();
            tracing::error!(error = %cause, cause = token, detail, "error reverse proxying request");
        }
        StatusCode::GATEWAY_TIMEOUT => {}
        status => tracing::debug!(cause = token, status = status.as_u16(), "answered in place of the application"),
    }
}
