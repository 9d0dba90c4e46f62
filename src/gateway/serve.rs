//! The gateway on one worker thread: its callers' connections and its connections to upstreams.
use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header;
use http_body::Body as _;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::authz;
use super::authz::check::{Authorizer, Verdict};
use super::edge::decide::{self, Decision};
use super::edge::forward::Upstreams;
use super::edge::observe::{self, Counts, Went};
use super::edge::way::Way;
use super::listeners;
use super::live::Live;
use super::tls_settings::TlsSettings;
use crate::http::call::Connection;
use crate::http::cause::Cause;
use crate::http::guide::{self, Connections, Order};
use crate::http::layer::in_flight::InFlight;
use crate::http::layer::timeouts::{Style, Timed, Timers};
use crate::http::pools::{self, Pools};
use crate::http::server::{Server, Settings, Told};
use crate::http::{Request, Response};
use crate::lifecycle::drain::Drain;
use crate::net::proxy_protocol::{self, Parsed};
use crate::tls::error;
use crate::worker::{Held, PortId, Serve};

/// How long the header of the PROXY protocol may take.
const PROXY_TIME: Duration = Duration::from_secs(10);
/// The longest header of the PROXY protocol that is read.
const PROXY_BYTES: usize = 16 + 2048;

/// What all workers are made of; shared, immutable or atomic.
pub struct Shared {
    /// What is in force.
    pub live: Arc<Live>,
    /// Numbers.
    pub counts: Arc<Counts>,
    /// Settings of connections to upstreams.
    pub pools: pools::Settings,
    /// Whether a request that is lost with its upstream goes to another one, where that is safe.
    pub retry_lost: bool,
    /// HTTP limits.
    pub http: Settings,
    /// Drain state.
    pub drain: Arc<Drain>,
    /// What connections are told.
    pub order: watch::Receiver<Option<Order>>,
    /// TLS settings of the ports.
    pub tls: watch::Receiver<TlsSettings>,
}

/// Builds the server of worker `index`, on its thread.
pub fn on_worker(shared: &Arc<Shared>, index: usize) -> impl Serve + use<> {
    let pools = Pools::new(shared.pools);
    let worker = Rc::new(Worker {
        upstreams: Upstreams::new(shared.live.clone(), pools.clone(), shared.retry_lost, index),
        live: shared.live.clone(),
        counts: shared.counts.clone(),
        random: Cell::new(seed(index)),
        timers: RefCell::new((
            Duration::ZERO,
            Timers::new(Duration::ZERO, Duration::ZERO, Duration::ZERO, IDLE, Style::Strict),
        )),
    });
    let connections = Rc::new(Connections::default());
    tokio::task::spawn_local({
        let worker = worker.clone();
        guide::housekeeping(connections.clone(), shared.http.header_time, None, move |now| worker.upstreams.sweep(now))
    });
    tokio::task::spawn_local(guide::follow_orders(shared.order.clone(), connections.clone()));
    tokio::task::spawn_local(pools::follow_trust(shared.live.trust.changes(), pools));
    // In a box: each layer above moves what it gets from below, and this one is a kilobyte.
    let service = tower::service_fn(move |request| Box::pin(worker.clone().handle(request)));
    let stack = InFlight { inner: service, drain: shared.drain.clone(), shard: shared.drain.shard(index) };
    let heard = Rc::new(Heard(shared.counts.clone()));
    OnWorker { server: Rc::new(Server::new(stack, shared.http, connections, heard)), shared: shared.clone() }
}

/// What a caller reads when a stream was silent for too long.
const IDLE: &str = "stream timeout";

struct Worker {
    upstreams: Upstreams,
    live: Arc<Live>,
    counts: Arc<Counts>,
    random: Cell<u64>,
    timers: RefCell<(Duration, Rc<Timers>)>,
}

impl Worker {
    fn handle(self: Rc<Self>, mut request: Request) -> impl Future<Output = Result<Response, Cause>> {
        let settings = self.live.settings.load_full();
        let call = request.call.clone();
        let host = decide::authority(&request.head);
        if let Some(tracer) = &*self.live.tracer.load() {
            *call.trace.borrow_mut() = Some(tracer.begin(&request.head.headers));
        }
        let mut told = observe::Told::new(&self.counts, &settings, &call, &request.head, &host);
        let authorizer = self.live.authorizer.load_full();
        let authorizer = authorizer.filter(|_| !authz::is_probe(&mut request.head, request.body.is_end_stream()));
        let decided = decide::decide(&self.live, &call.connection, &mut request.head, &host, || self.random());
        // Not an async function: what it needs until here would be carried along until the response comes.
        async move {
            let went = Went::default();
            let random = || self.random();
            let result = match decided {
                Err(cause) => Err(cause),
                Ok(Decision::Answer(response)) => Ok(response),
                Ok(Decision::Forward(way)) => {
                    told.goes_to(&way.backend);
                    let timers = self.timers(settings.stream_idle_timeout);
                    match authorizer.filter(|_| !way.route.is_acme()) {
                        None => {
                            let sent = self.upstreams.send(request, way, &host, false, random, &went);
                            Timed::new(sent, &call, timers).await
                        }
                        Some(authorizer) => {
                            // In a box, so that requests without an authoriser do not carry its state.
                            let sent = Box::pin(self.authorized(&authorizer, request, &host, way, &went));
                            Timed::new(sent, &call, timers).await
                        }
                    }
                }
            };
            match result {
                Ok(mut response) => {
                    if !settings.keep_server_header {
                        response.headers_mut().insert(header::SERVER, observe::SERVER);
                    }
                    told.answered(&mut response, &went);
                    Ok(response)
                }
                Err(cause) => {
                    told.failed(&cause, &went);
                    Err(cause)
                }
            }
        }
    }

    /// Sends a request on if the authoriser lets it pass.
    async fn authorized(
        &self,
        authorizer: &Authorizer,
        mut request: Request,
        host: &str,
        way: Way,
        went: &Went,
    ) -> Result<Response, Cause> {
        let address = async {
            let ip = self.upstreams.look_up(&authorizer.name).await.ok()?;
            Some(SocketAddr::new(ip, authorizer.settings.port))
        };
        match authorizer.check(&mut request, host, &way.route, address, self.upstreams.pools()).await? {
            Verdict::Denied(response) => Ok(*response),
            Verdict::Allowed(set) => {
                let mut response = self.upstreams.send(request, way, host, true, || self.random(), went).await?;
                set.iter().for_each(|option| option.apply(response.headers_mut()));
                Ok(response)
            }
        }
    }

    /// The timer of silent streams; made anew when the setting has changed.
    fn timers(&self, idle: Option<Duration>) -> Rc<Timers> {
        let idle = idle.unwrap_or_default();
        let mut made = self.timers.borrow_mut();
        if made.0 != idle {
            *made = (idle, Timers::new(Duration::ZERO, Duration::ZERO, idle, IDLE, Style::Strict));
        }
        made.1.clone()
    }

    /// A number that need not be hard to guess (splitmix64).
    fn random(&self) -> u32 {
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((mixed ^ (mixed >> 31)) >> 32).unwrap_or(0)
    }
}

fn seed(index: usize) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(index)
}

struct Heard(Arc<Counts>);

impl Told for Heard {
    fn accepted(&self, _: &Connection) {}
    fn handshake(&self, _: &rustls::ServerConnection) {}
    fn handshake_failed(&self, error: &std::io::Error, connection: &Connection) {
        let error = error::Error::from_io(error);
        self.0.handshake_failures.count(error.token());
        tracing::debug!(cause = error.token(), "TLS handshake error from {}: {error}", connection.peer);
    }
    fn answered(&self, token: &'static str) {
        self.0.causes.count(token);
    }
}

struct OnWorker<S> {
    server: Rc<Server<S>>,
    shared: Arc<Shared>,
}

impl<S> Serve for OnWorker<S>
where
    S: tower::Service<Request, Response = Response, Error = Cause> + Clone + 'static,
{
    fn serve(&self, mut stream: TcpStream, peer: SocketAddr, port: PortId, held: Held) {
        let listener = listeners::of(port);
        let tls = listener.tls.then(|| self.shared.tls.borrow().of(listener.side));
        let settings = self.shared.live.settings.load();
        let proxied = listener.proxied && settings.expects_proxy(listener.tls);
        if proxied && !settings.accepts_proxy(peer.ip()) {
            return tracing::debug!("the PROXY protocol is not accepted from {peer}: closed");
        }
        let server = self.server.clone();
        tokio::task::spawn_local(async move {
            let mut peer = peer;
            if proxied {
                match tokio::time::timeout(PROXY_TIME, proxy_header(&mut stream)).await {
                    Ok(Some(caller)) => peer = caller.unwrap_or(peer),
                    _ => return tracing::debug!("no PROXY protocol header from {peer}: closed"),
                }
            }
            server.serve(stream, Rc::new(Connection::new(peer, listener.tls, port)), tls).await;
            drop(held);
        });
    }
}

/// Takes the header off the connection; none is a connection to be closed.
async fn proxy_header(stream: &mut TcpStream) -> Option<Option<SocketAddr>> {
    let mut bytes = vec![0; PROXY_BYTES];
    let mut seen = 0;
    loop {
        let n = stream.peek(&mut bytes).await.ok()?;
        match proxy_protocol::parse(bytes.get(..n)?) {
            Parsed::Header { length, caller } => {
                stream.read_exact(bytes.get_mut(..length)?).await.ok()?;
                return Some(caller);
            }
            Parsed::Malformed => return None,
            Parsed::Incomplete if n == 0 => return None,
            // What was looked at stays in the socket, which is readable all the time: look again a little later.
            Parsed::Incomplete => {
                let pause = if n > seen { 1 } else { 20 };
                seen = n;
                tokio::time::sleep(Duration::from_millis(pause)).await;
            }
        }
    }
}
