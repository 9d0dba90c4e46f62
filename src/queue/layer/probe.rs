//! Probes are answered here, before the breaker; while draining they fail, whatever they ask (`pkg/queue/health`,
//! `pkg/queue/handler.go`, `networking/pkg/http/probe`).

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use super::marks::Marks;
use crate::http::body::Body;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::knative::names;
use crate::lifecycle::drain::Drain;

/// Asks the readiness prober; the answer is shared with whoever asks meanwhile.
pub type Check = Rc<dyn Fn() -> Pin<Box<dyn Future<Output = bool>>>>;

/// The layer.
#[derive(Clone)]
pub struct Probes<S> {
    /// What serves everything else.
    pub inner: S,
    /// Readiness of the application.
    pub check: Check,
    /// Whether we are leaving.
    pub drain: Arc<Drain>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind<'a> {
    /// Asks for readiness.
    Ready,
    /// Asks somebody else.
    Mistaken(&'a [u8]),
    /// Asks which configuration is in force.
    Hash(&'a HeaderValue),
    /// The same, without saying which.
    NoHash,
}

/// Which probe this is, if it is one.
fn kind(headers: &HeaderMap) -> Option<Kind<'_>> {
    let probe = headers.get(names::NETWORK_PROBE).map_or(&b""[..], HeaderValue::as_bytes);
    let agent = headers.get(header::USER_AGENT).map_or(&b""[..], HeaderValue::as_bytes);
    let prober = [names::KUBE_PROBE_AGENT, names::ACTIVATOR_AGENT, names::AUTOSCALING_AGENT]
        .iter()
        .any(|prefix| agent.starts_with(prefix.as_bytes()));
    match probe {
        b"queue" if prober => Some(Kind::Ready),
        other if prober => Some(Kind::Mistaken(other)),
        b"probe" => match headers.get(names::NETWORK_HASH).filter(|h| !h.is_empty()) {
            Some(hash) => Some(Kind::Hash(hash)),
            None => Some(Kind::NoHash),
        },
        _ => None,
    }
}

/// Whether a request is left out of the request log and of the server's metrics.
#[must_use]
pub fn is_probe(headers: &HeaderMap) -> bool {
    let set = |name| headers.get(name).is_some_and(|v: &HeaderValue| !v.is_empty());
    set(names::NETWORK_PROBE) || is_kubelet_probe(headers)
}

/// Whether a request is answered by this layer.
#[must_use]
pub fn is_answered_here(headers: &HeaderMap) -> bool {
    kind(headers).is_some()
}

/// Whether a request says that it is kubelet's and is answered here, so that the application never sees it.
/// `K-Kubelet-Probe` alone is not enough: requests with it go to the application.
#[must_use]
pub fn is_answered_to_kubelet(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|v| v.as_bytes().starts_with(names::KUBE_PROBE_AGENT.as_bytes()))
}

/// Whether a request comes from kubelet, or says so.
#[must_use]
pub fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    headers.get(names::KUBELET_PROBE).is_some_and(|v| !v.is_empty()) || is_answered_to_kubelet(headers)
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Probes<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let marked = Marks::left(&request.call).has(Marks::PROBE);
        let Some(kind) = marked.then(|| kind(&request.head.headers)).flatten() else {
            return Either::Inner { future: self.inner.call(request) };
        };
        let answer = |result| Either::Answer { future: Box::pin(std::future::ready(result)) };
        if self.drain.is_draining() {
            return answer(Err(Cause::Draining));
        }
        let bad = |text| Err(Cause::Probe(StatusCode::BAD_REQUEST, text));
        match kind {
            Kind::Ready => {
                let ready = (self.check)();
                Either::Answer {
                    future: Box::pin(async move { if ready.await { Ok(is_ready()) } else { Err(Cause::NotReady) } }),
                }
            }
            Kind::Mistaken(value) => {
                answer(bad(format!("unexpected probe header value: {}\n", String::from_utf8_lossy(value))))
            }
            Kind::Hash(hash) => {
                let mut response = Response::new(Body::empty());
                response.headers_mut().insert(names::NETWORK_HASH, hash.clone());
                answer(Ok(response))
            }
            Kind::NoHash => {
                answer(bad("a probe request must contain a non-empty \"K-Network-Hash\" header\n".to_owned()))
            }
        }
    }
}

fn is_ready() -> Response {
    let mut response = Response::new(Body::full(Bytes::from_static(b"queue")));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pin_project_lite::pin_project! {
    /// The answer to a probe, or what the rest of the stack answers.
    #[allow(missing_docs)] // the macro takes no comment on a pinned field
    #[project = EitherProject]
    pub enum Either<F> {
        Inner { #[pin] future: F },
        Answer { future: Pin<Box<dyn Future<Output = Result<Response, Cause>>>> },
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Either<F> {
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            EitherProject::Inner { future } => future.poll(cx),
            EitherProject::Answer { future } => future.as_mut().poll(cx),
        }
    }
}
