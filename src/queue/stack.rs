//! The order of the queue's behaviours, top to bottom (`buildServer` in `pkg/queue/sharedmain/handlers.go`).

use std::rc::Rc;
use std::sync::Arc;

use super::breaker::Breaker;
use super::layer::concurrency::Concurrency;
use super::layer::forwarded::Forwarded;
use super::layer::observe::{Observe, Observer};
use super::layer::probe::{Check, Probes};
use super::layer::strict::Strict;
use super::statistics::WorkerStats;
use crate::http::cause::Cause;
use crate::http::layer::in_flight::InFlight;
use crate::http::layer::timeouts::{Timeouts, Timers};
use crate::http::proxy::Proxy;
use crate::http::{Request, Response};
use crate::lifecycle::drain::{Drain, Shard};

/// What the stack of one worker is made of.
pub struct Parts {
    /// Metrics and the request log.
    pub observer: Rc<Observer>,
    /// Whether plaintext is for loopback and kubelet's probes alone.
    pub strict: bool,
    /// Readiness of the application.
    pub check: Check,
    /// Drain state of the process.
    pub drain: Arc<Drain>,
    /// This worker's part of it.
    pub shard: Arc<Shard>,
    /// The revision's timers on this worker.
    pub timers: Rc<Timers>,
    /// The revision's limit of concurrency.
    pub breaker: Option<Breaker>,
    /// This worker's part of the statistics.
    pub stats: Rc<WorkerStats>,
    /// The application.
    pub proxy: Proxy,
}

/// Puts the layers in order.
pub fn build(parts: Parts) -> impl tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static {
    let Parts { observer, strict, check, drain, shard, timers, breaker, stats, proxy } = parts;
    let core = tower::service_fn(move |request| proxy.forward(request));
    // Waiting for a slot counts for the autoscaler and for the timers above.
    let limited = Concurrency { inner: core, breaker, stats };
    let forwarded = Forwarded { inner: limited };
    let timed = Timeouts { inner: forwarded, timers };
    // A probe is no request to wait for, so it is answered above the count.
    let counted = InFlight { inner: timed, drain: drain.clone(), shard };
    let probes = Probes { inner: counted, check, drain };
    let strict = Strict { inner: probes, on: strict };
    // Outermost: what is told of a request includes every answer that was made for it.
    Observe { inner: strict, observer }
}
