//! The core: a request is counted, waits for a pod that may take it, and is sent there; to another one, if the first
//! did not take a byte of it, or went away before a byte of the response where sending twice is safe.
//!
//! Order and headers: `pkg/activator/handler/{concurrency_reporter,handler}.go`. What waits holds its headers alone: its
//! body is not read.

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::Either;
use http::header::{self, HeaderValue};
use http::{Uri, Version};

use super::route::Routed;
use crate::activator::autoscaler::Poke;
use crate::activator::metrics::Count;
use crate::activator::statistics::InFlight;
use crate::activator::throttle::{Entry, Failure as Unusable, Refused, Slot};
use crate::activator::upstream::{Network, verdict};
use crate::activator::worker::{Local, Worker};
use crate::http::body::Watch;
use crate::http::call::{Call, Offered};
use crate::http::cause::{Cause, Timer};
use crate::http::layer::timeouts::Timed;
use crate::http::proxy::{Failure, Prepared, Replay, unreached};
use crate::http::{Request, Response};
use crate::knative::names;
use crate::telemetry::log::Throttle;

/// Pods that a request is offered to.
const TRIES: u32 = 2;
/// How long after TLS was switched requests are offered on: the pods of before are replaced one by one, and those that
/// don't speak TLS yet refuse the connection.
const SWITCHING: Duration = Duration::from_secs(600);
/// What a waiting request holds beside its header lines: the connection's or stream's share, tasks and lists.
const FIXED_COST: usize = 4096;

/// Serves one request. `worker` is the one whose thread this is.
///
/// # Errors
/// Why there is no response of the application.
pub fn activate(worker: Rc<Worker>, routed: Routed) -> impl Future<Output = Result<Response, Cause>> {
    let Routed { request, revision } = routed;
    match revision {
        Ok(local) => {
            let (call, timers) = (request.call.clone(), local.timers.clone());
            Either::Left(Timed::new(dispatch(worker, local, request), &call, timers))
        }
        Err(name) => Either::Right(std::future::ready(Err(not_found(&name)))),
    }
}

fn not_found(name: &str) -> Cause {
    Cause::NotFound(format!("Error getting active endpoint: revision.serving.knative.dev {name:?} not found"))
}

/// Counts until the response has ended.
struct Counted(#[expect(dead_code, reason = "counts until it is dropped")] InFlight);

impl Watch for Counted {}

/// The right to use the pod, until the response has ended.
struct Held(#[expect(dead_code, reason = "given back when it is dropped")] Slot);

impl Watch for Held {}

fn dispatch(worker: Rc<Worker>, local: Rc<Local>, request: Request) -> impl Future<Output = Result<Response, Cause>> {
    // Not an async function: what is needed up to the first wait would be carried along until the response comes.
    let call = request.call.clone();
    // The poke goes out before the request waits.
    let (counted, first) = local.revision.load.arrive(worker.index, call.started);
    if first {
        let _ = worker.pokes.send(Poke { load: local.revision.load.clone(), at: call.started });
    }
    if let Some(trace) = call.trace.borrow_mut().as_mut() {
        trace.wait_started(call.started);
    }
    let cost = cost(&request);
    let entry = local.revision.throttle.enter(cost);
    async move {
        let mut slot = match entry {
            Entry::Granted(slot) => slot,
            entry => {
                // In a box: most requests do not wait, and none carries what waiting takes for longer.
                let slot = Box::pin(granted(&worker, &local, entry, &call)).await?;
                worker.metrics.waited(worker.index, call.started.elapsed());
                slot
            }
        };
        if let Some(trace) = call.trace.borrow_mut().as_mut() {
            trace.wait_ended(Instant::now());
        }
        let mut prepared = Prepared::new(addressed(request, &local, &worker.network.load()), Replay::Idempotent)?;
        if worker.retry_lost {
            prepared = prepared.kept();
        }
        let (mut tries, mut lost) = (0, false);
        loop {
            tries += 1;
            let network = worker.network.load_full();
            let address = network.address(&slot, worker.queue_tls_port);
            let tls = network.tls(&local.revision.expected);
            call.upstream.set(Some(Offered { address, tls: network.tls.is_some(), since: Instant::now() }));
            let pool = worker.pools.pool(address, tls.as_ref());
            if network.tls.is_none()
                && prepared.version() != Version::HTTP_2
                && pool.idle() == 0
                && let Some(connection) = slot.take_connection()
            {
                // The probe's connection carries the first request.
                pool.adopt(connection).await;
            }
            if let Some(cold) = slot.woke().and_then(|woke| woke.seen_by(call.started, Instant::now())) {
                local.revision.metrics.cold.record(cold);
            }
            match prepared.send(&pool).await {
                Ok(mut response) => {
                    slot.reached();
                    response.body_mut().watch(Box::new(Held(slot)));
                    response.body_mut().watch(Box::new(Counted(counted)));
                    return Ok(response);
                }
                Err(Failure::Taken(cause)) => {
                    slot.reached();
                    return Err(cause);
                }
                Err(Failure::Lost(again, cause)) => {
                    gone(&local, &slot, &cause);
                    if slot.is_cluster_ip() {
                        // One of the pods behind it; the others are as good as before.
                        drop(slot);
                    } else {
                        slot.failed(Unusable::Unreachable);
                    }
                    if lost {
                        return Err(cause);
                    }
                    // Another pod is a new start: it may be gone as well and is only asked to connect.
                    (prepared, lost, tries) = (*again, true, 0);
                    worker.metrics.count(worker.index, Count::Lost);
                    slot = Box::pin(granted(&worker, &local, local.revision.throttle.enter_again(cost), &call)).await?;
                }
                Err(Failure::Unreached(untaken, error)) => {
                    told(&local, &slot, &error);
                    slot.failed(verdict(&error));
                    let switching = verdict(&error) == Unusable::Unreachable
                        && network.since.is_some_and(|since| since.elapsed() < SWITCHING);
                    if tries >= TRIES && !switching {
                        return Err(unreached(error));
                    }
                    prepared = *untaken;
                    worker.metrics.count(worker.index, Count::Retry);
                    slot = Box::pin(granted(&worker, &local, local.revision.throttle.enter_again(cost), &call)).await?;
                }
            }
        }
    }
}

/// Waits for the slot, if need be.
async fn granted(worker: &Worker, local: &Local, entry: Entry, call: &Call) -> Result<Slot, Cause> {
    let wait = match entry {
        Entry::Granted(slot) => return Ok(slot),
        Entry::Refused(why) => return Err(refused(local, why)),
        Entry::Wait(wait) => wait,
    };
    let unread = !call.connection.h2.get() && !call.request_ended.get();
    let limit = async {
        match worker.waiting_timeout {
            Some(limit) => tokio::time::sleep_until((call.started + limit).into()).await,
            None => std::future::pending().await,
        }
    };
    let left = async { if unread { call.connection.departure.happened().await } else { std::future::pending().await } };
    tokio::select! {
        biased;
        waited = wait => waited.map_err(|why| refused(local, why)),
        () = limit => {
            let text = "activator request timeout: no pod could take the request in time";
            let after = worker.waiting_timeout.unwrap_or_default();
            Err(Cause::Timeout { timer: Timer::Waiting, after, text })
        }
        () = left => Err(Cause::CallerLeft),
    }
}

fn refused(local: &Local, why: Refused) -> Cause {
    match why {
        Refused::QueueFull => Cause::Overload { token: "queue_full", text: "pending request queue full" },
        Refused::NoMemory => Cause::Overload { token: "waiting_bytes_full", text: "pending request queue full" },
        Refused::RevisionGone => not_found(local.revision.key.name()),
    }
}

fn cost(request: &Request) -> usize {
    let lines = request.head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 64);
    FIXED_COST + request.head.uri.path().len() + lines.sum::<usize>()
}

/// The request as it goes to a pod: the pod's address is its host, and the caller's is kept in a header.
fn addressed(mut request: Request, local: &Local, network: &Network) -> Request {
    let head = &mut request.head;
    let named = head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    if head.uri.authority().is_some() {
        let path = head.uri.path_and_query().cloned();
        head.uri = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    let headers = &mut head.headers;
    let host = headers.remove(header::HOST);
    if !headers.contains_key(names::ORIGINAL_HOST)
        && let Some(host) = named.or(host)
    {
        headers.insert(names::ORIGINAL_HOST, host);
    }
    headers.insert(names::PROXY_REQUEST, HeaderValue::from_static(names::PROXY_REQUEST_ACTIVATOR));
    headers.remove(names::REVISION_NAME);
    headers.remove(names::REVISION_NAMESPACE);
    if network.mesh_host {
        headers.insert(header::HOST, local.revision.mesh_host.clone());
        headers.insert(names::PASSTHROUGH_LB, HeaderValue::from_static("true"));
    }
    request
}

/// One line for each pod, not for each request.
fn gone(local: &Local, slot: &Slot, cause: &Cause) {
    static TOLD: Throttle = Throttle::every(Duration::from_secs(10));
    let address = slot.address();
    if TOLD.allows(&address.to_string()) {
        tracing::warn!(
            "knative.dev/key" = local.revision.key.as_str(),
            error = %cause,
            "The pod {address} went away with requests and is put aside until it answers a probe"
        );
    }
}

/// One line for each pod and reason, not for each request.
fn told(local: &Local, slot: &Slot, error: &crate::http::dial::Unreached) {
    static TOLD: Throttle = Throttle::every(Duration::from_secs(10));
    let address = slot.address();
    if TOLD.allows(&format!("{address} {error}")) {
        tracing::warn!(
            "knative.dev/key" = local.revision.key.as_str(),
            %error,
            "The pod {address} took no request and is put aside until it answers a probe"
        );
    }
}
