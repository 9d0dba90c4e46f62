//! The queue on one worker thread: its stack, its upstream pool, its connections.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::breaker::Breaker;
use super::layer::observe::{Observer, RequestLog};
use super::layer::probe::Check;
use super::metrics::Metrics;
use super::stack::{self, Parts};
use super::statistics::Statistics;
use crate::http::call::Connection;
use crate::http::dial::Target;
use crate::http::guide::{self, Connections, Order};
use crate::http::layer::timeouts::{Style, Timers};
use crate::http::local::Local;
use crate::http::proxy::Proxy;
use crate::http::server::{Server, Settings};
use crate::http::upstream::{Limits, Pool, Speaks};
use crate::lifecycle::drain::Drain;
use crate::telemetry::trace::Tracer;
use crate::tls::trust;
use crate::worker::{Held, PortId, Serve};

/// The plaintext listener.
pub const PLAIN: PortId = 0;
/// The TLS listener.
pub const TLS: PortId = 1;

/// What callers read when a timer ran out (`pkg/queue/sharedmain`).
const TIMEOUT: &str = "request timeout";

/// What all workers are made of; shared, immutable or atomic.
pub struct Shared {
    /// Where the application listens.
    pub application: SocketAddr,
    /// How long requests are held while the application takes no connection; zero is not at all.
    pub hold: Duration,
    /// `REVISION_TIMEOUT_SECONDS`; zero is off.
    pub total: Duration,
    /// `REVISION_RESPONSE_START_TIMEOUT_SECONDS`; zero is off.
    pub start: Duration,
    /// `REVISION_IDLE_TIMEOUT_SECONDS`; zero is off.
    pub idle: Duration,
    /// `LOCKKEEPER_TIMEOUT_STYLE`.
    pub timeout_style: Style,
    /// The limit of concurrency, if there is one.
    pub breaker: Option<Breaker>,
    /// What the pool of each worker may hold.
    pub pool: Limits,
    /// HTTP limits.
    pub http: Settings,
    /// How long a caller's connection may be idle after a request; none is for ever.
    pub client_idle: Option<Duration>,
    /// Whether plaintext is for loopback and kubelet's probes alone.
    pub strict: bool,
    /// Metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The request log, if there is one.
    pub log: Option<Arc<RequestLog>>,
    /// Makes spans, if tracing is on.
    pub tracer: Option<Arc<Tracer>>,
    /// Drain state.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Receiver<Option<Order>>,
    /// The autoscaler's statistics.
    pub statistics: Arc<Statistics>,
    /// Asks the prober on the control side.
    pub ready: Arc<dyn Fn() -> std::pin::Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>,
    /// Settings of the TLS listener.
    pub tls: Option<Arc<rustls::ServerConfig>>,
    /// Who vouches for callers, where they are asked for certificates.
    pub callers: Option<Arc<trust::Store>>,
}

/// Builds the server of worker `index`, on its thread.
pub fn on_worker(shared: &Arc<Shared>, index: usize) -> impl Serve + use<> {
    let metrics = Rc::new(shared.metrics.worker(index));
    let told = Rc::new(super::connections::Connections { metrics: metrics.clone() });
    let application = Local::new(shared.application, shared.hold, told.clone());
    let pool = Pool::new(Target::local(application), shared.pool, Speaks::Unknown);
    let connections = Rc::new(Connections::default());
    tokio::task::spawn_local({
        let pool = pool.clone();
        let sweep = move |now| pool.sweep(now);
        guide::housekeeping(connections.clone(), shared.http.header_time, shared.client_idle, sweep)
    });
    tokio::task::spawn_local(guide::follow_orders(shared.order.clone(), connections.clone()));
    if let Some(trust) = &shared.callers {
        tokio::task::spawn_local(guide::follow_trust(trust.clone(), connections.clone()));
    }
    let ready = shared.ready.clone();
    let check: Check = Rc::new(move || ready());
    let user_port = shared.application.port();
    let stack = stack::build(Parts {
        observer: Rc::new(Observer { metrics, log: shared.log.clone(), tracer: shared.tracer.clone(), user_port }),
        strict: shared.strict,
        check,
        drain: shared.drain.clone(),
        shard: shared.drain.shard(index),
        timers: Timers::new(shared.total, shared.start, shared.idle, TIMEOUT, shared.timeout_style),
        breaker: shared.breaker.clone(),
        stats: Rc::new(shared.statistics.worker(index)),
        proxy: Proxy::new(pool),
    });
    OnWorker { server: Rc::new(Server::new(stack, shared.http, connections, told)), shared: shared.clone() }
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
        let tls = if port == TLS { self.shared.tls.clone() } else { None };
        let info = Rc::new(Connection::new(peer, port == TLS, port));
        let server = self.server.clone();
        tokio::task::spawn_local(async move {
            server.serve(stream, info, tls).await;
            drop(held);
        });
    }
}
