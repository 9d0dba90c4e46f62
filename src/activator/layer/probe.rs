//! Probes are answered here, before a revision is looked for: kubelet's, then those of the network, then those for a
//! component (`pkg/activator/handler/{healthz_handler,probe_handler}.go`, `networking/pkg/http/probe`).
//!
//! None of them is counted, logged, traced or reported as load.

use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::activator::health::Health;
use crate::http::body::Body;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::knative::names;

/// The path on which kubelet learns only that this process runs; every other path is about readiness too.
pub const LIVE_PATH: &str = "/live";

/// The layer.
#[derive(Clone)]
pub struct Probes<S> {
    /// What serves everything else.
    pub inner: S,
    /// Whether we are ready.
    pub health: Arc<Health>,
}

fn is_kubelet_probe(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|v| v.as_bytes().starts_with(names::KUBE_PROBE_AGENT.as_bytes()))
        || headers.get(names::KUBELET_PROBE).is_some_and(|v| !v.is_empty())
}

impl<S> Probes<S> {
    /// The answer, if the request is a probe.
    fn answer(&self, head: &http::request::Parts) -> Option<Result<Response, Cause>> {
        if is_kubelet_probe(&head.headers) {
            if head.uri.path() == LIVE_PATH {
                return Some(Ok(Response::new(Body::empty())));
            }
            return Some(match self.health.check() {
                Ok(()) => Ok(Response::new(Body::empty())),
                Err(why) => Err(Cause::Probe(StatusCode::INTERNAL_SERVER_ERROR, format!("{why}\n"))),
            });
        }
        let probe = head.headers.get(names::NETWORK_PROBE).filter(|value| !value.is_empty())?;
        let bad = |text| Err(Cause::Probe(StatusCode::BAD_REQUEST, text));
        if probe == names::PROBE_VALUE {
            let Some(hash) = head.headers.get(names::NETWORK_HASH).filter(|hash| !hash.is_empty()) else {
                return Some(bad("a probe request must contain a non-empty \"K-Network-Hash\" header\n".to_owned()));
            };
            let mut response = Response::new(Body::empty());
            response.headers_mut().insert(names::NETWORK_HASH, hash.clone());
            return Some(Ok(response));
        }
        if probe == names::PROBE_ACTIVATOR {
            let mut response = Response::new(Body::full(Bytes::from_static(names::PROBE_ACTIVATOR.as_bytes())));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            return Some(Ok(response));
        }
        Some(bad(format!(
            "unexpected probe header value: \"{}\"\n",
            escaped(&String::from_utf8_lossy(probe.as_bytes()))
        )))
    }
}

/// As Go's `html.EscapeString`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            other => out.push(other),
        }
    }
    out
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Probes<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(answer) = self.answer(&request.head) {
            return Either::Answer { future: ready(answer) };
        }
        request.head.headers.remove(names::NETWORK_HASH);
        Either::Inner { future: self.inner.call(request) }
    }
}

pin_project_lite::pin_project! {
    /// The answer to a probe, or what the rest of the stack answers.
    #[allow(missing_docs)] // the macro takes no comment on a pinned field
    #[project = EitherProject]
    pub enum Either<F> {
        Inner { #[pin] future: F },
        Answer { #[pin] future: Ready<Result<Response, Cause>> },
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Either<F> {
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            EitherProject::Inner { future } => future.poll(cx),
            EitherProject::Answer { future } => future.poll(cx),
        }
    }
}
