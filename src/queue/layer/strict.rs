//! Strict mode: plaintext is for loopback and for kubelet's probes, those that are answered here and never reach the
//! application: what a request says of itself must not open the way to it. The rest is refused with 403.
//!
//! It holds with and without a certificate: were plaintext open until the first one comes, or after the last one went, the
//! mode would be worth nothing. What a server answers by itself before the stack (a malformed request, `OPTIONS *`) is no
//! data and is answered to all.

use std::future::ready;
use std::task::{Context, Poll};

use super::probe::{Either, is_answered_to_kubelet};
use crate::http::cause::Cause;
use crate::http::{Request, Response};

/// The layer.
#[derive(Clone)]
pub struct Strict<S> {
    /// What is protected.
    pub inner: S,
    /// Whether the mode is on.
    pub on: bool,
}

impl<S: tower::Service<Request, Response = Response, Error = Cause>> tower::Service<Request> for Strict<S> {
    type Response = Response;
    type Error = Cause;
    type Future = Either<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let connection = &request.call.connection;
        if self.on
            && !connection.tls
            && !connection.peer.ip().to_canonical().is_loopback()
            && !is_answered_to_kubelet(&request.head.headers)
        {
            return Either::Answer { future: Box::pin(ready(Err(Cause::PlaintextRefused))) };
        }
        Either::Inner { future: self.inner.call(request) }
    }
}
