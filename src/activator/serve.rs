//! The activator on one worker thread: its stack, its connections to pods, its callers' connections.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use super::autoscaler::Poke;
use super::health::Health;
use super::layer::observe::{Observer, RequestLog};
use super::metrics::Metrics;
use super::revisions::Revisions;
use super::stack::{self, Parts};
use super::upstream::Network;
use super::worker::Worker;
use crate::http::call::Connection;
use crate::http::guide::{self, Connections, Order};
use crate::http::layer::timeouts::Style;
use crate::http::pools::{self, Pools};
use crate::http::server::{Server, Settings, Told};
use crate::lifecycle::drain::Drain;
use crate::telemetry::log::Throttle;
use crate::telemetry::trace::Tracer;
use crate::tls::{error, trust};
use crate::worker::{Held, PortId, Serve};

/// The plaintext listener on port 8012.
pub const HTTP1: PortId = 0;
/// The plaintext listener on port 8013.
pub const H2C: PortId = 1;
/// The TLS listener.
pub const TLS: PortId = 2;

/// What all workers are made of; shared, immutable or atomic.
pub struct Shared {
    /// All revisions.
    pub revisions: Arc<Revisions>,
    /// How pods are addressed.
    pub network: Arc<ArcSwap<Network>>,
    /// What the connections to pods are verified with.
    pub trust: Arc<trust::Store>,
    /// The cluster's domain.
    pub cluster_domain: String,
    /// Settings of connections to pods.
    pub pools: pools::Settings,
    /// Tells of revisions that wake up.
    pub pokes: UnboundedSender<Poke>,
    /// Longest time that a request waits for a pod.
    pub waiting_timeout: Option<Duration>,
    /// Whether requests that are lost with their pod go to another one, where that is safe.
    pub retry_lost: bool,
    /// What timers do to responses that have begun.
    pub timeout_style: Style,
    /// The port on which queues speak TLS.
    pub queue_tls_port: u16,
    /// HTTP limits.
    pub http: Settings,
    /// How long a caller's connection may be idle after a request; none is for ever.
    pub client_idle: Option<Duration>,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// Whether anybody can see metrics of requests.
    pub measured: bool,
    /// The request log, while there is one.
    pub log: Arc<ArcSwapOption<RequestLog>>,
    /// Makes spans, if tracing is on.
    pub tracer: Option<Arc<Tracer>>,
    /// Whether we are ready.
    pub health: Arc<Health>,
    /// Drain state.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Receiver<Option<Order>>,
    /// Settings of the TLS listener.
    pub tls: Arc<rustls::ServerConfig>,
}

/// Builds the server of worker `index`, on its thread.
pub fn on_worker(shared: &Arc<Shared>, index: usize) -> impl Serve + use<> {
    let pools = Pools::new(shared.pools);
    let worker = Worker::new(
        index,
        shared.revisions.clone(),
        shared.network.clone(),
        &shared.cluster_domain,
        pools.clone(),
        shared.pokes.clone(),
        shared.metrics.clone(),
        shared.waiting_timeout,
        shared.retry_lost,
        shared.timeout_style,
        shared.queue_tls_port,
    );
    let connections = Rc::new(Connections::default());
    tokio::task::spawn_local({
        let worker = worker.clone();
        let sweep = move |now| worker.sweep(now);
        guide::housekeeping(connections.clone(), shared.http.header_time, shared.client_idle, sweep)
    });
    tokio::task::spawn_local(guide::follow_orders(shared.order.clone(), connections.clone()));
    tokio::task::spawn_local(pools::follow_trust(shared.trust.changes(), pools));
    tokio::task::spawn_local(guide::follow_trust(shared.trust.clone(), connections.clone()));
    let stack = stack::build(Parts {
        health: shared.health.clone(),
        drain: shared.drain.clone(),
        shard: shared.drain.shard(index),
        worker,
        observer: Rc::new(Observer {
            index,
            metrics: shared.metrics.clone(),
            measured: shared.measured,
            unknown: shared.metrics.shards(None, index),
            log: shared.log.clone(),
            tracer: shared.tracer.clone(),
        }),
    });
    let told = Rc::new(Callers { metrics: shared.metrics.clone() });
    OnWorker { server: Rc::new(Server::new(stack, shared.http, connections, told)), shared: shared.clone() }
}

/// One line a minute for each peer and reason of a handshake that failed.
static FAILURES: Throttle = Throttle::every(Duration::from_secs(60));

/// What is told of callers' connections.
struct Callers {
    metrics: Arc<Metrics>,
}

impl Told for Callers {
    fn accepted(&self, _: &Connection) {}

    fn handshake(&self, _: &rustls::ServerConnection) {}

    fn handshake_failed(&self, error: &std::io::Error, connection: &Connection) {
        let error = error::Error::from_io(error);
        self.metrics.handshake_failed(error.token());
        let peer = connection.peer;
        if FAILURES.allows(&format!("{} {}", peer.ip(), error.token())) {
            tracing::info!(cause = error.token(), "http: TLS handshake error from {peer}: {error}");
        }
    }

    fn answered(&self, token: &'static str) {
        self.metrics.cause(token);
    }
}

struct OnWorker<S> {
    server: Rc<Server<S>>,
    shared: Arc<Shared>,
}

impl<S> Serve for OnWorker<S>
where
    S: tower::Service<crate::http::Request, Response = crate::http::Response, Error = crate::http::cause::Cause>
        + Clone
        + 'static,
{
    fn serve(&self, stream: TcpStream, peer: SocketAddr, port: PortId, held: Held) {
        let tls = (port == TLS).then(|| self.shared.tls.clone());
        let info = Rc::new(Connection::new(peer, port == TLS, port));
        let server = self.server.clone();
        tokio::task::spawn_local(async move {
            server.serve(stream, info, tls).await;
            drop(held);
        });
    }
}
