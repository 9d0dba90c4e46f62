//! The order of the activator's behaviours, top to bottom (`knative.dev/serving/cmd/activator/main.go`).

use std::rc::Rc;
use std::sync::Arc;

use super::health::Health;
use super::layer::activate::activate;
use super::layer::observe::{Observe, Observer};
use super::layer::probe::Probes;
use super::layer::route::{Route, Routed};
use super::worker::Worker;
use crate::http::cause::Cause;
use crate::http::layer::in_flight::InFlight;
use crate::http::{Request, Response};
use crate::lifecycle::drain::{Drain, Shard};

/// What the stack of one worker is made of.
pub struct Parts {
    /// Whether we are ready.
    pub health: Arc<Health>,
    /// Drain state of the process.
    pub drain: Arc<Drain>,
    /// This worker's part of it.
    pub shard: Arc<Shard>,
    /// Revisions and connections.
    pub worker: Rc<Worker>,
    /// Metrics, traces and the request log.
    pub observer: Rc<Observer>,
}

/// Puts the layers in order.
pub fn build(parts: Parts) -> impl tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static {
    let Parts { health, drain, shard, worker, observer } = parts;
    // Counted for the autoscaler, under the revision's timers, from its arrival on: waiting counts.
    let core = {
        let worker = worker.clone();
        tower::service_fn(move |routed: Routed| activate(worker.clone(), routed))
    };
    let observed = Observe { inner: core, observer };
    let routed = Route { inner: observed, worker };
    let counted = InFlight { inner: routed, drain, shard };
    // Outermost: no probe is counted, traced, logged or reported as load.
    Probes { inner: counted, health }
}
