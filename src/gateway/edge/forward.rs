//! Sends a request to one of its backend's upstreams, and to another one when the first did not take it.
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderName;
use http::header::HeaderValue;

use crate::gateway::backends::{Backend, Place, Protocol, Upstream};
use crate::gateway::edge::caller;
use crate::gateway::live::Live;
use crate::http::cause::Cause;
use crate::http::dial::Tls;
use crate::http::pools::Pools;
use crate::http::proxy::{Failure, Prepared, Replay, unreached};
use crate::http::{Request, Response};

/// How often a request that nobody took is sent to another upstream.
const TRIES: usize = 3;
/// How long an upstream that did not take a connection is asked last.
const ASIDE: Duration = Duration::from_secs(5);
/// How long a name that was looked up is taken for known (Envoy's `dns_refresh_rate`).
const NAME_TIME: Duration = Duration::from_secs(5);

/// Milliseconds until the upstream's response began.
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// Connections of one worker to upstreams, and what it knows of them.
pub struct Upstreams {
    live: Arc<Live>,
    pools: Rc<Pools>,
    next: Cell<usize>,
    aside: RefCell<HashMap<SocketAddr, Instant>>,
    names: RefCell<HashMap<Arc<str>, (Instant, std::net::IpAddr)>>,
}

impl Upstreams {
    /// Upstreams over `pools`. Workers begin at different ones.
    #[must_use]
    pub fn new(live: Arc<Live>, pools: Rc<Pools>, worker: usize) -> Self {
        let next = Cell::new(worker.wrapping_mul(7919));
        Self { live, pools, next, aside: RefCell::default(), names: RefCell::default() }
    }

    /// Sends a request on. Notes where it went in `went`.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send(
        &self,
        mut request: Request,
        backend: &Backend,
        random: impl FnMut() -> u32,
        went: &Cell<Option<SocketAddr>>,
    ) -> Result<Response, Cause> {
        let settings = self.live.settings.load();
        let forwarded_for = caller::describe(&mut request.head.headers, &request.call.connection, &settings, random);
        let mut prepared = Prepared::with(request, Replay::Idempotent, forwarded_for)?;
        let state = Arc::clone(&backend.state());
        let candidates = self.candidates(&state.place).await?;
        // Nothing but HTTP/1.1 carries an upgrade to servers that don't know extended CONNECT.
        let h2 = state.protocol == Protocol::Http2 && !prepared.is_upgrade();
        let mut last = Cause::NoUpstream("no_endpoints");
        let began = Instant::now();
        for upstream in candidates.iter().take(TRIES) {
            let tls = upstream.expected.clone().map(|expected| Tls {
                connector: self.live.connector.clone(),
                trust: self.live.trust.clone(),
                expected,
            });
            went.set(Some(upstream.address));
            let pool = self.pools.pool(upstream.address, tls.as_ref());
            match prepared.send_over(&pool, h2).await {
                Ok(mut response) => {
                    let time = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
                    response.headers_mut().insert(SERVICE_TIME, HeaderValue::from(time));
                    if !self.aside.borrow().is_empty() {
                        self.aside.borrow_mut().remove(&upstream.address);
                    }
                    return Ok(response);
                }
                Err(Failure::Lost(_, cause) | Failure::Taken(cause)) => return Err(at_the_edge(cause)),
                Err(Failure::Unreached(unsent, error)) => {
                    tracing::debug!(upstream = %upstream.address, %error, "an upstream took no connection");
                    self.aside.borrow_mut().insert(upstream.address, Instant::now() + ASIDE);
                    last = at_the_edge(unreached(error));
                    prepared = *unsent;
                }
            }
        }
        Err(last)
    }

    /// Forgets upstreams that were put aside long ago, and idle connections. To be called each second or so.
    pub fn sweep(&self, now: Instant) {
        self.aside.borrow_mut().retain(|_, until| *until > now);
        self.names.borrow_mut().retain(|_, (until, _)| *until > now);
        self.pools.sweep(now);
    }

    /// The upstreams in the order in which they are tried: round robin, those put aside last.
    async fn candidates(&self, place: &Place) -> Result<Vec<Upstream>, Cause> {
        match place {
            Place::NoService => Err(Cause::NoUpstream("no_service")),
            Place::Addresses(all) if all.is_empty() => Err(Cause::NoUpstream("no_endpoints")),
            Place::Addresses(all) => {
                let start = self.next.get();
                self.next.set(start.wrapping_add(1));
                let round = all.iter().cycle().skip(start % all.len()).take(all.len());
                let aside = self.aside.borrow();
                if aside.is_empty() {
                    return Ok(round.take(TRIES).cloned().collect());
                }
                let (put_aside, good): (Vec<_>, Vec<_>) = round.partition(|u| aside.contains_key(&u.address));
                Ok(good.into_iter().chain(put_aside).take(TRIES).cloned().collect())
            }
            Place::Name(name, port) => {
                let ip = self.look_up(name).await?;
                Ok(vec![Upstream { address: SocketAddr::new(ip, *port), expected: None }])
            }
        }
    }

    /// The connections.
    #[must_use]
    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    /// The first address of a name, for five seconds.
    ///
    /// # Errors
    /// It has none.
    pub async fn look_up(&self, name: &Arc<str>) -> Result<std::net::IpAddr, Cause> {
        let now = Instant::now();
        if let Some((until, ip)) = self.names.borrow().get(name)
            && *until > now
        {
            return Ok(*ip);
        }
        let found = tokio::net::lookup_host((&**name, 0)).await;
        let first = found.map_err(at_lookup)?.next().ok_or(Cause::NoUpstream("name_unknown"))?;
        self.names.borrow_mut().insert(name.clone(), (now + NAME_TIME, first.ip()));
        Ok(first.ip())
    }
}

fn at_lookup(error: std::io::Error) -> Cause {
    Cause::Unavailable(Box::new(Cause::UpstreamRefused(error)))
}

/// A sidecar says 502 when its application fails; from an edge callers expect 503 (Envoy).
fn at_the_edge(cause: Cause) -> Cause {
    match cause.status() {
        http::StatusCode::BAD_GATEWAY if !matches!(cause, Cause::Connect | Cause::RequestBody(_)) => {
            Cause::Unavailable(Box::new(cause))
        }
        _ => cause,
    }
}
