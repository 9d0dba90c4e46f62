//! What the autoscaler counts, the revision's breaker, and the header that restores the host that the caller named.
//!
//! kubelet's own probes of the application pass beside all of it (`pkg/queue/handler.go`).

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use http::HeaderMap;
use http::header::{self, HeaderValue};
use http::uri::Authority;

use super::marks::Marks;
use super::probe::is_kubelet_probe;
use crate::http::body::Watch;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::knative::names;
use crate::queue::breaker::{Breaker, Entry, Slot, Wait};
use crate::queue::statistics::{InFlight, WorkerStats};

/// The layer.
#[derive(Clone)]
pub struct Concurrency<S> {
    /// What is limited.
    pub inner: S,
    /// The limit, shared by all workers; none for a revision without one.
    pub breaker: Option<Breaker>,
    /// This worker's part of the statistics.
    pub stats: Rc<WorkerStats>,
}

impl<S> tower::Service<Request> for Concurrency<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone,
{
    type Response = Response;
    type Error = Cause;
    type Future = Limited<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        let headers = &mut request.head.headers;
        let marks = Marks::left(&request.call);
        if marks.has(Marks::REVISION) {
            headers.remove(names::REVISION_NAME);
            headers.remove(names::REVISION_NAMESPACE);
        }
        if marks.has(Marks::PROBE) && is_kubelet_probe(headers) {
            return Limited { state: State::Running { future: self.inner.call(request) }, held: Some(Held::default()) };
        }
        let proxied = marks.has(Marks::PROXIED)
            && headers.get(names::PROXY_REQUEST).is_some_and(|v| v == names::PROXY_REQUEST_ACTIVATOR);
        if marks.has(Marks::ORIGINAL_HOST) {
            restore_host(&mut request.head);
        }
        let counted = Some(self.stats.arrive(request.call.started, proxied));
        if self.breaker.is_some()
            && let Some(trace) = request.call.trace.borrow_mut().as_mut()
        {
            trace.wait_started(request.call.started);
        }
        let (state, slot) = match self.breaker.as_ref().map(|b| b.enter()) {
            None => (State::Running { future: self.inner.call(request) }, None),
            Some(Entry::Granted(slot)) => {
                granted(&request);
                (State::Running { future: self.inner.call(request) }, Some(slot))
            }
            Some(Entry::Full) => (State::Full, None),
            Some(Entry::Wait(wait)) => {
                let queued = Queued { wait, inner: self.inner.clone(), request };
                (State::Queued { queued: Some(Box::new(queued)) }, None)
            }
        };
        Limited { state, held: Some(Held { slot, counted }) }
    }
}

fn granted(request: &Request) {
    if let Some(trace) = request.call.trace.borrow_mut().as_mut() {
        trace.wait_ended(std::time::Instant::now());
    }
}

/// `K-Original-Host`, set by the activator, names the host that the caller asked for.
fn restore_host(head: &mut http::request::Parts) {
    if head.headers.get(names::ORIGINAL_HOST).is_none_or(HeaderValue::is_empty) {
        return;
    }
    let Some(host) = head.headers.remove(names::ORIGINAL_HOST) else { return };
    set_host(&mut head.headers, &mut head.uri, host);
}

fn set_host(headers: &mut HeaderMap, uri: &mut http::Uri, host: HeaderValue) {
    if uri.authority().is_some() {
        let mut parts = std::mem::take(uri).into_parts();
        if let Ok(authority) = Authority::try_from(host.as_bytes()) {
            parts.authority = Some(authority);
        }
        if let Ok(changed) = http::Uri::from_parts(parts) {
            *uri = changed;
        }
    }
    headers.insert(header::HOST, host);
}

/// What a request holds until its response has ended.
#[derive(Default)]
struct Held {
    slot: Option<Slot>,
    #[expect(dead_code, reason = "counts until it is dropped")]
    counted: Option<InFlight>,
}

impl Watch for Held {}

struct Queued<S> {
    wait: Wait,
    inner: S,
    request: Request,
}

pin_project_lite::pin_project! {
    /// A request that waits for its slot, or runs in it.
    pub struct Limited<S: tower::Service<Request>> {
        #[pin]
        state: State<S, S::Future>,
        held: Option<Held>,
    }
}

pin_project_lite::pin_project! {
    #[project = StateProject]
    enum State<S, F> {
        Queued { queued: Option<Box<Queued<S>>> },
        Running { #[pin] future: F },
        Full,
    }
}

impl<S> Future for Limited<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause>,
{
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProject::Full => return Poll::Ready(Err(Cause::QueueFull)),
                StateProject::Queued { queued } => {
                    let Some(waiting) = queued else { return Poll::Ready(Err(Cause::QueueFull)) };
                    let slot = ready!(Pin::new(&mut waiting.wait).poll(cx));
                    if let Some(held) = this.held.as_mut() {
                        held.slot = Some(slot);
                    }
                    let Some(waiting) = queued.take() else { return Poll::Ready(Err(Cause::QueueFull)) };
                    let Queued { mut inner, request, .. } = *waiting;
                    granted(&request);
                    this.state.set(State::Running { future: inner.call(request) });
                }
                StateProject::Running { future } => {
                    let mut result = ready!(future.poll(cx));
                    if let (Ok(response), Some(held)) = (&mut result, this.held.take()) {
                        response.body_mut().watch(Box::new(held));
                    }
                    return Poll::Ready(result);
                }
            }
        }
    }
}
