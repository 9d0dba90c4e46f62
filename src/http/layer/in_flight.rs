//! Counts requests from their header to the end of their response, for the drain.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::StatusCode;

use crate::http::body::Watch;
use crate::http::cause::Cause;
use crate::http::{Request, Response};
use crate::lifecycle::drain::{self, Drain, Shard};

/// The layer.
#[derive(Clone)]
pub struct InFlight<S> {
    /// What is counted.
    pub inner: S,
    /// Where the drain looks.
    pub drain: Arc<Drain>,
    /// This worker's part of it.
    pub shard: Arc<Shard>,
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for InFlight<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Counted<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let held = Some(Held(self.drain.enter(&self.shard, request.call.started)));
        Counted { inner: self.inner.call(request), held }
    }
}

/// Counts until it is dropped.
struct Held(drain::InFlight);

impl Watch for Held {}

pin_project_lite::pin_project! {
    /// A response that counts.
    pub struct Counted<F> {
        #[pin]
        inner: F,
        held: Option<Held>,
    }
}

impl<F: Future<Output = Result<Response, Cause>>> Future for Counted<F> {
    type Output = Result<Response, Cause>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut result = ready!(this.inner.poll(cx));
        if let (Ok(response), Some(mut held)) = (&mut result, this.held.take()) {
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                held.0.upgrade();
            }
            response.body_mut().watch(Box::new(held));
        }
        Poll::Ready(result)
    }
}
